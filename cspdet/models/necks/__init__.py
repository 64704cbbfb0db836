"""Every neck there is. A new one is a file here, and its config added to `NeckConfig`."""

from __future__ import annotations

from typing import Annotated, Protocol

from pydantic import Field

from cspdet.models.necks.cem import CEMConfig
from cspdet.models.necks.efm import EFMConfig
from cspdet.models.necks.fpn import FPNConfig
from cspdet.models.necks.gfm import GFMConfig
from cspdet.models.necks.panet_spp import PANetSPPConfig
from cspdet.models.necks.prn import PRNConfig
from cspdet.models.necks.yolov3 import YOLOv3Config
from cspdet.models.necks.yolov3_light import YOLOv3LightConfig
from cspdet.models.necks.yolov3_tiny import YOLOv3TinyConfig
from cspdet.structures import Features, FeatureSpec

NeckConfig = Annotated[
    CEMConfig
    | EFMConfig
    | FPNConfig
    | GFMConfig
    | PANetSPPConfig
    | PRNConfig
    | YOLOv3Config
    | YOLOv3LightConfig
    | YOLOv3TinyConfig,
    Field(discriminator="name"),
]


class Neck(Protocol):
    """Feature maps -> feature maps, finest first; built from the backbone's `out`, declares its own."""

    out_specs: tuple[FeatureSpec, ...]

    def __call__(self, features: Features) -> Features: ...
