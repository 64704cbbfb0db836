"""Configs of the built-in backbones. This module does not import torch; `build` imports the network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from cspdet.models.base_config import TIMM_PREFIX, ActivationName, BackboneConfigBase, Fusion

if TYPE_CHECKING:
    from cspdet.models.backbones.csp_reference import CSPReference
    from cspdet.models.backbones.csppeleenet import CSPPeleeNet
    from cspdet.models.backbones.cspresnet import CSPResNet
    from cspdet.models.backbones.cspresnet10 import CSPResNet10
    from cspdet.models.backbones.darknet53 import CSPDarknet53, Darknet53
    from cspdet.models.backbones.darknet_reference import DarknetReference
    from cspdet.models.backbones.mobilenetv2 import CSPMobileNetV2, MobileNetV2
    from cspdet.models.backbones.peleenet import PeleeNet
    from cspdet.models.backbones.resnet import ResNet
    from cspdet.models.backbones.timm_backbone import TimmBackbone

NAME = "Name of the network."
ACTIVATION = "Activation after each convolution with batch normalization; the published networks use leaky ReLU."
FUSION = "Transitions of a cross stage partial stage: both, fusion first, fusion last or none (CSPNet, figure 3)."


class CSPDarknet53Config(BackboneConfigBase):
    """Config of the CSPDarknet-53 backbone."""

    name: Literal["cspdarknet53"] = Field(description=NAME)
    fusion: Fusion = Field("both", description=FUSION)
    activation: ActivationName = Field("leaky", description=ACTIVATION)
    elastic: bool = Field(False, description="Run half of every block's channels at half the resolution.")

    def build(self) -> CSPDarknet53:
        """Build the network."""
        from cspdet.models.backbones.darknet53 import CSPDarknet53

        return CSPDarknet53(self)


class Darknet53Config(BackboneConfigBase):
    """Config of the Darknet-53 backbone, with the published depths and widths."""

    name: Literal["darknet53"] = Field(description=NAME)
    activation: ActivationName = Field("leaky", description=ACTIVATION)

    def build(self) -> Darknet53:
        """Build the network."""
        from cspdet.models.backbones.darknet53 import Darknet53

        return Darknet53(self)


class CSPPeleeNetConfig(BackboneConfigBase):
    """Config of the CSPPeleeNet backbone."""

    name: Literal["csppeleenet"] = Field(description=NAME)
    gamma: float = Field(0.5, gt=0, lt=1, description="Fraction of the channels that bypasses each dense block.")
    fusion: Fusion = Field("both", description=FUSION)
    activation: ActivationName = Field("leaky", description=ACTIVATION)
    se: bool = Field(False, description="Add squeeze-and-excitation to the outputs of each dense layer.")

    def build(self) -> CSPPeleeNet:
        """Build the network."""
        from cspdet.models.backbones.csppeleenet import CSPPeleeNet

        return CSPPeleeNet(self)


class CSPReferenceConfig(BackboneConfigBase):
    """Config of the four CSP Reference backbones, one for each row of the published table."""

    name: Literal["cspdenseref", "cspdensebref", "csppeleeref", "csppeleebref"] = Field(
        description="Name of the network; `b` means with a bottleneck."
    )
    activation: ActivationName = Field("leaky", description=ACTIVATION)

    @property
    def two_way(self) -> bool:
        """True for PeleeNet's two-way dense layers, False for DenseNet's dense layers."""
        return self.name.startswith("csppelee")

    @property
    def bottleneck(self) -> bool:
        """True if each dense layer begins with a 1x1 convolution."""
        return self.name.endswith("bref")

    def build(self) -> CSPReference:
        """Build the network."""
        from cspdet.models.backbones.csp_reference import CSPReference

        return CSPReference(self)


class CSPResNetConfig(BackboneConfigBase):
    """Config of the CSPResNet-50 and CSPResNeXt-50 backbones."""

    name: Literal["cspresnet50", "cspresnext50"] = Field(description=NAME)
    fusion: Fusion = Field("both", description=FUSION)
    activation: ActivationName = Field("leaky", description=ACTIVATION)
    elastic: bool = Field(False, description="Run half of every bottleneck's channels at half the resolution.")

    def build(self) -> CSPResNet:
        """Build the network."""
        from cspdet.models.backbones.cspresnet import CSPResNet

        return CSPResNet(self)


class CSPResNet10Config(BackboneConfigBase):
    """Config of the CSPResNet-10 backbone; the channels of the feature maps do not depend on `fusion`."""

    name: Literal["cspresnet10"] = Field(description=NAME)
    fusion: Fusion = Field("both", description=FUSION)
    activation: ActivationName = Field("leaky", description=ACTIVATION)

    def build(self) -> CSPResNet10:
        """Build the network."""
        from cspdet.models.backbones.cspresnet10 import CSPResNet10

        return CSPResNet10(self)


class DarknetReferenceConfig(BackboneConfigBase):
    """Config of the Darknet Reference backbone, and of the backbones of YOLOv3-tiny and YOLOv3-tiny-PRN."""

    name: Literal["darknetref"] = Field(description=NAME)
    last_stride: Literal[32, 64] = Field(64, description="Stride of the last 3x3 convolution, in input pixels.")
    channels: int = Field(1024, ge=1, description="Output channels of the last 3x3 convolution.")
    residual: bool = Field(
        False, description="Add the input of the last pool to the output of the last convolution; needs last_stride 32."
    )
    activation: ActivationName = Field("leaky", description=ACTIVATION)

    @model_validator(mode="after")
    def _check_residual(self) -> DarknetReferenceConfig:
        if self.residual and self.last_stride != 32:
            raise ValueError("residual: needs last_stride 32, with which the last pool keeps the size")
        return self

    def build(self) -> DarknetReference:
        """Build the network."""
        from cspdet.models.backbones.darknet_reference import DarknetReference

        return DarknetReference(self)


class MobileNetV2Config(BackboneConfigBase):
    """Config of MobileNetV2 and CSPMobileNetV2, with the widths and depths of the CSPNet authors' cfgs."""

    name: Literal["mobilenetv2", "cspmobilenetv2"] = Field(description=NAME)
    activation: ActivationName = Field(
        "relu", description="Activation after each convolution with batch normalization, except linear ones."
    )

    def build(self) -> MobileNetV2 | CSPMobileNetV2:
        """Build the network."""
        from cspdet.models.backbones.mobilenetv2 import CSPMobileNetV2, MobileNetV2

        return MobileNetV2(self) if self.name == "mobilenetv2" else CSPMobileNetV2(self)


class PeleeNetConfig(BackboneConfigBase):
    """Config of the PeleeNet backbone, with the published depths and widths."""

    name: Literal["peleenet"] = Field(description=NAME)
    activation: ActivationName = Field("leaky", description=ACTIVATION)

    def build(self) -> PeleeNet:
        """Build the network."""
        from cspdet.models.backbones.peleenet import PeleeNet

        return PeleeNet(self)


class ResNetConfig(BackboneConfigBase):
    """Config of the ResNet-10, ResNet-50 and ResNeXt-50 backbones, with the published depths and widths."""

    name: Literal["resnet10", "resnet50", "resnext50"] = Field(description=NAME)
    activation: ActivationName = Field("leaky", description=ACTIVATION)

    def build(self) -> ResNet:
        """Build the network."""
        from cspdet.models.backbones.resnet import ResNet

        return ResNet(self)


class TimmConfig(BackboneConfigBase):
    """Config of a timm backbone; `name: timm:MODEL` is short for `name: timm` and `model: MODEL`."""

    name: Literal["timm"] = Field(description="`timm`, or `timm:MODEL`.")
    model: str = Field(min_length=1, description="Name of the model in timm, with or without a tag of weights.")
    pretrained: bool = Field(
        False, description="Start from timm's pretrained weights, which are downloaded and cached by its hub client."
    )

    @model_validator(mode="before")
    @classmethod
    def _expand_name(cls, values: Any) -> Any:
        return expand_timm_name(values)

    def build(self) -> TimmBackbone:
        """Build the network with random weights; `load_pretrained` loads the pretrained weights.

        Raises:
            ConfigError: timm is not installed, has no such model, or the model has no maps of stride 8, 16 or 32.
        """
        from cspdet.models.backbones.timm_backbone import TimmBackbone

        return TimmBackbone(self)


def expand_timm_name(value: Any) -> Any:
    """Convert `{"name": "timm:X", ...}` to `{"name": "timm", "model": "X", ...}`; return other values unchanged.

    Raises:
        ValueError: The value has a `model` key in addition to the model in `name`.
    """
    name = value.get("name") if isinstance(value, dict) else None
    if not isinstance(name, str) or not name.startswith(TIMM_PREFIX):
        return value
    if "model" in value:
        raise ValueError("model: already given by the name; remove one of them")
    return {**value, "name": "timm", "model": name.removeprefix(TIMM_PREFIX)}
