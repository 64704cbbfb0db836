"""Darknet Reference, and the backbones of YOLOv3-tiny and YOLOv3-tiny-PRN; all three are equal up to stride 16.

    3x3 16, pool, 3x3 32, pool, 3x3 64, pool, 3x3 128 ── stride 8
                                   pool, 3x3 256      ── stride 16
                                   pool, 3x3 512      ── stride 32, x
                              last pool, 3x3 channels ── stride 64, or 32 if the last pool keeps the size

    cfg                                last_stride  channels  residual
    darknet.cfg layers 0-12                     64      1024  no
    yolov3-tiny.cfg layers 0-12                 32      1024  no
    yolov3-tiny-prn.cfg layers 0-13             32       512  yes: leaky(x + conv(pool(x)))

As a classifier at 256x256, darknet.cfg has 7,314,352 convolution and fc weights (published 7.31M) and 0.9667 BFLOPs
(published 0.96).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from cspdet.models.backbones.config import DarknetReferenceConfig
from cspdet.models.blocks import ConvBN, activation, shortcut
from cspdet.structures import Features, FeatureSpec

WIDTHS = (16, 32, 64, 128, 256, 512)  # channels of the 3x3 convolutions at strides 1, 2, 4, 8, 16, 32


class SameSizeMaxPool(nn.Module):
    """2x2 max pooling with stride 1, padded at the right and the bottom: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2, stride=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(F.pad(x, (0, 1, 0, 1), value=float("-inf")))


class DarknetReference(nn.Module):
    """Darknet Reference backbone: (B, 3, H, W) -> three feature maps, finest first.

    The strides are 8, 16 and 32, or 16, 32 and 64. H and W are multiples of the last stride.
    """

    def __init__(self, config: DarknetReferenceConfig):
        super().__init__()
        act = config.activation
        pairs = zip((3, *WIDTHS), WIDTHS, strict=False)
        self.convs = nn.ModuleList(ConvBN(c_in, c_out, 3, act=act) for c_in, c_out in pairs)
        self.pool = nn.MaxPool2d(2)
        self.last_pool = SameSizeMaxPool() if config.last_stride == 32 else nn.MaxPool2d(2)
        self.last = ConvBN(WIDTHS[-1], config.channels, 3, act=act)
        self.act = activation(act)  # activation after the shortcut
        self.residual = config.residual
        specs = [FeatureSpec(c, 2**i) for i, c in enumerate(WIDTHS)]
        last = FeatureSpec(config.channels, config.last_stride)
        # With last_stride 32 there are two maps of stride 32; only that of the last convolution is an output
        self.out_specs: tuple[FeatureSpec, ...] = (*(spec for spec in specs if spec.stride < config.last_stride), last)[
            -3:
        ]

    def forward(self, image: Tensor) -> Features:
        """Return the feature maps, finest first."""
        maps = [self.convs[0](image)]
        for conv in self.convs[1:]:
            maps.append(conv(self.pool(maps[-1])))
        x = maps[-1]
        last = self.last(self.last_pool(x))
        if self.residual:
            last = self.act(shortcut(last, x))
        return (maps[3], maps[4], last) if self.out_specs[-1].stride == 32 else (maps[4], maps[5], last)
