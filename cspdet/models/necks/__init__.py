"""Every neck there is. A new one is a file here, and its config added to `NeckConfig`."""

from __future__ import annotations

from typing import Protocol

from cspdet.models.necks.efm import EFMConfig
from cspdet.types import Features, FeatureSpec

NeckConfig = EFMConfig


class Neck(Protocol):
    """Feature maps -> feature maps, finest first; built from the backbone's `out`, declares its own."""

    out: tuple[FeatureSpec, ...]

    def __call__(self, features: Features) -> Features: ...
