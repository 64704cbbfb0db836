"""PANet with spatial pyramid pooling: three scales, top-down and bottom-up (csresnext50-panet-spp.cfg layers 81-135).

    C5 ── 1x1 3x3 1x1 ── SPP ── 1x1 3x3 1x1 ── P5

    C4 ── 1x1 256 ────────────┐
    P5 ── 1x1 256 ── 2x up ── concat ── 1x1 3x3 1x1 3x3 1x1 ── P4

    C3 ── 1x1 128 ────────────┐
    P4 ── 1x1 128 ── 2x up ── concat ── 1x1 3x3 1x1 3x3 1x1 ── N3 ── 3x3 ── [SAM] ── stride 8,  256

    N3 ── 3x3 256, stride 2 ──┐
    P4 ────────────────────── concat ── 1x1 3x3 1x1 3x3 1x1 ── N4 ── 3x3 ── [SAM] ── stride 16, 512

    N4 ── 3x3 512, stride 2 ──┐
    P5 ────────────────────── concat ── 1x1 3x3 1x1 3x3 1x1 ── N5 ── 3x3 ── [SAM] ── stride 32, 1024

The 1x1 convolutions have 512 channels in P5 and N5, 256 in P4 and N4, and 128 in N3; the 3x3 convolutions have twice
as many. In each concatenation, the map of the upper line is first. Cost with 80 classes and 3 anchors per
scale:

                         weights       BFLOPs at 512   at 416
    cspresnext50         56,853,440    71.3313         47.0898    equal to csresnext50-panet-spp.cfg
    cspresnet50          58,256,832    74.6868         49.3050
    cspdarknet53         64,296,032    91.0823         60.1286
    cspresnext50, SAM    58,229,696    72.9420         48.1531

SAM is not part of this cfg. It has the same position as in the CSPNet authors' later cfgs: the output of the last 3x3
convolution of each scale is multiplied by a 1x1 convolution of this output with logistic activation.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cspdet.models.base_config import ActivationName
from cspdet.models.blocks import SAM, SPP, ConvBN, upsample
from cspdet.models.necks.config import PANetSPPConfig
from cspdet.models.necks.scales import select_top_levels, yolo_conv_stack
from cspdet.structures import Features, FeatureSpec

NUM_CONVS = 5  # convolutions after a concatenation


class TopDown(nn.Module):
    """Top-down step: fuse a coarser map with a map of the backbone.

    (B, 2 width, H/2, W/2), (B, C, H, W) -> (B, width, H, W).
    """

    def __init__(self, c_in: int, width: int, act: ActivationName):
        super().__init__()
        self.reduce = ConvBN(2 * width, width, act=act)
        self.lateral = ConvBN(c_in, width, act=act)
        self.convs = yolo_conv_stack(2 * width, width, NUM_CONVS, act)

    def forward(self, coarser: Tensor, x: Tensor) -> Tensor:
        return self.convs(torch.cat((self.lateral(x), upsample(self.reduce(coarser))), dim=1))


class BottomUp(nn.Module):
    """Bottom-up step: fuse a finer map with a map of the top-down path.

    (B, width / 2, 2H, 2W), (B, width, H, W) -> (B, width, H, W).
    """

    def __init__(self, width: int, act: ActivationName):
        super().__init__()
        self.down = ConvBN(width // 2, width, 3, stride=2, act=act)
        self.convs = yolo_conv_stack(2 * width, width, NUM_CONVS, act)

    def forward(self, finer: Tensor, x: Tensor) -> Tensor:
        return self.convs(torch.cat((self.down(finer), x), dim=1))


def output_block(width: int, act: ActivationName, *, sam: bool) -> nn.Sequential:
    """Build the last block of a scale: (B, width, H, W) -> (B, 2 width, H, W)."""
    conv = ConvBN(width, 2 * width, 3, act=act)
    return nn.Sequential(conv, SAM(2 * width)) if sam else nn.Sequential(conv)


class PANetSPP(nn.Module):
    """PANet with SPP: fuse the three coarsest maps.

    The outputs have the strides of these maps, and `width` / 2, `width` and 2 `width` channels.
    """

    def __init__(self, config: PANetSPPConfig, inputs: tuple[FeatureSpec, ...]):
        super().__init__()
        fine, middle, coarse = select_top_levels(inputs, 3, config.name)
        width, act, sam = config.width, config.activation, config.sam
        self.pyramid = nn.Sequential(
            yolo_conv_stack(coarse.channels, width, 3, act), SPP(), yolo_conv_stack(4 * width, width, 3, act)
        )
        self.middle_down = TopDown(middle.channels, width // 2, act)
        self.fine_down = TopDown(fine.channels, width // 4, act)
        self.fine_output = output_block(width // 4, act, sam=sam)
        self.middle_up = BottomUp(width // 2, act)
        self.middle_output = output_block(width // 2, act, sam=sam)
        self.coarse_up = BottomUp(width, act)
        self.coarse_output = output_block(width, act, sam=sam)
        self.out_specs: tuple[FeatureSpec, ...] = (
            FeatureSpec(width // 2, fine.stride),
            FeatureSpec(width, middle.stride),
            FeatureSpec(2 * width, coarse.stride),
        )

    def forward(self, features: Features) -> Features:
        """Return the fused feature maps, finest first."""
        c3, c4, c5 = features[-3:]
        p5 = self.pyramid(c5)
        p4 = self.middle_down(p5, c4)
        n3 = self.fine_down(p4, c3)
        n4 = self.middle_up(n3, p4)
        n5 = self.coarse_up(n4, p5)
        return self.fine_output(n3), self.middle_output(n4), self.coarse_output(n5)
