"""ThunderNet's Context Enhancement Module (Qin et al. 2019, section 3.2), with three output scales.

    C4 ─1x1──────────────┐              ┌─ maxpool ─[SAM]─ 1x1 3x3 ── stride 32, 256
    C5 ─1x1──────── up ──┼─ sum, 128 ───┼───────────[SAM]─ 1x1 3x3 ── stride 16, 128
     └─ average ─ fc ────┘              └─ up ──────[SAM]─ 1x1 3x3 ── stride 8,   64

The module itself is equal to ThunderNet's: the outputs of two 1x1 convolutions and a fully connected layer are summed
into one map at the scale of C4. In ThunderNet, one region proposal network reads this map; in the CSPNet paper, three
heads read it. The heads are a reconstruction:

- The published cost of SAM is 0.116 BFLOPs. This is the cost of a 1x1 convolution of 128 channels at strides 8, 16 and
  32, so the sum has 128 channels and is resized before the heads reduce its channels.
- Each head is a pair of convolutions as in EFM. Their 3x3 convolutions have the same cost at every scale, 0.1994
  BFLOPs, as the largest layer in the paper; a 3x3 convolution of 128 channels at stride 8 would cost 0.797.

With CSPPeleeNet at 416x416 and 80 classes, the detector has 4.020 BFLOPs (published 4.049, 0.7% more); with SAM, 4.137
(published 4.165). The map is resized by pooling, as in EFM. With a 3x3 convolution of stride 2 instead, the detector
would have 4.070 BFLOPs.
"""

from __future__ import annotations

from torch import nn

from cspdet.models.blocks import SAM, ConvBN, upsample
from cspdet.models.necks.config import CEMConfig
from cspdet.models.necks.efm import conv_block
from cspdet.models.necks.scales import select_top_levels
from cspdet.structures import Features, FeatureSpec


class CEM(nn.Module):
    """Context Enhancement Module: fuse the two coarsest maps C4 and C5 into three maps.

    The outputs have 1/2, 1 and 2 times the stride of C4, and `width`, 2 `width` and 4 `width` channels.
    """

    def __init__(self, config: CEMConfig, inputs: tuple[FeatureSpec, ...]):
        super().__init__()
        c4, c5 = select_top_levels(inputs, 2, config.name)
        context, act = 2 * config.width, config.activation
        self.c4_lateral = ConvBN(c4.channels, context, act=act)
        self.c5_lateral = ConvBN(c5.channels, context, act=act)
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        # No batch normalization: with one value per channel and image, the statistics would be inaccurate
        self.global_conv = nn.Conv2d(c5.channels, context, 1)
        self.down = nn.MaxPool2d(2)
        self.attention = nn.ModuleList(SAM(context) if config.sam else nn.Identity() for _ in range(3))
        widths = (config.width, 2 * config.width, 4 * config.width)
        self.conv_blocks = nn.ModuleList(conv_block(context, c, 1, act) for c in widths)
        strides = (c4.stride // 2, c4.stride, c5.stride)
        self.out_specs = tuple(FeatureSpec(c, stride) for c, stride in zip(widths, strides, strict=True))

    def forward(self, features: Features) -> Features:
        """Return the fused feature maps, finest first."""
        c4, c5 = features[-2:]
        context = self.c4_lateral(c4) + upsample(self.c5_lateral(c5)) + self.global_conv(self.global_pool(c5))
        scales = (upsample(context), context, self.down(context))
        return tuple(
            block(attention(x)) for attention, block, x in zip(self.attention, self.conv_blocks, scales, strict=True)
        )
