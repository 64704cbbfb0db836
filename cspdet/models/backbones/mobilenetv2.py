"""MobileNetV2 (Sandler et al. 2018) and its CSP version, as in mobilenet-v2.cfg and csmobilenet-v2.cfg.

    mobilenetv2: inverted residuals, 1x1 to 6 times the channels ─ depthwise 3x3 ─ linear 1x1, in stages of
        16 (stride 2), 24 (4), 32 and 64 (8: C3), 96 (16: C4), 160 and 320 (32), then 1x1 to 1280 (C5)

    cspmobilenetv2, a stage:
        x ──┬── depthwise 3x3 ──────────────────────────────────────────────────────┐
            │                                                                       concat ── T2, 1x1
            └── 3x3 to twice the channels, linear 1x1 ── inverted residuals ────────┘
        T2 has 48 (stride 2), 72 (4), 192 (8: C3), 288 (16: C4), 640 (32: C5)

T2 is the convolution after the concatenation (see `cspdet.models.csp`). T2 replaces the 1x1 expansion of the first
inverted residual of the next stage. The factor of this expansion is 3; in MobileNetV2, it is 6. The depthwise
convolutions of the body double the number of channels. There is no convolution before the concatenation (T1).

As a classifier at 224x224, mobilenetv2 has 3,470,784 convolution and fc weights (published 3.47M) and 0.8582 BFLOPs
(published 0.858). cspmobilenetv2 has 2,513,400 weights (published 2.51M) and 0.7636 BFLOPs (published 0.764).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor, nn

from cspdet.models.backbones.config import MobileNetV2Config
from cspdet.models.base_config import ActivationName
from cspdet.models.blocks import ConvBN, shortcut
from cspdet.models.csp import CSPStage
from cspdet.structures import Features, FeatureSpec

STEM_CHANNELS = 32
EXPANSION = 6  # channels of the depthwise convolution / input channels of the block
LAST_CHANNELS = 1280


class StageSpec(NamedTuple):
    """Parameters of a stage, which is a sequence of inverted residuals."""

    widths: tuple[int, ...]  # output channels of each block
    stride: int  # stride of the first block


# As in the cfgs, the blocks with 64 channels are at stride 8; in the paper they are at stride 16.
STAGES = (
    StageSpec((24, 24), 2),
    StageSpec((32, 32, 32, 64, 64, 64, 64), 2),
    StageSpec((96, 96, 96), 2),
    StageSpec((160, 160, 160, 320), 2),
)
FIRST_CHANNELS = 16  # output channels of the inverted residual at stride 2, which has no expansion
FINAL_TRANSITION_CHANNELS = (72, 192, 288, 640)  # output channels of T2, for each of STAGES


class InvertedResidual(nn.Module):
    """Inverted residual: 1x1 expansion, grouped 3x3 convolution, linear 1x1 convolution.

    (B, c_in, H, W) -> (B, c_out, H/stride, W/stride). If `expand_channels` is None, the input is already expanded:
    there is no 1x1 expansion and no residual sum. Otherwise, the input is added to the output if their shapes are
    equal.
    """

    def __init__(
        self,
        c_in: int,
        expand_channels: int | None,
        depthwise_channels: int,
        c_out: int,
        stride: int,
        act: ActivationName,
    ):
        super().__init__()
        self.expand = nn.Identity() if expand_channels is None else ConvBN(c_in, expand_channels, act=act)
        groups = c_in if expand_channels is None else expand_channels
        self.depthwise = ConvBN(groups, depthwise_channels, 3, stride, groups=groups, act=act)
        self.project = ConvBN(depthwise_channels, c_out, act="linear")
        self.residual = stride == 1 and c_in == c_out and expand_channels is not None

    def forward(self, x: Tensor) -> Tensor:
        projected = self.project(self.depthwise(self.expand(x)))
        return shortcut(projected, x) if self.residual else projected


class DepthwiseSplit(nn.Module):
    """Split of a stage: (B, C, H, W) -> shortcut (B, C_s, H/stride, W/stride), main (B, C, H, W).

    The shortcut part is a grouped 3x3 convolution with 1 or 2 input channels per group. The main part is the input.
    """

    def __init__(self, c_in: int, shortcut_channels: int, stride: int, act: ActivationName):
        super().__init__()
        self.short_conv = ConvBN(c_in, shortcut_channels, 3, stride, groups=shortcut_channels, act=act)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.short_conv(x), x


class MobileNetV2(nn.Module):
    """MobileNetV2 backbone: (B, 3, H, W) -> three feature maps of strides 8, 16 and 32, finest first.

    H and W are multiples of 32.
    """

    def __init__(self, config: MobileNetV2Config):
        super().__init__()
        act = config.activation
        self.stem = nn.Sequential(
            ConvBN(3, STEM_CHANNELS, 3, 2, act=act),
            InvertedResidual(STEM_CHANNELS, STEM_CHANNELS, STEM_CHANNELS, FIRST_CHANNELS, 1, act),
        )
        self.stages, c_in = nn.ModuleList(), FIRST_CHANNELS
        for stage in STAGES:
            self.stages.append(nn.Sequential(*self._blocks(c_in, stage, act)))
            c_in = stage.widths[-1]
        self.last = ConvBN(c_in, LAST_CHANNELS, act=act)
        self.out_specs: tuple[FeatureSpec, ...] = (
            FeatureSpec(64, 8),
            FeatureSpec(96, 16),
            FeatureSpec(LAST_CHANNELS, 32),
        )

    @staticmethod
    def _blocks(c_in: int, stage: StageSpec, act: ActivationName) -> Iterator[InvertedResidual]:
        for i, c_out in enumerate(stage.widths):
            expand_channels = EXPANSION * c_in
            yield InvertedResidual(c_in, expand_channels, expand_channels, c_out, stage.stride if i == 0 else 1, act)
            c_in = c_out

    def forward(self, image: Tensor) -> Features:
        """Return the feature maps, finest first."""
        c2 = self.stages[0](self.stem(image))
        c3 = self.stages[1](c2)
        c4 = self.stages[2](c3)
        return c3, c4, self.last(self.stages[3](c4))


class CSPMobileNetV2(nn.Module):
    """CSPMobileNetV2 backbone: (B, 3, H, W) -> three feature maps of strides 8, 16 and 32, finest first.

    H and W are multiples of 32.
    """

    def __init__(self, config: MobileNetV2Config):
        super().__init__()
        act = config.activation
        self.stem = ConvBN(3, STEM_CHANNELS, 3, 2, act=act)
        first = InvertedResidual(STEM_CHANNELS, STEM_CHANNELS, STEM_CHANNELS, FIRST_CHANNELS, 1, act)
        c_in = EXPANSION // 2 * FIRST_CHANNELS
        split = DepthwiseSplit(STEM_CHANNELS, FIRST_CHANNELS, 1, act)
        final_transition = ConvBN(2 * FIRST_CHANNELS, c_in, act=act)
        self.stages = nn.ModuleList([CSPStage(split, first, nn.Identity(), final_transition)])
        for stage, c_out in zip(STAGES, FINAL_TRANSITION_CHANNELS, strict=True):
            split = DepthwiseSplit(c_in, c_in, stage.stride, act)
            body = nn.Sequential(*self._blocks(c_in, stage, act))
            final_transition = ConvBN(stage.widths[-1] + c_in, c_out, act=act)
            self.stages.append(CSPStage(split, body, nn.Identity(), final_transition))
            c_in = c_out
        self.out_specs = tuple(
            FeatureSpec(c, stride) for c, stride in zip(FINAL_TRANSITION_CHANNELS[1:], (8, 16, 32), strict=True)
        )

    @staticmethod
    def _blocks(c_in: int, stage: StageSpec, act: ActivationName) -> Iterator[InvertedResidual]:
        """Yield the blocks of a stage. The first has no 1x1 expansion, because T2 of the previous stage replaces it."""
        yield InvertedResidual(c_in, None, 2 * c_in, stage.widths[0], stage.stride, act)
        for before, c_out in zip(stage.widths, stage.widths[1:], strict=False):
            yield InvertedResidual(before, EXPANSION // 2 * before, EXPANSION * before, c_out, 1, act)

    def forward(self, image: Tensor) -> Features:
        """Return the feature maps, finest first."""
        c2 = self.stages[1](self.stages[0](self.stem(image)))
        c3 = self.stages[2](c2)
        c4 = self.stages[3](c3)
        return c3, c4, self.stages[4](c4)
