"""The neck of Pelee-YOLOv3, the baseline of the partial residual networks: a lighter YOLOv3 neck with two scales.

    C5 ── 1x1 256 ──┬────────────────────────── 3x3 256 ── stride 32, 256
                    └── 1x1 128 ── 2x up ──┐
    C4 ───────────────────────────────── concat ── 3x3 128 ── 1x1 128 ── 3x3 128 ── stride 16, 128

This is a reconstruction from the published cost and number of parameters, because no cfg was published. The input of
the finer scale is the output of the 1x1 convolution, as in yolov3-tiny.cfg; the output of the 3x3 convolution would
give the same cost. With PeleeNet and 80 classes, the detector has 5.0573 BFLOPs at 416x416 (published 5.06), 2.9925
BFLOPs at 320x320 (published 2.99), and 3.9134M parameters as stored by Darknet (published 3.91M). The largest layer is
the 3x3 convolution after the concatenation, with 0.9968 BFLOPs at 416x416. The largest layer of EFM and GFM costs 80%
less.
"""

from __future__ import annotations

import torch
from torch import nn

from cspdet.models.blocks import ConvBN, upsample
from cspdet.models.necks.config import YOLOv3LightConfig
from cspdet.models.necks.scales import select_top_levels
from cspdet.structures import Features, FeatureSpec

WIDTHS = (128, 256)  # channels of all convolutions of a scale, finest first


class YOLOv3LightNeck(nn.Module):
    """Neck of Pelee-YOLOv3: fuse the two coarsest maps.

    The outputs have the strides of these maps, and 128 and 256 channels.
    """

    def __init__(self, config: YOLOv3LightConfig, inputs: tuple[FeatureSpec, ...]):
        super().__init__()
        fine, coarse = select_top_levels(inputs, 2, config.name)
        act, (narrow, wide) = config.activation, WIDTHS
        self.reduce = ConvBN(coarse.channels, wide, act=act)
        self.coarse = ConvBN(wide, wide, 3, act=act)
        self.upsample_conv = ConvBN(wide, narrow, act=act)
        self.fine = nn.Sequential(
            ConvBN(narrow + fine.channels, narrow, 3, act=act),
            ConvBN(narrow, narrow, act=act),
            ConvBN(narrow, narrow, 3, act=act),
        )
        self.out_specs = tuple(FeatureSpec(c, spec.stride) for c, spec in zip(WIDTHS, (fine, coarse), strict=True))

    def forward(self, features: Features) -> Features:
        """Return the fused feature maps, finest first."""
        c4, c5 = features[-2:]
        reduced = self.reduce(c5)
        fused = torch.cat((upsample(self.upsample_conv(reduced)), c4), dim=1)
        return self.fine(fused), self.coarse(reduced)
