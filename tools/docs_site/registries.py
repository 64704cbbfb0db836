"""Reference of the registries: the names of every component that a config key or a flag selects."""

from __future__ import annotations

import inspect

from cspdet.config.registry import Registry
from cspdet.datasets.config import AUGMENTATIONS
from cspdet.datasets.formats.base import DATASET_FORMATS
from cspdet.exporters.base import EXPORT_FORMATS
from cspdet.inference.engines.registry import ENGINES
from cspdet.models.backbones import BACKBONES
from cspdet.models.necks import NECKS
from cspdet.training.assigners import ASSIGNERS
from cspdet.training.loggers import LOGGERS
from cspdet.training.losses import LOSSES
from docs_site.markdown import code, page, table, text

TEXT = """
# Registries

Each table lists the built-in names of one kind of component. Instead of a name, `module:Class` selects a class of your
own: [Add your own component](../how-to/extend.md). `Registry.names()` returns the names in Python.
"""
REGISTRIES: dict[str, tuple[Registry, str, str]] = {
    "Backbones": (BACKBONES, "cspdet.models.backbones.BACKBONES", "key `model.backbone`"),
    "Necks": (NECKS, "cspdet.models.necks.NECKS", "key `model.neck`"),
    "Assigners": (ASSIGNERS, "cspdet.training.assigners.ASSIGNERS", "key `train.assigner`"),
    "Losses": (LOSSES, "cspdet.training.losses.LOSSES", "key `train.loss`"),
    "Loggers": (LOGGERS, "cspdet.training.loggers.LOGGERS", "key `train.loggers`"),
    "Augmentations": (AUGMENTATIONS, "cspdet.datasets.config.AUGMENTATIONS", "key `train.augment.transforms`"),
    "Dataset formats": (
        DATASET_FORMATS,
        "cspdet.datasets.formats.base.DATASET_FORMATS",
        "key `format` of a data descriptor, `prepare-data convert --format`",
    ),
    "Export formats": (EXPORT_FORMATS, "cspdet.exporters.base.EXPORT_FORMATS", "`export --format`"),
    "Engines": (ENGINES, "cspdet.inference.engines.registry.ENGINES", "`--backend` of detect, eval, benchmark"),
}


def registry_page() -> str:
    """Return the page of the registries."""
    parts = [TEXT]
    for title, (registry, variable, selected_by) in REGISTRIES.items():
        rows = [(code(name), code(_class_name(registry, name)), _summary(registry.get(name)))
                for name in registry.names()]  # fmt: skip
        parts += [f"## {title}", f"{code(variable)}, selected by {selected_by}.", table(("name", "class", "use"), rows)]
    return page(*parts)


def _class_name(registry: Registry, name: str) -> str:
    return str(registry.get(name).__name__)


def _summary(component: type) -> str:
    """Return the first sentence of a class's docstring."""
    return text((inspect.getdoc(component) or "").split("\n\n")[0])
