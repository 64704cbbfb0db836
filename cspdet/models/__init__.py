"""Networks: configs that build them, and the modules they build."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from cspdet.config.loader import parse_config
from cspdet.models.backbones import Backbone, BackboneConfig
from cspdet.models.backbones.timm_backbone import load_pretrained
from cspdet.models.classifier import Classifier, ClassifierConfig
from cspdet.models.detector import Detector, DetectorConfig

__all__ = ["Classifier", "ClassifierConfig", "Detector", "DetectorConfig", "build_backbone"]


class _BackboneOnly(BaseModel):
    backbone: BackboneConfig


def build_backbone(name: str, **options: Any) -> Backbone:
    """A backbone by name, with the options of its config: `build_backbone("csppeleenet", gamma=0.25)`.

    Raises:
        ConfigError: no such backbone or option, or a backbone of timm that cannot be had.
    """
    values = {"backbone": {"name": name, **options}}
    backbone = parse_config(values, _BackboneOnly, "build_backbone").backbone.build()
    load_pretrained(backbone)
    return backbone
