"""Reference of the config keys, generated from the pydantic models."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cspdet.config.read import read_yaml
from cspdet.config.registry import Component, Registry
from cspdet.config.schema import union_members
from cspdet.darknet.config import DarknetModelConfig
from cspdet.datasets.config import AlbumentationsTransform, AugmentConfig, ImageAugmentConfig
from cspdet.datasets.descriptor import DescriptorConfig, SplitConfig
from cspdet.datasets.formats.base import DATASET_FORMATS
from cspdet.models.config import (
    ClassifierConfig,
    ClassifierEvalConfig,
    DetectorConfig,
    EvalConfig,
    NormalizeConfig,
    YoloHeadConfig,
)
from cspdet.recipe import ClassificationRecipe, DetectionRecipe
from cspdet.training.config import ClassifierTrainConfig, TrainConfig, TrainerConfig
from docs_site.annotations import default_of, type_of, yaml
from docs_site.markdown import code, page, table, text

ROOT = Path(__file__).parents[2]
HEAD = ("key", "type, range, default", "meaning")

INDEX = """
# Config keys

A config is a YAML file. It describes a run: network, input, data, training, evaluation. `cspdet configs` lists the
released ones, and `cspdet configs --copy NAME` writes one to edit.

- A section can be a file: `train: train/recommended.yaml`. Paths are relative to the folder of the file that has them.
- On the command line, `key.path=value` overrides one key, and `train=train/paper.yaml` replaces a section. The value is
  YAML: `train.augment.scale=[0.5,1.5]`, `train.ema=null`.
- An unknown key is an error, and the message suggests the nearest one. Types are strict: `epochs: "50"` is an error.
- A value `name or section` selects a component: `neck: prn`, or `neck: {name: efm, sam: true}`, or a class of your own,
  `module:Class`. [Registries](../registries.md) lists the names.

| page | keys |
|---|---|
| this page | the root of a config, `input`, `eval` |
| [Model](model.md) | `model`: backbones, necks, head |
| [Training](train.md) | `train`: optimizer, schedule, assigner, loss, augmentation |
| [Data descriptor](data.md) | the file that `data` names |
"""
MODEL = """
# Config keys: model

The section `model` of a config. A backbone and a neck have keys of their own, which follow by name.
"""
TRAIN = """
# Config keys: train

The section `train` of a config. *recommended* is the value in `train/recommended.yaml`, the section that most released
detectors use, where it differs from the default; under *of a classifier*, that in `train/classifier_recommended.yaml`.
The other released sections are `train/paper.yaml`, `train/optimal.yaml` and `train/classifier_paper.yaml`.
"""
DATA = """
# Config keys: data descriptor

The YAML file that the key `data` of a config names. Either it has the images and annotations of each split, as COCO
JSON, or it names a `format` and a `source`. Relative paths start at the folder of the descriptor.
"""
SHARED = "The keys of every {kind}; the components that follow list only their other keys."


def config_pages() -> dict[str, str]:
    """Return the pages of the config keys by path below docs/."""
    return {
        "reference/config/index.md": page(INDEX, *_index_sections()),
        "reference/config/model.md": page(MODEL, *_model_sections()),
        "reference/config/train.md": page(TRAIN, *_train_sections()),
        "reference/config/data.md": page(DATA, *_data_sections()),
    }


def _index_sections() -> Iterator[str]:
    yield from section("Root of a detector", DetectionRecipe)
    yield from section("Root of a classifier", ClassificationRecipe)
    yield from section("`input`", DetectionRecipe.model_fields["input"].annotation)
    yield from section("`eval` of a detector", EvalConfig)
    yield from section("`eval` of a classifier", ClassifierEvalConfig)


def _model_sections() -> Iterator[str]:
    yield from section("`model` of a detector", DetectorConfig)
    yield from section("`model` of a classifier", ClassifierConfig)
    yield from section("`model` with `name: darknet`", DarknetModelConfig)
    yield from section("`model.normalize`", NormalizeConfig)
    yield from section("`model.head`", YoloHeadConfig)
    yield from components("`model.backbone`", DetectorConfig.model_fields["backbone"])
    yield from components("`model.neck`", DetectorConfig.model_fields["neck"])


def _train_sections() -> Iterator[str]:
    values = recipe("recommended")
    yield from section("`train`", TrainConfig, values)
    for key in ("optimizer", "schedule", "ema", "multi_scale"):
        annotation = TrainerConfig.model_fields[key].annotation
        yield from section(f"`train.{key}`", annotation, values.get(key) or {})
    yield from components("`train.assigner`", TrainConfig.model_fields["assigner"], values["assigner"])
    yield from components("`train.loss`", TrainConfig.model_fields["loss"], values["loss"])
    yield from section("`train.augment` of a detector", AugmentConfig, values["augment"])
    yield from section("`train.augment.albumentations`", AlbumentationsTransform)
    classifier = recipe("classifier_recommended")
    own = [key for key in ClassifierTrainConfig.model_fields if key not in TrainConfig.model_fields or key == "augment"]
    yield "## `train` of a classifier"
    yield "The keys of `train` above, except `assigner` and `loss`. These are new or different:"
    yield key_table({key: ClassifierTrainConfig.model_fields[key] for key in own}, classifier)
    yield from section("`train.augment` of a classifier", ImageAugmentConfig, classifier["augment"])


def _data_sections() -> Iterator[str]:
    yield from section("Descriptor", DescriptorConfig)
    yield from section("`train`, `val`, `test`", SplitConfig)
    for name in DATASET_FORMATS.names():
        yield from section(f"`format: {name}`", DATASET_FORMATS.get(name))


def recipe(name: str) -> dict[str, Any]:
    """Return the values of a released training section."""
    values: dict[str, Any] = read_yaml(ROOT / f"configs/train/{name}.yaml")[0]
    return values


def model_of(annotation: Any) -> type[BaseModel]:
    """Return the pydantic model of a field that is a section, or a section or null."""
    return next(member for member in union_members(annotation) if typing.get_origin(member) is None
                and isinstance(member, type) and issubclass(member, BaseModel))  # fmt: skip


def section(title: str, annotation: Any, recommended: dict[str, Any] | None = None, level: str = "##") -> Iterator[str]:
    """Yield the heading, the docstring and the table of the keys of a section."""
    model = model_of(annotation)
    yield f"{level} {title}"
    yield text((model.__doc__ or "").split("\n\n")[0])
    yield key_table(dict(model.model_fields), recommended)


def key_table(fields: dict[str, FieldInfo], recommended: dict[str, Any] | None = None) -> str:
    """Return the table of keys, with the values of the section `recommended` that differ from the defaults."""
    values = recommended or {}
    rows = [(code(name), _value(field, values.get(name)), meaning(name, field)) for name, field in fields.items()]
    return table(HEAD, rows)


def _value(field: FieldInfo, recommended: Any) -> str:
    """Return the type, range and default of a key, and the value of a released section if it differs."""
    default = default_of(field)
    lines = [type_of(field), default if field.is_required() else f"default: {default}"]
    if recommended is not None and not isinstance(recommended, dict) and code(yaml(recommended)) != default:
        lines.append(f"recommended: {code(yaml(recommended))}")
    return "<br>".join(lines)


def meaning(name: str, field: FieldInfo) -> str:
    """Return the description of a key.

    Raises:
        ValueError: The key has no description.
    """
    if not field.description:
        raise ValueError(f"{name}: expected Field(description=...), found none")
    return text(field.description)


def components(title: str, field: FieldInfo, recommended: dict[str, Any] | None = None) -> Iterator[str]:
    """Yield the sections of all components of a registry: first the keys that all have, then those of each."""
    component = next(entry for entry in field.metadata if isinstance(entry, Component))
    registry = component.registry
    shared = model_of(field.annotation).model_fields
    yield f"## {title}"
    yield text(f"{field.description} {SHARED.format(kind=registry.kind)}")
    name = shared["name"]
    if component.default is not None:
        name = FieldInfo(annotation=str, default=component.default, description=name.description)
    yield key_table({**shared, "name": name}, recommended)
    for names, model in _classes(registry).items():
        yield f"### {', '.join(map(code, names))}"
        yield text((model.__doc__ or "").split("\n\n")[0])
        own = {key: entry for key, entry in model.model_fields.items() if key not in shared}
        yield key_table(own, recommended)


def _classes(registry: Registry) -> dict[tuple[str, ...], type[BaseModel]]:
    """Return the config class of each component, with all names that select it."""
    by_class: dict[type[BaseModel], list[str]] = {}
    for name in registry.names():
        by_class.setdefault(registry.get(name), []).append(name)
    return {tuple(names): model for model, names in by_class.items()}
