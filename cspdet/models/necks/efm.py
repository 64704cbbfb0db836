"""Exact Fusion Model: each scale fuses the adjacent finer map, its own map and the adjacent coarser map.

                                                               head of the scale
    C3 ─1x1─ P3 ──────────────────────────────┐
             │                     P3 64 ─────┴─ concat ─[SAM]─ 1x1 3x3 1x1 3x3 ── stride 8,   64
             │            P4 ─maxout 64, up ──┘
             └maxpool 64 ─────────────┐
    C4 ─1x1─ P4 ───────────── P4 128 ─┼───────── concat ─[SAM]─ 1x1 3x3 1x1 3x3 ── stride 16, 128
             │       P5 ─maxout 64, up┘
             └maxpool 128 ────────────┐
    C5 ─1x1─ P5 ──── P5 ─maxout 128 ──┴───────── concat ─[SAM]─ 1x1 3x3 1x1 3x3 ── stride 32, 256

Source: CSPNet paper, figure 6c. Maxout reduces channels before the concatenation, so that all 3x3 convolutions have the
same cost ("balance computation"). This is a reconstruction, because no cfg was published. With CSPPeleeNet at 416x416
and 80 classes, the detector has 4.837 BFLOPs (published 4.868); with SAM, 5.037 (published 5.068). The largest layer
costs 0.1994 BFLOPs, 80% less than the largest layer of PeleeNet-YOLO.

With SPP, the lateral convolution of C5 is replaced by three modules: a 1x1 convolution to 1/8 of the channels of C5,
SPP (which multiplies the channels by 4), and a 1x1 convolution to the channels of P5. In the CSPNet authors' PANet-SPP
cfgs, SPP is also between two 1x1 convolutions. The cost is 4.832 BFLOPs (published 4.863). The difference to EFM
without SPP is -0.005 BFLOPs, as published; with 1/4 of the channels, it would be +0.050, and with 1/16, -0.033.
"""

from __future__ import annotations

import torch
from torch import nn

from cspdet.models.base_config import ActivationName
from cspdet.models.blocks import SAM, SPP, ConvBN, Maxout, upsample
from cspdet.models.necks.config import EFMConfig
from cspdet.models.necks.scales import select_top_levels
from cspdet.structures import Features, FeatureSpec

SPP_REDUCTION = 8  # reduction of the channels of C5 before SPP, which multiplies them by four


def conv_block(c_in: int, c: int, num_pairs: int, act: ActivationName) -> nn.Sequential:
    """Build `num_pairs` pairs of a 1x1 and a 3x3 convolution: (B, c_in, H, W) -> (B, c, H, W)."""
    layers: list[nn.Module] = []
    for i in range(num_pairs):
        layers += [ConvBN(c if i else c_in, c, 1, act=act), ConvBN(c, c, 3, act=act)]
    return nn.Sequential(*layers)


def spp_lateral(c_in: int, c: int, act: ActivationName) -> nn.Sequential:
    """Build a lateral convolution with SPP: (B, c_in, H, W) -> (B, c, H, W)."""
    reduced_channels = c_in // SPP_REDUCTION
    return nn.Sequential(ConvBN(c_in, reduced_channels, act=act), SPP(), ConvBN(4 * reduced_channels, c, act=act))


class EFM(nn.Module):
    """Exact Fusion Model: fuse the three coarsest maps.

    The outputs have the strides of these maps, and `width`, 2 `width` and 4 `width` channels.
    """

    def __init__(self, config: EFMConfig, inputs: tuple[FeatureSpec, ...]):
        super().__init__()
        inputs = select_top_levels(inputs, 3, config.name)
        fine, middle, coarse = config.width, 2 * config.width, 4 * config.width
        act = config.activation
        lateral: list[nn.Module] = [
            ConvBN(spec.channels, c, act=act) for spec, c in zip(inputs, (fine, middle, coarse), strict=True)
        ]
        if config.spp:
            lateral[-1] = spp_lateral(inputs[-1].channels, coarse, act)
        self.lateral = nn.ModuleList(lateral)
        self.down = nn.MaxPool2d(2)
        self.middle_to_fine = Maxout(middle, fine)
        self.coarse_to_middle = Maxout(coarse, fine)
        self.coarse_to_coarse = Maxout(coarse, middle)
        fused = (2 * fine, 2 * fine + middle, 2 * middle)
        self.attention = nn.ModuleList(SAM(c) if config.sam else nn.Identity() for c in fused)
        self.conv_blocks = nn.ModuleList(
            conv_block(c_in, c, 2, act) for c_in, c in zip(fused, (fine, middle, coarse), strict=True)
        )
        self.out_specs = tuple(
            FeatureSpec(c, spec.stride) for c, spec in zip((fine, middle, coarse), inputs, strict=True)
        )

    def forward(self, features: Features) -> Features:
        """Return the fused feature maps, finest first."""
        p3, p4, p5 = (conv(x) for conv, x in zip(self.lateral, features[-3:], strict=True))
        fused = (
            torch.cat((p3, upsample(self.middle_to_fine(p4))), dim=1),
            torch.cat((self.down(p3), p4, upsample(self.coarse_to_middle(p5))), dim=1),
            torch.cat((self.down(p4), self.coarse_to_coarse(p5)), dim=1),
        )
        return tuple(
            block(attention(x)) for attention, block, x in zip(self.attention, self.conv_blocks, fused, strict=True)
        )
