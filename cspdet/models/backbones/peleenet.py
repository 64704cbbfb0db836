"""PeleeNet (Wang et al. 2018, table 1), the baseline of CSPPeleeNet, and the building blocks of both.

    stem     3 -> 32, stride 4
    stage 1  3 two-way dense layers, 1x1 ──────────────────── 128 channels, pool
    stage 2  4 two-way dense layers, 1x1 ── C3, stride 8  ── 256, pool
    stage 3  8 two-way dense layers, 1x1 ── C4, stride 16 ── 512, pool
    stage 4  6 two-way dense layers, 1x1 ── C5, stride 32 ── 704

At 224x224, the classifier has 2.7915M convolution and fc weights (published 2.79M) and 1.0166 BFLOPs (published 1.017).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cspdet.models.backbones.config import PeleeNetConfig
from cspdet.models.base_config import ActivationName
from cspdet.models.blocks import ConvBN, SqueezeExcite
from cspdet.structures import Features, FeatureSpec

DEPTHS = (3, 4, 8, 6)  # two-way dense layers per stage
BOTTLENECKS = (16, 32, 64, 64)  # channels of a dense layer's 1x1 convolutions
GROWTH = 32  # channels added by a dense layer, half by each branch
STEM_CHANNELS = 32
SE_REDUCTION = 2  # reduction of squeeze-and-excitation


class PeleeStem(nn.Module):
    """PeleeNet's stem block: (B, 3, H, W) -> (B, channels, H/4, W/4), with a convolution and a pooling branch."""

    def __init__(self, channels: int, act: ActivationName):
        super().__init__()
        self.conv = ConvBN(3, channels, 3, stride=2, act=act)
        self.conv_branch = nn.Sequential(
            ConvBN(channels, channels // 2, act=act), ConvBN(channels // 2, channels, 3, stride=2, act=act)
        )
        self.pool = nn.MaxPool2d(2)
        self.merge = ConvBN(2 * channels, channels, act=act)

    def forward(self, image: Tensor) -> Tensor:
        x = self.conv(image)
        return self.merge(torch.cat((self.conv_branch(x), self.pool(x)), dim=1))


class TwoWayDense(nn.Module):
    """PeleeNet's two-way dense layer: (B, C, H, W) -> (B, C + growth, H, W).

    One branch has one 3x3 convolution, the other has two. Both begin with a 1x1 convolution to `bottleneck` channels,
    computed as one convolution of twice the width. `se` adds squeeze-and-excitation of the new channels.
    """

    def __init__(self, c_in: int, bottleneck: int, growth: int, act: ActivationName, *, se: bool = False):
        super().__init__()
        self.reduce = ConvBN(c_in, 2 * bottleneck, act=act)
        self.branch_3x3 = ConvBN(bottleneck, growth // 2, 3, act=act)
        self.branch_5x5 = nn.Sequential(
            ConvBN(bottleneck, growth // 2, 3, act=act), ConvBN(growth // 2, growth // 2, 3, act=act)
        )
        self.se = SqueezeExcite(growth, SE_REDUCTION, act) if se else None

    def forward(self, x: Tensor) -> Tensor:
        branch_3x3, branch_5x5 = self.reduce(x).chunk(2, dim=1)
        if self.se is None:
            return torch.cat((x, self.branch_3x3(branch_3x3), self.branch_5x5(branch_5x5)), dim=1)
        return torch.cat(
            (x, self.se(torch.cat((self.branch_3x3(branch_3x3), self.branch_5x5(branch_5x5)), dim=1))), dim=1
        )


def dense_block(
    c_in: int, depth: int, bottleneck: int, act: ActivationName, *, se: bool = False
) -> tuple[nn.Module, int]:
    """Build a sequence of `depth` two-way dense layers.

    Returns:
        The sequence, and its number of output channels.
    """
    layers = [TwoWayDense(c_in + i * GROWTH, bottleneck, GROWTH, act, se=se) for i in range(depth)]
    return nn.Sequential(*layers), c_in + depth * GROWTH


class PeleeNet(nn.Module):
    """PeleeNet backbone: (B, 3, H, W) -> three feature maps of strides 8, 16 and 32, finest first.

    H and W are multiples of 32.
    """

    def __init__(self, config: PeleeNetConfig):
        super().__init__()
        act = config.activation
        self.stem = PeleeStem(STEM_CHANNELS, act)
        self.stages, channels = nn.ModuleList(), [STEM_CHANNELS]
        for depth, bottleneck in zip(DEPTHS, BOTTLENECKS, strict=True):
            block, c_out = dense_block(channels[-1], depth, bottleneck, act)
            self.stages.append(nn.Sequential(block, ConvBN(c_out, c_out, act=act)))
            channels.append(c_out)
        self.pool = nn.AvgPool2d(2)
        self.out_specs = tuple(FeatureSpec(c, stride) for c, stride in zip(channels[2:], (8, 16, 32), strict=True))

    def forward(self, image: Tensor) -> Features:
        """Return the feature maps, finest first."""
        c2 = self.stages[0](self.stem(image))
        c3 = self.stages[1](self.pool(c2))
        c4 = self.stages[2](self.pool(c3))
        c5 = self.stages[3](self.pool(c4))
        return c3, c4, c5
