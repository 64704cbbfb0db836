"""ResNet-10, ResNet-50 and ResNeXt-50 of the CSPNet authors' cfgs: the baselines of the CSP versions.

    stem     7x7/2 64, maxpool 2x2 ─────────────────── stride 4
    stage 1  blocks ────────────────────────────────── stride 4
    stage 2  blocks, first strided ──── C3, stride 8
    stage 3  blocks, first strided ──── C4, stride 16
    stage 4  blocks, first strided ──── C5, stride 32

Sources: the authors' resnet10.cfg, resnet50.cfg, resnext50.cfg. These networks differ from the original ResNets in
three points: leaky ReLU instead of ReLU, a 2x2 maxpool, and shortcuts without projection. In the first block of a
stage, the input is subsampled to the size of the output, and added to the first channels of the output.

Cost as classifiers of 1000 classes at 256x256:

                 weights      published    BFLOPs    published
    resnet10      5,240,000    5.24M        2.2733    2.273
    resnet50     22,734,016   22.73M        9.7422    9.74
    resnext50    22,190,784   22.19M       10.1113   10.11

resnet50.cfg has its 1000-class convolution before the average pooling. The outputs are the same, but the cost is 10.00
BFLOPs.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from cspdet.models.backbones.config import ResNetConfig
from cspdet.models.backbones.residual import BasicBlock, Bottleneck
from cspdet.models.base_config import ActivationName
from cspdet.models.blocks import ConvBN
from cspdet.structures import Features, FeatureSpec

STEM_CHANNELS = 64


class ResNetArchSpec(NamedTuple):
    """Parameters of a network, one value per stage. If `mid_channels` is None, the blocks are basic blocks."""

    depths: tuple[int, ...]
    mid_channels: tuple[int, ...] | None  # channels of the 3x3 convolution of a bottleneck
    out_channels: tuple[int, ...]
    groups: int


ARCH_SPECS = {
    "resnet10": ResNetArchSpec((1, 1, 1, 1), None, (64, 128, 256, 512), 1),
    "resnet50": ResNetArchSpec((3, 4, 6, 3), (64, 128, 256, 512), (256, 512, 1024, 2048), 1),
    "resnext50": ResNetArchSpec((3, 4, 6, 3), (128, 256, 512, 1024), (256, 512, 1024, 2048), 32),
}


class ResNetStem(nn.Sequential):
    """Stem of all ResNets: (B, 3, H, W) -> (B, 64, H/4, W/4)."""

    def __init__(self, act: ActivationName):
        super().__init__(ConvBN(3, STEM_CHANNELS, 7, 2, act=act), nn.MaxPool2d(2))


class ResNet(nn.Module):
    """ResNet backbone: (B, 3, H, W) -> three feature maps of strides 8, 16 and 32, finest first.

    H and W are multiples of 32.
    """

    def __init__(self, config: ResNetConfig):
        super().__init__()
        spec = ARCH_SPECS[config.name]
        self.stem = ResNetStem(config.activation)
        self.stages, c_in = nn.ModuleList(), STEM_CHANNELS
        for i, c_out in enumerate(spec.out_channels):
            self.stages.append(_make_stage(spec, i, c_in, config.activation))
            c_in = c_out
        self.out_specs = tuple(
            FeatureSpec(c, stride) for c, stride in zip(spec.out_channels[1:], (8, 16, 32), strict=True)
        )

    def forward(self, image: Tensor) -> Features:
        """Return the feature maps, finest first."""
        c3 = self.stages[1](self.stages[0](self.stem(image)))
        c4 = self.stages[2](c3)
        c5 = self.stages[3](c4)
        return c3, c4, c5


def _make_stage(spec: ResNetArchSpec, i: int, c_in: int, act: ActivationName) -> nn.Sequential:
    """Build stage i (from 0). The first block halves the resolution, except in stage 0."""
    blocks: list[nn.Module] = []
    c_out = spec.out_channels[i]
    for j in range(spec.depths[i]):
        stride = 2 if j == 0 and i > 0 else 1
        if spec.mid_channels is None:
            blocks.append(BasicBlock(c_in, c_out, act, stride=stride))
        else:
            blocks.append(Bottleneck(c_in, spec.mid_channels[i], c_out, act, stride=stride, groups=spec.groups))
        c_in = c_out
    return nn.Sequential(*blocks)
