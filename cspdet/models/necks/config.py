"""Configs of the built-in necks. This module does not import torch; `build` imports the neck."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from cspdet.models.base_config import ActivationName, NeckConfigBase
from cspdet.structures import FeatureSpec

if TYPE_CHECKING:
    from cspdet.models.necks.cem import CEM
    from cspdet.models.necks.efm import EFM
    from cspdet.models.necks.fpn import FPN
    from cspdet.models.necks.gfm import GFM
    from cspdet.models.necks.panet_spp import PANetSPP
    from cspdet.models.necks.prn import PRN
    from cspdet.models.necks.yolov3 import YOLOv3Neck
    from cspdet.models.necks.yolov3_light import YOLOv3LightNeck
    from cspdet.models.necks.yolov3_tiny import YOLOv3TinyNeck

NAME = "Name of the neck."
ACTIVATION = "Activation after each convolution with batch normalization."
FINEST_WIDTH = "Channels of the finest scale; each coarser scale has twice as many."
COARSEST_WIDTH = "Channels of the coarsest scale's 1x1 convolutions; each finer scale has half as many."
SAM = "Spatial attention on each scale, before its last convolutions."


class CEMConfig(NeckConfigBase):
    """Config of ThunderNet's Context Enhancement Module; the context map has as many channels as the middle scale."""

    name: Literal["cem"] = Field(description=NAME)
    width: int = Field(64, ge=1, description=FINEST_WIDTH)
    sam: bool = Field(False, description=SAM)
    activation: ActivationName = Field("leaky", description=ACTIVATION)

    def build(self, inputs: tuple[FeatureSpec, ...]) -> CEM:
        """Build the neck."""
        from cspdet.models.necks.cem import CEM

        return CEM(self, inputs)


class EFMConfig(NeckConfigBase):
    """Config of the Exact Fusion Model."""

    name: Literal["efm"] = Field(description=NAME)
    width: int = Field(64, ge=2, multiple_of=2, description=FINEST_WIDTH)
    sam: bool = Field(False, description=SAM)
    spp: bool = Field(False, description="Apply spatial pyramid pooling to the coarsest map, before the fusion.")
    activation: ActivationName = Field("leaky", description=ACTIVATION)

    def build(self, inputs: tuple[FeatureSpec, ...]) -> EFM:
        """Build the neck."""
        from cspdet.models.necks.efm import EFM

        return EFM(self, inputs)


class FPNConfig(NeckConfigBase):
    """Config of the feature pyramid of Pelee-FPN, which has fixed widths."""

    name: Literal["fpn"] = Field(description=NAME)
    activation: ActivationName = Field("leaky", description=ACTIVATION)

    def build(self, inputs: tuple[FeatureSpec, ...]) -> FPN:
        """Build the neck."""
        from cspdet.models.necks.fpn import FPN

        return FPN(self, inputs)


class GFMConfig(NeckConfigBase):
    """Config of the Global Fusion Model; the global map has as many channels as the middle scale."""

    name: Literal["gfm"] = Field(description=NAME)
    width: int = Field(64, ge=1, description=FINEST_WIDTH)
    activation: ActivationName = Field("leaky", description=ACTIVATION)

    def build(self, inputs: tuple[FeatureSpec, ...]) -> GFM:
        """Build the neck."""
        from cspdet.models.necks.gfm import GFM

        return GFM(self, inputs)


class PANetSPPConfig(NeckConfigBase):
    """Config of PANet with spatial pyramid pooling."""

    name: Literal["panet_spp"] = Field(description=NAME)
    width: int = Field(512, ge=4, multiple_of=4, description=COARSEST_WIDTH)
    sam: bool = Field(False, description=SAM)
    activation: ActivationName = Field("leaky", description=ACTIVATION)

    def build(self, inputs: tuple[FeatureSpec, ...]) -> PANetSPP:
        """Build the neck."""
        from cspdet.models.necks.panet_spp import PANetSPP

        return PANetSPP(self, inputs)


class PRNConfig(NeckConfigBase):
    """Config of the partial residual network."""

    name: Literal["prn"] = Field(description=NAME)
    scales: Literal[2, 3] = Field(2, description="Number of scales: 2 for PRN, 3 for PRN-3l.")
    activation: ActivationName = Field("leaky", description=ACTIVATION)

    def build(self, inputs: tuple[FeatureSpec, ...]) -> PRN:
        """Build the neck."""
        from cspdet.models.necks.prn import PRN

        return PRN(self, inputs)


class YOLOv3Config(NeckConfigBase):
    """Config of YOLOv3's neck."""

    name: Literal["yolov3"] = Field(description=NAME)
    width: int = Field(512, ge=4, multiple_of=4, description=COARSEST_WIDTH)
    activation: ActivationName = Field("leaky", description=ACTIVATION)

    def build(self, inputs: tuple[FeatureSpec, ...]) -> YOLOv3Neck:
        """Build the neck."""
        from cspdet.models.necks.yolov3 import YOLOv3Neck

        return YOLOv3Neck(self, inputs)


class YOLOv3LightConfig(NeckConfigBase):
    """Config of the neck of Pelee-YOLOv3, which has two scales and fixed widths."""

    name: Literal["yolov3_light"] = Field(description=NAME)
    activation: ActivationName = Field("leaky", description=ACTIVATION)

    def build(self, inputs: tuple[FeatureSpec, ...]) -> YOLOv3LightNeck:
        """Build the neck."""
        from cspdet.models.necks.yolov3_light import YOLOv3LightNeck

        return YOLOv3LightNeck(self, inputs)


class YOLOv3TinyConfig(NeckConfigBase):
    """Config of YOLOv3-tiny's neck, which has the widths of the cfg."""

    name: Literal["yolov3_tiny"] = Field(description=NAME)
    activation: ActivationName = Field("leaky", description=ACTIVATION)

    def build(self, inputs: tuple[FeatureSpec, ...]) -> YOLOv3TinyNeck:
        """Build the neck."""
        from cspdet.models.necks.yolov3_tiny import YOLOv3TinyNeck

        return YOLOv3TinyNeck(self, inputs)
