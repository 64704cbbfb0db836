"""Global Fusion Model: all scales are fused into one map, the input of every head (CSPNet paper, figure 6b).

    C3 ─1x1─ P3 64 ── maxpool ────────────┐                                  ┌─ maxpool ─ 1x1 3x3 ── stride 32, 256
    C4 ─1x1─ P4 128 ──────────────────────┼─ concat ─ 1x1 3x3 1x1 3x3, 128 ──┼─────────── 1x1 3x3 ── stride 16, 128
    C5 ─1x1─ P5 256 ── maxout 64, up ─────┘   256                            └─ up ────── 1x1 3x3 ── stride 8,   64

The paper compares GFM with EFM, so GFM is built from the parts of EFM: the same lateral convolutions, Maxout and pairs
of convolutions. The global map is built like the fused map of the middle scale of EFM, the only map of EFM that
includes all three scales. Each head has one more pair of convolutions.

This is a reconstruction, because no cfg was published. With CSPPeleeNet at 416x416 and 80 classes, the detector has
4.6045 BFLOPs (published 4.605). The published difference of 0.263 BFLOPs to EFM suggests one pair less than in EFM,
because a 3x3 convolution costs 0.1994 BFLOPs at every scale. With two pairs per head and none before, GFM would have
4.88 BFLOPs, more than EFM.
"""

from __future__ import annotations

import torch
from torch import nn

from cspdet.models.blocks import ConvBN, Maxout, upsample
from cspdet.models.necks.config import GFMConfig
from cspdet.models.necks.efm import conv_block
from cspdet.models.necks.scales import select_top_levels
from cspdet.structures import Features, FeatureSpec


class GFM(nn.Module):
    """Global Fusion Model: fuse the three coarsest maps.

    The outputs have the strides of these maps, and `width`, 2 `width` and 4 `width` channels.
    """

    def __init__(self, config: GFMConfig, inputs: tuple[FeatureSpec, ...]):
        super().__init__()
        inputs = select_top_levels(inputs, 3, config.name)
        fine, middle, coarse = widths = (config.width, 2 * config.width, 4 * config.width)
        act = config.activation
        self.lateral = nn.ModuleList(ConvBN(spec.channels, c, act=act) for spec, c in zip(inputs, widths, strict=True))
        self.down = nn.MaxPool2d(2)
        self.coarse_to_middle = Maxout(coarse, fine)
        self.fuse = conv_block(2 * fine + middle, middle, 2, act)
        self.conv_blocks = nn.ModuleList(conv_block(middle, c, 1, act) for c in widths)
        self.out_specs = tuple(FeatureSpec(c, spec.stride) for c, spec in zip(widths, inputs, strict=True))

    def forward(self, features: Features) -> Features:
        """Return the fused feature maps, finest first."""
        p3, p4, p5 = (conv(x) for conv, x in zip(self.lateral, features[-3:], strict=True))
        fused = self.fuse(torch.cat((self.down(p3), p4, upsample(self.coarse_to_middle(p5))), dim=1))
        scales = (upsample(fused), fused, self.down(fused))
        return tuple(block(x) for block, x in zip(self.conv_blocks, scales, strict=True))
