"""Darknet-53 (Redmon and Farhadi 2018, YOLOv3) and CSPDarknet-53.

    stem     3x3 32 ──────────────────────────── stride 1
    stage 1  3x3/2 64 ──── 1 block,   [T2] ───── stride 2
    stage 2  3x3/2 128 ─── 2 blocks,  [T2] ───── stride 4
    stage 3  3x3/2 256 ─── 8 blocks,  [T2] ── C3, stride 8
    stage 4  3x3/2 512 ─── 8 blocks,  [T2] ── C4, stride 16
    stage 5  3x3/2 1024 ── 4 blocks,  [T2] ── C5, stride 32

    CSP      ──┬── 1x1 shortcut ─────────────── concat, T1 first ── 1x1 T2
               └── 1x1 main ── blocks ── 1x1 T1 ──┘

T1 is the convolution before the concatenation, T2 the one after it (see `cspdet.models.csp`).

Sources: the CSPNet authors' darknet53.cfg, csdarknet53.cfg and csdarknet53-elastic.cfg. Each part of a CSP stage has
half of the channels of the stage; in stage 1 each part has all 64 channels. C3, C4 and C5 are layers 36, 61 and 74 of
darknet53.cfg (yolov3.cfg uses layers 36 and 61), and layers 54, 85 and 104 of csdarknet53.cfg. Without T2, the output
of a stage is the concatenation; in stage 1, it has 128 channels instead of 64.

Cost as classifiers of 1000 classes at 256x256:

                             weights      published   BFLOPs    published
    darknet53                41,573,216   41.57M      18.5702   18.57
    cspdarknet53             27,605,856   27.61M      13.0673   13.07
    cspdarknet53, elastic    19,045,216   -            7.7422    7.74
"""

from __future__ import annotations

from torch import Tensor, nn

from cspdet.models.backbones.config import CSPDarknet53Config, Darknet53Config
from cspdet.models.backbones.residual import DarknetResidual, ElasticDarknetResidual
from cspdet.models.blocks import ConvBN
from cspdet.models.csp import ConvSplit, CSPStage, has_final_transition, has_partial_transition
from cspdet.structures import Features, FeatureSpec

STEM_CHANNELS = 32
DEPTHS = (1, 2, 8, 8, 4)  # residual blocks per stage
WIDTHS = (64, 128, 256, 512, 1024)  # channels of a stage
SPLIT_CHANNELS = (64, 64, 128, 256, 512)  # channels of each part of a CSP stage
MID_CHANNELS = (32, 64, 128, 256, 512)  # channels of a block's 1x1 convolution
STRIDES = (8, 16, 32)


class Darknet53(nn.Module):
    """Darknet-53 backbone: (B, 3, H, W) -> three feature maps of strides 8, 16 and 32, finest first.

    H and W are multiples of 32.
    """

    def __init__(self, config: Darknet53Config):
        super().__init__()
        act = config.activation
        self.stem = ConvBN(3, STEM_CHANNELS, 3, act=act)
        self.stages, c_in = nn.ModuleList(), STEM_CHANNELS
        for depth, width, mid_channels in zip(DEPTHS, WIDTHS, MID_CHANNELS, strict=True):
            blocks = (DarknetResidual(width, mid_channels, act) for _ in range(depth))
            self.stages.append(nn.Sequential(ConvBN(c_in, width, 3, 2, act=act), *blocks))
            c_in = width
        self.out_specs = tuple(FeatureSpec(c, stride) for c, stride in zip(WIDTHS[2:], STRIDES, strict=True))

    def forward(self, image: Tensor) -> Features:
        """Return the feature maps, finest first."""
        return _forward_last_three(self.stages, self.stem(image))


class CSPDarknet53(nn.Module):
    """CSPDarknet-53 backbone: (B, 3, H, W) -> three feature maps of strides 8, 16 and 32, finest first.

    H and W are multiples of 32.
    """

    def __init__(self, config: CSPDarknet53Config):
        super().__init__()
        act = config.activation
        self.stem = ConvBN(3, STEM_CHANNELS, 3, act=act)
        self.stages, channels = nn.ModuleList(), [STEM_CHANNELS]
        for i, width in enumerate(WIDTHS):
            down = ConvBN(channels[-1], width, 3, 2, act=act)
            self.stages.append(nn.Sequential(down, _csp_stage(config, i)))
            channels.append(width if has_final_transition(config.fusion) else 2 * SPLIT_CHANNELS[i])
        self.out_specs = tuple(FeatureSpec(c, stride) for c, stride in zip(channels[3:], STRIDES, strict=True))

    def forward(self, image: Tensor) -> Features:
        """Return the feature maps, finest first."""
        return _forward_last_three(self.stages, self.stem(image))


def _csp_stage(config: CSPDarknet53Config, i: int) -> CSPStage:
    """Build stage i (from 0) without its strided convolution.

    The input has WIDTHS[i] channels. With the final transition T2, the output has WIDTHS[i] channels. Without T2, it
    has 2 SPLIT_CHANNELS[i].
    """
    act, width, split_channels = config.activation, WIDTHS[i], SPLIT_CHANNELS[i]
    blocks: list[nn.Module] = []
    for _ in range(DEPTHS[i]):
        if config.elastic:
            blocks.append(ElasticDarknetResidual(split_channels, split_channels // 2, act))
        else:
            blocks.append(DarknetResidual(split_channels, MID_CHANNELS[i], act))
    return CSPStage(
        split=ConvSplit(width, split_channels, split_channels, act),
        body=nn.Sequential(*blocks),
        partial_transition=ConvBN(split_channels, split_channels, act=act)
        if has_partial_transition(config.fusion)
        else nn.Identity(),
        final_transition=ConvBN(2 * split_channels, width, act=act)
        if has_final_transition(config.fusion)
        else nn.Identity(),
    )


def _forward_last_three(stages: nn.ModuleList, x: Tensor) -> Features:
    """Run the stages and return the outputs of the last three, finest first."""
    maps = []
    for stage in stages:
        x = stage(x)
        maps.append(x)
    return tuple(maps[-3:])
