"""Registry of the necks. To add a neck, add a file to this folder and an entry to `NECKS`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from cspdet.config.registry import Registry

if TYPE_CHECKING:
    from cspdet.structures import Features, FeatureSpec

_CONFIG = "cspdet.models.necks.config"

NECKS = Registry(
    "neck",
    {
        "cem": f"{_CONFIG}:CEMConfig",
        "efm": f"{_CONFIG}:EFMConfig",
        "fpn": f"{_CONFIG}:FPNConfig",
        "gfm": f"{_CONFIG}:GFMConfig",
        "panet_spp": f"{_CONFIG}:PANetSPPConfig",
        "prn": f"{_CONFIG}:PRNConfig",
        "yolov3": f"{_CONFIG}:YOLOv3Config",
        "yolov3_light": f"{_CONFIG}:YOLOv3LightConfig",
        "yolov3_tiny": f"{_CONFIG}:YOLOv3TinyConfig",
    },
)


class Neck(Protocol):
    """Interface of necks: feature maps -> feature maps, finest first; `out_specs` has channels and strides."""

    out_specs: tuple[FeatureSpec, ...]

    def __call__(self, features: Features) -> Features: ...
