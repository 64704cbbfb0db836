"""Every backbone there is. A new one is a file here, and its config added to `BackboneConfig`."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from cspdet.models.backbones.csppeleenet import CSPPeleeNetConfig
from cspdet.types import Features, FeatureSpec

BackboneConfig = CSPPeleeNetConfig


class Backbone(Protocol):
    """(B, 3, H, W) -> feature maps, finest first; `out` declares their channels and strides."""

    out: tuple[FeatureSpec, ...]

    def __call__(self, image: Tensor) -> Features: ...
