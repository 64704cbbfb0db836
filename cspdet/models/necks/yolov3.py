"""YOLOv3's neck: three scales, top-down (Redmon and Farhadi 2018; yolov3.cfg layers 75-104).

    C5 ── 1x1 3x3 1x1 3x3 1x1 ──┬── 3x3 ─────────────────────────────── stride 32, 1024
            ┌───────────────────┘
            └── 1x1 256 ── 2x up ──┐
    C4 ───────────────────────── concat ── 1x1 3x3 1x1 3x3 1x1 ──┬── 3x3 ── stride 16, 512
            ┌────────────────────────────────────────────────────┘
            └── 1x1 128 ── 2x up ──┐
    C3 ───────────────────────── concat ── 1x1 3x3 1x1 3x3 1x1 ───── 3x3 ── stride 8,  256

The 1x1 convolutions have 512, 256 and 128 channels, the 3x3 convolutions twice as many. In a concatenation, the
upsampled map is first. With Darknet-53 and 80 classes, the detector has 61,895,776 convolution weights and 65.864
BFLOPs at 416x416, the same as yolov3.cfg.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cspdet.models.base_config import ActivationName
from cspdet.models.blocks import ConvBN, upsample
from cspdet.models.necks.config import YOLOv3Config
from cspdet.models.necks.scales import select_top_levels, yolo_conv_stack
from cspdet.structures import Features, FeatureSpec

NUM_CONVS = 5  # convolutions before the branch to the next finer scale


class YOLOv3CoarsestScale(nn.Module):
    """Coarsest scale: (B, C, H, W) -> (B, width, H, W) and (B, 2 width, H, W).

    The first map is the input of the next finer scale, the second is the output of this scale.
    """

    def __init__(self, c_in: int, width: int, act: ActivationName):
        super().__init__()
        self.convs = yolo_conv_stack(c_in, width, NUM_CONVS, act)
        self.output_conv = ConvBN(width, 2 * width, 3, act=act)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        route = self.convs(x)
        return route, self.output_conv(route)


class YOLOv3FinerScale(nn.Module):
    """Fuse a coarser scale (B, 2 width, H/2, W/2) with a backbone map (B, C, H, W).

    Returns (B, width, H, W), the input of the next finer scale, and (B, 2 width, H, W), the output of this scale.
    """

    def __init__(self, c_in: int, width: int, act: ActivationName):
        super().__init__()
        self.reduce = ConvBN(2 * width, width, act=act)
        self.convs = yolo_conv_stack(width + c_in, width, NUM_CONVS, act)
        self.output_conv = ConvBN(width, 2 * width, 3, act=act)

    def forward(self, coarser: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        route = self.convs(torch.cat((upsample(self.reduce(coarser)), x), dim=1))
        return route, self.output_conv(route)


class YOLOv3Neck(nn.Module):
    """YOLOv3 neck: fuse the three coarsest maps.

    The outputs have the strides of these maps, and `width` / 2, `width` and 2 `width` channels.
    """

    def __init__(self, config: YOLOv3Config, inputs: tuple[FeatureSpec, ...]):
        super().__init__()
        fine, middle, coarse = select_top_levels(inputs, 3, config.name)
        width, act = config.width, config.activation
        self.coarse = YOLOv3CoarsestScale(coarse.channels, width, act)
        self.middle = YOLOv3FinerScale(middle.channels, width // 2, act)
        self.fine = YOLOv3FinerScale(fine.channels, width // 4, act)
        self.out_specs: tuple[FeatureSpec, ...] = (
            FeatureSpec(width // 2, fine.stride),
            FeatureSpec(width, middle.stride),
            FeatureSpec(2 * width, coarse.stride),
        )

    def forward(self, features: Features) -> Features:
        """Return the fused feature maps, finest first."""
        c3, c4, c5 = features[-3:]
        route, p5 = self.coarse(c5)
        route, p4 = self.middle(route, c4)
        _, p3 = self.fine(route, c3)
        return p3, p4, p5
