"""CSPPeleeNet: PeleeNet whose every stage is cross stage partial.

A reconstruction: the authors released neither cfg nor weights. At 224x224 it counts 2,830,944 convolution and fc
weights (published 2.83M) and 0.8918 BFLOPs (published 0.888); its largest layer is 44% below PeleeNet's, as published.

    stem     3 -> 32, stride 4
    stage 1  3 two-way dense layers, no T1; T2 -> pool          128 channels
    stage 2  4 two-way dense layers, T1     ── C3, stride 8  ── 256, pool -> T2
    stage 3  8 two-way dense layers, T1     ── C4, stride 16 ── 512, pool -> T2
    stage 4  6 two-way dense layers, T1, T2 ── C5, stride 32 ── 704

T2 is two convolutions, one for each part of the next stage's split (`TransitionSplit`).
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from cspdet.config import ConfigModel
from cspdet.models.blocks import ActivationName, ConvBN
from cspdet.models.csp import CSPStage, Fusion, Split, TransitionSplit, partition
from cspdet.types import Features, FeatureSpec

DEPTHS = (3, 4, 8, 6)  # two-way dense layers a stage (PeleeNet, Wang et al. 2018, table 1)
BOTTLENECKS = (16, 32, 64, 64)  # channels of a dense layer's 1x1 convolutions
GROWTH = 32  # channels that a dense layer adds, half from either way
STEM_CHANNELS = 32


class CSPPeleeNetConfig(ConfigModel):
    """gamma is the share of channels that bypasses each dense block; fusion as in `cspdet.models.csp`."""

    name: Literal["csppeleenet"]
    gamma: float = Field(0.5, gt=0, lt=1)
    fusion: Fusion = "both"
    activation: ActivationName = "leaky"

    def build(self) -> CSPPeleeNet:
        return CSPPeleeNet(self)


class Stem(nn.Module):
    """PeleeNet's stem block: (B, 3, H, W) -> (B, 32, H/4, W/4), half by convolution and half by pooling."""

    def __init__(self, channels: int, act: ActivationName):
        super().__init__()
        self.enter = ConvBN(3, channels, 3, stride=2, act=act)
        self.convolve = nn.Sequential(
            ConvBN(channels, channels // 2, act=act), ConvBN(channels // 2, channels, 3, stride=2, act=act)
        )
        self.pool = nn.MaxPool2d(2)
        self.merge = ConvBN(2 * channels, channels, act=act)

    def forward(self, image: Tensor) -> Tensor:
        x = self.enter(image)
        return self.merge(torch.cat((self.convolve(x), self.pool(x)), dim=1))


class TwoWayDense(nn.Module):
    """PeleeNet's dense layer: (B, C, H, W) -> (B, C + growth, H, W), seen through one 3x3 and through two.

    Both ways begin with a 1x1 convolution to `bottleneck` channels; they are computed as one of twice the width.
    """

    def __init__(self, c_in: int, bottleneck: int, growth: int, act: ActivationName):
        super().__init__()
        self.reduce = ConvBN(c_in, 2 * bottleneck, act=act)
        self.near = ConvBN(bottleneck, growth // 2, 3, act=act)
        self.far = nn.Sequential(
            ConvBN(bottleneck, growth // 2, 3, act=act), ConvBN(growth // 2, growth // 2, 3, act=act)
        )

    def forward(self, x: Tensor) -> Tensor:
        near, far = self.reduce(x).chunk(2, dim=1)
        return torch.cat((x, self.near(near), self.far(far)), dim=1)


def dense_block(c_in: int, depth: int, bottleneck: int, act: ActivationName) -> tuple[nn.Module, int]:
    """`depth` two-way dense layers in a row, and the channels that come out."""
    layers = [TwoWayDense(c_in + i * GROWTH, bottleneck, GROWTH, act) for i in range(depth)]
    return nn.Sequential(*layers), c_in + depth * GROWTH


class CSPPeleeNet(nn.Module):
    """(B, 3, H, W) -> three maps at strides 8, 16, 32, finest first; H and W are multiples of 32."""

    def __init__(self, config: CSPPeleeNetConfig):
        super().__init__()
        act = config.activation
        has_t1, has_t2 = config.fusion in ("both", "last"), config.fusion in ("both", "first")
        self.stem = Stem(STEM_CHANNELS, act)
        stages: list[CSPStage] = []
        c_in = STEM_CHANNELS
        for i, (depth, bottleneck) in enumerate(zip(DEPTHS, BOTTLENECKS, strict=True)):
            parts = partition(c_in, config.gamma)
            split: nn.Module
            if i == 0:
                split = Split(*parts)
            elif i == 1 or has_t2:
                # At stride 4 pooling comes last; a T1 there would be the largest layer of all, so stage 1 has none and
                # keeps this transition whatever the fusion.
                split = TransitionSplit(c_in, *parts, pool_first=i > 1, act=act)
            else:
                split = nn.Sequential(nn.AvgPool2d(2), Split(*parts))
            body = partial(dense_block, depth=depth, bottleneck=bottleneck, act=act)
            stages.append(CSPStage(split, parts, body, partial_transition=has_t1 and i > 0, act=act))
            c_in = stages[-1].out_channels
        self.stages = nn.ModuleList(stages)
        self.last_transition = ConvBN(c_in, c_in, act=act) if has_t2 else nn.Identity()
        self.out = tuple(
            FeatureSpec(stage.out_channels, stride) for stage, stride in zip(stages[1:], (8, 16, 32), strict=True)
        )

    def forward(self, image: Tensor) -> Features:
        c3 = self.stages[1](self.stages[0](self.stem(image)))
        c4 = self.stages[2](c3)
        c5 = self.last_transition(self.stages[3](c4))
        return c3, c4, c5
