"""Registry of the backbones. To add a backbone, add a file to this folder and an entry to `BACKBONES`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from cspdet.config.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from cspdet.structures import Features, FeatureSpec

_CONFIG = "cspdet.models.backbones.config"

BACKBONES = Registry(
    "backbone",
    {
        "cspdarknet53": f"{_CONFIG}:CSPDarknet53Config",
        "cspdensebref": f"{_CONFIG}:CSPReferenceConfig",
        "cspdenseref": f"{_CONFIG}:CSPReferenceConfig",
        "cspmobilenetv2": f"{_CONFIG}:MobileNetV2Config",
        "csppeleebref": f"{_CONFIG}:CSPReferenceConfig",
        "csppeleenet": f"{_CONFIG}:CSPPeleeNetConfig",
        "csppeleeref": f"{_CONFIG}:CSPReferenceConfig",
        "cspresnet10": f"{_CONFIG}:CSPResNet10Config",
        "cspresnet50": f"{_CONFIG}:CSPResNetConfig",
        "cspresnext50": f"{_CONFIG}:CSPResNetConfig",
        "darknet53": f"{_CONFIG}:Darknet53Config",
        "darknetref": f"{_CONFIG}:DarknetReferenceConfig",
        "mobilenetv2": f"{_CONFIG}:MobileNetV2Config",
        "peleenet": f"{_CONFIG}:PeleeNetConfig",
        "resnet10": f"{_CONFIG}:ResNetConfig",
        "resnet50": f"{_CONFIG}:ResNetConfig",
        "resnext50": f"{_CONFIG}:ResNetConfig",
        "timm": f"{_CONFIG}:TimmConfig",
    },
    prefixes=("timm",),
)


class Backbone(Protocol):
    """Interface of backbones: (B, 3, H, W) -> feature maps, finest first; `out_specs` has channels and strides."""

    out_specs: tuple[FeatureSpec, ...]

    def __call__(self, image: Tensor) -> Features: ...
