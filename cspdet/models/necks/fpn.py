"""The neck of Pelee-FPN: a feature pyramid of two scales (after Lin et al. 2017).

    C5 ── 1x1 256 ──┬────────────────────────── 3x3 256 ── stride 32, 256
                    └── 1x1 128 ── 2x up ──┐
    C4 ── 3x3 128 ─────────────────────── sum ── 3x3 128 ── stride 16, 128

This is a reconstruction from the published cost and number of parameters, because no cfg was published. These values do
not determine the input of the finer scale (here the output of the 1x1 convolution), nor whether the sum has an
activation (here none). With PeleeNet and 80 classes, the detector has 4.8358 BFLOPs at 416x416 (published 4.84), 2.8614
BFLOPs at 320x320 (published 2.86), and 3.7491M parameters as stored by Darknet (published 3.75M).
"""

from __future__ import annotations

from torch import nn

from cspdet.models.blocks import ConvBN, upsample
from cspdet.models.necks.config import FPNConfig
from cspdet.models.necks.scales import select_top_levels
from cspdet.structures import Features, FeatureSpec

WIDTHS = (128, 256)  # channels of all convolutions of a scale, finest first


class FPN(nn.Module):
    """Feature pyramid: fuse the two coarsest maps.

    The outputs have the strides of these maps, and 128 and 256 channels.
    """

    def __init__(self, config: FPNConfig, inputs: tuple[FeatureSpec, ...]):
        super().__init__()
        fine, coarse = select_top_levels(inputs, 2, config.name)
        act, (narrow, wide) = config.activation, WIDTHS
        self.reduce = ConvBN(coarse.channels, wide, act=act)
        self.coarse = ConvBN(wide, wide, 3, act=act)
        self.upsample_conv = ConvBN(wide, narrow, act=act)
        self.lateral = ConvBN(fine.channels, narrow, 3, act=act)
        self.fine = ConvBN(narrow, narrow, 3, act=act)
        self.out_specs = tuple(FeatureSpec(c, spec.stride) for c, spec in zip(WIDTHS, (fine, coarse), strict=True))

    def forward(self, features: Features) -> Features:
        """Return the fused feature maps, finest first."""
        c4, c5 = features[-2:]
        reduced = self.reduce(c5)
        return self.fine(self.lateral(c4) + upsample(self.upsample_conv(reduced))), self.coarse(reduced)
