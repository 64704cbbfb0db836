"""CSP Reference: small CSP networks with the first convolutions and pools of Darknet Reference (darknet.cfg).

These networks have about the published size and cost, but they are NOT the authors' networks: neither cfgs nor weights
were published. No single rule is known that reproduces the published values of all four networks. The parameters of
each pair below were found by a search that fits two rows of the published table. Treat them with LOW CONFIDENCE. T1 is
the convolution before the concatenation, T2 the one after it (see `cspdet.models.csp`).

    cspdenseref, csppeleeref              3x3 16, pool, 3x3 32, pool                           stride 4
        4 stages of 1, 1, 1, 2 layers of growth 48, 96, 192, 384; T1 has half of T2's channels; T2, then pool:
        64 (stride 4), 128 (8: C3), 256 (16: C4), 512 (32: C5)
    cspdensebref, csppeleebref            3x3 16, pool, 3x3 32, pool, 3x3 64, pool             stride 8
        3 stages of 2, 8, 8 layers of growth 24 after a bottleneck; T1 keeps the width; pool, then T2:
        112 (stride 8: C3), 320 (16: C4), 512 (32: C5)

    a stage:  x ──┬── half of the channels ───────── concat ── T2     the first stage is not split: body ── T1 ── T2
                  └── half ── dense layers ── T1 ────┘
    a layer adds       densebref: 1x1 48, 3x3 24    peleebref: the two-way layer of PeleeNet, bottleneck 96, growth 24
                        denseref: 3x3 growth         peleeref: 3x3 growth/2, and 3x3 growth/2, 3x3 growth/2

    as classifiers at 256x256    weights, published    BFLOPs, published
    cspdenseref                    3,413,936  3.48M     0.8964  0.886
    cspdensebref                   1,373,744  1.38M     0.6312  0.631
    csppeleeref                    4,186,352  4.10M     1.1088  1.103
    csppeleebref                   2,020,304  2.01M     0.9021  0.897
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from cspdet.models.backbones.config import CSPReferenceConfig
from cspdet.models.backbones.peleenet import TwoWayDense
from cspdet.models.blocks import ConvBN
from cspdet.models.csp import CSPStage, Split, partition
from cspdet.structures import Features, FeatureSpec

GAMMA = 0.5
DENSE_BOTTLENECK, PELEE_BOTTLENECK = 48, 96  # channels of a layer's 1x1 convolutions; PELEE: per branch


class CSPReferenceArchSpec(NamedTuple):
    """Parameters shared by two networks, found by a search that fits the published sizes and costs."""

    stem: tuple[int, ...]  # channels of the 3x3 convolutions, each followed by a pool
    depths: tuple[int, ...]  # layers per stage
    growths: tuple[int, ...]  # channels added by each layer of a stage


PLAIN_SPEC = CSPReferenceArchSpec((16, 32), (1, 1, 1, 2), (48, 96, 192, 384))
BOTTLENECK_SPEC = CSPReferenceArchSpec((16, 32, 64), (2, 8, 8), (24, 24, 24))


class DenseLayer(nn.Module):
    """Dense layer: concatenates the input and the outputs of all branches, (B, C, H, W) -> (B, C + growth, H, W)."""

    def __init__(self, *branches: nn.Module):
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, *(branch(x) for branch in self.branches)), dim=1)


def dense_layer(c_in: int, growth: int, config: CSPReferenceConfig) -> nn.Module:
    """Build the dense layer of the network that `config` describes.

    Args:
        c_in: Input channels.
        growth: Channels that the layer adds.
        config: Selects the layer type (DenseNet or PeleeNet, with or without bottleneck) and the activation.
    """
    act, half = config.activation, growth // 2
    if config.two_way and config.bottleneck:
        return TwoWayDense(c_in, PELEE_BOTTLENECK, growth, act)
    if config.two_way:
        branch_5x5 = nn.Sequential(ConvBN(c_in, half, 3, act=act), ConvBN(half, half, 3, act=act))
        return DenseLayer(ConvBN(c_in, half, 3, act=act), branch_5x5)
    if config.bottleneck:
        bottleneck = ConvBN(c_in, DENSE_BOTTLENECK, act=act)
        return DenseLayer(nn.Sequential(bottleneck, ConvBN(DENSE_BOTTLENECK, growth, 3, act=act)))
    return DenseLayer(ConvBN(c_in, growth, 3, act=act))


class CSPReference(nn.Module):
    """CSP Reference backbone: (B, 3, H, W) -> three feature maps of strides 8, 16 and 32, finest first.

    H and W are multiples of 32.
    """

    def __init__(self, config: CSPReferenceConfig):
        super().__init__()
        act, spec = config.activation, BOTTLENECK_SPEC if config.bottleneck else PLAIN_SPEC
        stem: list[nn.Module] = []
        for before, c in zip((3, *spec.stem), spec.stem, strict=False):
            stem += [ConvBN(before, c, 3, act=act), nn.MaxPool2d(2)]
        self.stem = nn.Sequential(*stem)
        self.downsample, self.stages = nn.ModuleList([nn.Identity()]), nn.ModuleList()
        c_in, channels = spec.stem[-1], []
        for i, (depth, growth) in enumerate(zip(spec.depths, spec.growths, strict=True)):
            shortcut_channels, main_channels = partition(c_in, GAMMA) if i > 0 else (0, c_in)
            c_body, c_out = main_channels + depth * growth, 2 * c_in
            body = nn.Sequential(*(dense_layer(main_channels + j * growth, growth, config) for j in range(depth)))
            partial_transition = ConvBN(c_body, c_body if config.bottleneck else c_out // 2, act=act)
            fused = partial_transition.conv.out_channels + shortcut_channels
            final_transition = ConvBN(fused, c_out, act=act)
            last = i + 1 == len(spec.depths)
            pool_before_transition = config.bottleneck and not last  # T2 is after the pool, before the next stage
            parts = (body, partial_transition, nn.Identity() if pool_before_transition else final_transition)
            self.stages.append(
                CSPStage(Split(shortcut_channels, main_channels), *parts)
                if shortcut_channels
                else nn.Sequential(*parts)
            )
            if not last:
                self.downsample.append(
                    nn.Sequential(nn.AvgPool2d(2), final_transition) if pool_before_transition else nn.AvgPool2d(2)
                )
            channels.append(fused if pool_before_transition else c_out)
            c_in = c_out
        self.out_specs = tuple(FeatureSpec(c, stride) for c, stride in zip(channels[-3:], (8, 16, 32), strict=True))

    def forward(self, image: Tensor) -> Features:
        """Return the feature maps, finest first."""
        x, maps = self.stem(image), []
        for enter, stage in zip(self.downsample, self.stages, strict=True):
            x = stage(enter(x))
            maps.append(x)
        return tuple(maps[-3:])
