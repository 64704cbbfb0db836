"""CSPResNet-10: ResNet-10 with cross stage partial stages.

    stem     7x7/2 64, maxpool 2x2 ──────────── stride 4
    stage 1  64 + 64 ──── T2 128
    stage 2  64 + 64 ──── T2 128 ── C3, stride 8
    stage 3  128 + 128 ── T2 256 ── C4, stride 16
    stage 4  256 + 256 ── T2 512 ── C5, stride 32

    stage    x ──┬── 1x1 shortcut ── maxpool 2x2, except in stage 1 ── concat, T1 first ── 1x1 T2
                 └── basic block, strided except in stage 1 ── 1x1 T1 ──┘

T1 is the convolution before the concatenation, T2 the one after it (see `cspdet.models.csp`).

This is a reconstruction: the authors published neither cfg nor weights. At 256x256, the classifier has 2,725,056
convolution and fc weights (published 2.73M) and 1.9046 BFLOPs (published 1.905). The published values do not determine
the type of pooling in the shortcut part. The basic block has the same shortcut as in the CSPNet authors' resnet10.cfg.
"""

from __future__ import annotations

from torch import Tensor, nn

from cspdet.models.backbones.config import CSPResNet10Config
from cspdet.models.backbones.residual import BasicBlock
from cspdet.models.backbones.resnet import STEM_CHANNELS, ResNetStem
from cspdet.models.base_config import ActivationName
from cspdet.models.blocks import ConvBN
from cspdet.models.csp import CSPStage, has_final_transition, has_partial_transition
from cspdet.structures import Features, FeatureSpec

SPLIT_CHANNELS = (64, 64, 128, 256)  # channels of each part of a stage
STRIDES = (1, 2, 2, 2)


class StridedSplit(nn.Module):
    """Split of a stage with a strided body: (B, C, H, W) -> shortcut (B, C_s, H/stride, W/stride), main (B, C, H, W).

    The shortcut part is a 1x1 convolution and max pooling. The main part is the unchanged input.
    """

    def __init__(self, c_in: int, shortcut_channels: int, stride: int, act: ActivationName):
        super().__init__()
        self.short_conv = ConvBN(c_in, shortcut_channels, act=act)
        self.pool = nn.MaxPool2d(stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.pool(self.short_conv(x)), x


class CSPResNet10(nn.Module):
    """CSPResNet-10 backbone: (B, 3, H, W) -> three feature maps of strides 8, 16 and 32, finest first.

    H and W are multiples of 32.
    """

    def __init__(self, config: CSPResNet10Config):
        super().__init__()
        act = config.activation
        self.stem = ResNetStem(act)
        self.stages, channels = nn.ModuleList(), [STEM_CHANNELS]
        for half, stride in zip(SPLIT_CHANNELS, STRIDES, strict=True):
            split = StridedSplit(channels[-1], half, stride, act)
            block = BasicBlock(channels[-1], half, act, stride=stride)
            partial_transition = ConvBN(half, half, act=act) if has_partial_transition(config.fusion) else nn.Identity()
            final_transition = (
                ConvBN(2 * half, 2 * half, act=act) if has_final_transition(config.fusion) else nn.Identity()
            )
            self.stages.append(CSPStage(split, block, partial_transition, final_transition))
            channels.append(2 * half)
        self.out_specs = tuple(FeatureSpec(c, stride) for c, stride in zip(channels[2:], (8, 16, 32), strict=True))

    def forward(self, image: Tensor) -> Features:
        """Return the feature maps, finest first."""
        c3 = self.stages[1](self.stages[0](self.stem(image)))
        c4 = self.stages[2](c3)
        c5 = self.stages[3](c4)
        return c3, c4, c5
