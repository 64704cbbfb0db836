"""YOLOv3-tiny's neck: two scales, top-down (yolov3-tiny.cfg layers 13-21).

    C5 ── 1x1 256 ──┬────────────────────────── 3x3 512 ── stride 32, 512
                    └── 1x1 128 ── 2x up ──┐
    C4 ───────────────────────────────── concat ── 3x3 256 ── stride 16, 256

In the concatenation, the upsampled map is first. With the backbone of the cfg and 80 classes, the detector has
8,845,488 convolution weights and 5.571 BFLOPs at 416x416 (published 5.571), and 8.8587M parameters as
stored by Darknet (published 8.86M).
"""

from __future__ import annotations

import torch
from torch import nn

from cspdet.models.blocks import ConvBN, upsample
from cspdet.models.necks.config import YOLOv3TinyConfig
from cspdet.models.necks.scales import select_top_levels
from cspdet.structures import Features, FeatureSpec

REDUCED_CHANNELS = 256  # channels of the coarse scale's 1x1 convolution
UPSAMPLED_CHANNELS = 128  # channels of the upsampled map of the finer scale
WIDTHS = (256, 512)  # channels of the outputs, finest first


class YOLOv3TinyNeck(nn.Module):
    """Neck of YOLOv3-tiny: fuse the two coarsest maps.

    The outputs have the strides of these maps, and 256 and 512 channels.
    """

    def __init__(self, config: YOLOv3TinyConfig, inputs: tuple[FeatureSpec, ...]):
        super().__init__()
        fine, coarse = select_top_levels(inputs, 2, config.name)
        act = config.activation
        self.reduce = ConvBN(coarse.channels, REDUCED_CHANNELS, act=act)
        self.coarse = ConvBN(REDUCED_CHANNELS, WIDTHS[1], 3, act=act)
        self.upsample_conv = ConvBN(REDUCED_CHANNELS, UPSAMPLED_CHANNELS, act=act)
        self.fine = ConvBN(UPSAMPLED_CHANNELS + fine.channels, WIDTHS[0], 3, act=act)
        self.out_specs = tuple(FeatureSpec(c, spec.stride) for c, spec in zip(WIDTHS, (fine, coarse), strict=True))

    def forward(self, features: Features) -> Features:
        """Return the fused feature maps, finest first."""
        c4, c5 = features[-2:]
        reduced = self.reduce(c5)
        fused = torch.cat((upsample(self.upsample_conv(reduced)), c4), dim=1)
        return self.fine(fused), self.coarse(reduced)
