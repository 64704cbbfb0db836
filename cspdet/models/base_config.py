"""Base classes of the backbone and neck configs. This module does not import torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from cspdet.config.base import ComponentConfig
from cspdet.structures import FeatureSpec

if TYPE_CHECKING:
    from cspdet.models.backbones import Backbone
    from cspdet.models.necks import Neck

TIMM_PREFIX = "timm:"

ActivationName = Literal["leaky", "relu", "swish", "mish", "sigmoid", "linear"]
Fusion = Literal["both", "first", "last", "none"]  # which transitions a CSP stage has


class BackboneConfigBase(ComponentConfig):
    """Base class of the backbone configs."""

    weights: Path | None = Field(
        None,
        description="Initial weights of the backbone: a checkpoint of a classifier or detector with the same backbone "
        "(.pt), a Darknet classifier's .weights or .conv.N, or `timm:NAME` for a backbone of timm; null: random "
        "weights. Checkpoints contain the trained weights, so this file is only needed at the start of a training.",
    )

    @field_validator("weights")
    @classmethod
    def _strip_dir_from_timm_name(cls, weights: Path | None) -> Path | None:
        """Remove the folder that path resolution added, because the name of a timm model is not a path."""
        return Path(weights.name) if weights is not None and weights.name.startswith(TIMM_PREFIX) else weights

    def build(self) -> Backbone:
        """Build the network with random weights from torch's global random generator."""
        backbone: Backbone = super().build()
        return backbone


class NeckConfigBase(ComponentConfig):
    """Base class of the neck configs."""

    def build(self, inputs: tuple[FeatureSpec, ...]) -> Neck:
        """Build the neck with random weights.

        Args:
            inputs: The feature maps of the backbone, finest first.

        Raises:
            ValueError: The neck cannot use these feature maps.
        """
        neck: Neck = super().build(inputs)
        return neck
