"""Networks as torch modules, and the configs that build them. Importing this package does not import torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cspdet.models.backbones import Backbone
    from cspdet.models.classifier import Classifier
    from cspdet.models.config import ClassifierConfig, DetectorConfig
    from cspdet.models.detector import Detector

__all__ = ["Classifier", "ClassifierConfig", "Detector", "DetectorConfig", "build_backbone"]

_MODULES = {
    "Classifier": "cspdet.models.classifier",
    "ClassifierConfig": "cspdet.models.config",
    "Detector": "cspdet.models.detector",
    "DetectorConfig": "cspdet.models.config",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def build_backbone(name: str, **options: Any) -> Backbone:
    """Build a backbone by name: `build_backbone("csppeleenet", gamma=0.25)`.

    Args:
        name: A name in `BACKBONES`, `timm:MODEL`, or `module:Class`.
        options: Keys of the backbone's config.

    Raises:
        ConfigError: The backbone or an option does not exist, or a timm backbone is not available.
    """
    from cspdet.config.loader import parse_config
    from cspdet.config.user_modules import allow_user_modules
    from cspdet.models.backbones import BACKBONES
    from cspdet.models.backbones.timm_backbone import load_pretrained
    from cspdet.models.base_config import BackboneConfigBase

    with allow_user_modules():
        config_class = BACKBONES.config_class(name, BackboneConfigBase)
    backbone: Any = parse_config({"name": name, **options}, config_class, "build_backbone").build()
    load_pretrained(backbone)
    return backbone
