"""CSPPeleeNet: PeleeNet with cross stage partial stages.

This is a reconstruction: the authors published neither cfg nor weights. At 224x224, the classifier has 2,830,944
convolution and fc weights (published 2.83M) and 0.8918 BFLOPs (published 0.888). The largest layer costs 44% less than
the largest layer of PeleeNet, as published.

    stem     3 -> 32, stride 4
    stage 1  3 two-way dense layers, no T1; T2 -> pool          128 channels
    stage 2  4 two-way dense layers, T1     ── C3, stride 8  ── 256, pool -> T2
    stage 3  8 two-way dense layers, T1     ── C4, stride 16 ── 512, pool -> T2
    stage 4  6 two-way dense layers, T1, T2 ── C5, stride 32 ── 704

T1 is the convolution before the concatenation, T2 the convolution after it (see `cspdet.models.csp`). T2 consists of
two convolutions, one for each part of the next stage (`TransitionSplit`).
"""

from __future__ import annotations

from torch import Tensor, nn

from cspdet.models.backbones.config import CSPPeleeNetConfig
from cspdet.models.backbones.peleenet import BOTTLENECKS, DEPTHS, STEM_CHANNELS, PeleeStem, dense_block
from cspdet.models.blocks import ConvBN
from cspdet.models.csp import (
    CSPStage,
    Split,
    TransitionSplit,
    has_final_transition,
    has_partial_transition,
    partition,
)
from cspdet.structures import Features, FeatureSpec


class CSPPeleeNet(nn.Module):
    """CSPPeleeNet backbone: (B, 3, H, W) -> three feature maps of strides 8, 16 and 32, finest first.

    H and W are multiples of 32.
    """

    def __init__(self, config: CSPPeleeNetConfig):
        super().__init__()
        act = config.activation
        self.stem = PeleeStem(STEM_CHANNELS, act)
        self.stages, channels = nn.ModuleList(), [STEM_CHANNELS]
        for i, (depth, bottleneck) in enumerate(zip(DEPTHS, BOTTLENECKS, strict=True)):
            c_in = channels[-1]
            shortcut_channels, main_channels = partition(c_in, config.gamma)
            split: nn.Module
            if i == 0:
                split = Split(shortcut_channels, main_channels)
            elif i == 1 or has_final_transition(config.fusion):
                # After stage 1 (stride 4), T2 is before the pooling. A T1 in stage 1 would be the largest layer of the
                # network, so with every fusion strategy stage 1 has no T1, but this transition.
                split = TransitionSplit(c_in, shortcut_channels, main_channels, pool_first=i > 1, act=act)
            else:
                split = nn.Sequential(nn.AvgPool2d(2), Split(shortcut_channels, main_channels))
            body, c_body = dense_block(main_channels, depth, bottleneck, act, se=config.se)
            partial_transition = (
                ConvBN(c_body, c_body, act=act) if has_partial_transition(config.fusion) and i > 0 else nn.Identity()
            )
            self.stages.append(CSPStage(split, body, partial_transition, nn.Identity()))
            channels.append(c_body + shortcut_channels)
        c_out = channels[-1]
        self.last_transition = ConvBN(c_out, c_out, act=act) if has_final_transition(config.fusion) else nn.Identity()
        self.out_specs = tuple(FeatureSpec(c, stride) for c, stride in zip(channels[2:], (8, 16, 32), strict=True))

    def forward(self, image: Tensor) -> Features:
        """Return the feature maps, finest first."""
        c3 = self.stages[1](self.stages[0](self.stem(image)))
        c4 = self.stages[2](c3)
        c5 = self.last_transition(self.stages[3](c4))
        return c3, c4, c5
