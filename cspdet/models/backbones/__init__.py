"""Every backbone there is. A new one is a file here, and its config added to `BackboneConfig`."""

from __future__ import annotations

from typing import Annotated, Protocol

from pydantic import BeforeValidator, Field
from torch import Tensor

from cspdet.models.backbones.csp_reference import CSPReferenceConfig
from cspdet.models.backbones.csppeleenet import CSPPeleeNetConfig
from cspdet.models.backbones.cspresnet import CSPResNetConfig
from cspdet.models.backbones.cspresnet10 import CSPResNet10Config
from cspdet.models.backbones.darknet53 import CSPDarknet53Config, Darknet53Config
from cspdet.models.backbones.darknet_reference import DarknetReferenceConfig
from cspdet.models.backbones.mobilenetv2 import MobileNetV2Config
from cspdet.models.backbones.peleenet import PeleeNetConfig
from cspdet.models.backbones.resnet import ResNetConfig
from cspdet.models.backbones.timm_backbone import TimmConfig, expand_timm_name
from cspdet.structures import Features, FeatureSpec

BackboneConfig = Annotated[
    CSPDarknet53Config
    | CSPPeleeNetConfig
    | CSPReferenceConfig
    | CSPResNetConfig
    | CSPResNet10Config
    | Darknet53Config
    | DarknetReferenceConfig
    | MobileNetV2Config
    | PeleeNetConfig
    | ResNetConfig
    | TimmConfig,
    Field(discriminator="name"),
    # Behind it values are no longer JSON: strict mode would refuse a list for a tuple, so configs here have no tuples
    BeforeValidator(expand_timm_name),
]


class Backbone(Protocol):
    """(B, 3, H, W) -> feature maps, finest first; `out` declares their channels and strides."""

    out_specs: tuple[FeatureSpec, ...]

    def __call__(self, image: Tensor) -> Features: ...
