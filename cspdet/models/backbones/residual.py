"""Residual blocks of ResNet, ResNeXt, Darknet-53 and their CSP versions, as in the CSPNet authors' cfgs.

    Bottleneck        x ── 1x1 ── 3x3 (groups) ── 1x1 linear ─(+)── activation       csresnext50.cfg layers 9-12
    BasicBlock        x ── 3x3 ── 3x3 linear ─────────────────(+)── activation       resnet10.cfg layers 2-4
    DarknetResidual   x ── 1x1 ── 3x3 ────────────────────────(+)                    darknet53.cfg layers 2-4
                      └────────── Darknet's shortcut ──────────┘

    Elastic           x ──┬── first half ── convolutions ─────────────────────────────┐
                          └── second half ── maxpool 2x2 ── convolutions ── upsample ─┴─ concat

The elastic blocks have `Elastic` instead of the convolutions (Wang et al. 2019, "ELASTIC"; csresnet50-elastic.cfg
layers 5-16, csdarknet53-elastic.cfg layers 5-14). The shortcut is `cspdet.models.blocks.shortcut`. It has no
projection: if a block changes the number of channels or the resolution, the input is subsampled, and only the channels
that input and output have in common are added.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cspdet.models.base_config import ActivationName
from cspdet.models.blocks import ConvBN, activation, shortcut, upsample


class Residual(nn.Module):
    """Residual block: act(path(x) + x), with Darknet's shortcut; the output has the shape of path(x)."""

    def __init__(self, path: nn.Module, act: ActivationName):
        super().__init__()
        self.path = path
        self.act = activation(act)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(shortcut(self.path(x), x))


class Elastic(nn.Module):
    """Apply `fine` to half of the channels and `coarse` to the others at half the resolution; concatenate the outputs.

    (B, C, H, W) -> (B, C', H, W). For an odd H or W, the pooling rounds up, and the upsampled map is cropped. Darknet
    (the CSPNet authors' version) rejects odd sizes.
    """

    def __init__(self, fine: nn.Module, coarse: nn.Module):
        super().__init__()
        self.fine = fine
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        self.coarse = coarse

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        fine, coarse = x.chunk(2, dim=1)
        raised = upsample(self.coarse(self.pool(coarse)))
        return torch.cat((self.fine(fine), raised[:, :, :height, :width]), dim=1)


class Bottleneck(Residual):
    """Block of ResNet-50 and ResNeXt-50: (B, c_in, H, W) -> (B, c_out, H/stride, W/stride).

    The 3x3 convolution has the stride.
    """

    def __init__(self, c_in: int, c_mid: int, c_out: int, act: ActivationName, *, stride: int = 1, groups: int = 1):
        super().__init__(bottleneck_path(c_in, c_mid, c_out, act, stride=stride, groups=groups), act)


class BasicBlock(Residual):
    """Block of ResNet-10: (B, c_in, H, W) -> (B, c_out, H/stride, W/stride).

    The first 3x3 convolution has the stride.
    """

    def __init__(self, c_in: int, c_out: int, act: ActivationName, *, stride: int = 1):
        path = nn.Sequential(ConvBN(c_in, c_out, 3, stride, act=act), ConvBN(c_out, c_out, 3, act="linear"))
        super().__init__(path, act)


class DarknetResidual(Residual):
    """Block of Darknet-53, without activation after the sum: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, c_mid: int, act: ActivationName):
        super().__init__(darknet_path(channels, c_mid, act), "linear")


class ElasticBottleneck(Residual):
    """Bottleneck block with `Elastic`: (B, C, H, W) -> (B, C, H, W).

    Each half of the channels has a bottleneck of width c_mid.
    """

    def __init__(self, channels: int, c_mid: int, act: ActivationName, *, groups: int = 1):
        half = channels // 2
        fine, coarse = (bottleneck_path(half, c_mid, half, act, groups=groups) for _ in range(2))
        super().__init__(Elastic(fine, coarse), act)


class ElasticDarknetResidual(Residual):
    """Darknet-53 block with `Elastic`: (B, C, H, W) -> (B, C, H, W).

    Each half of the channels has a path of width c_mid.
    """

    def __init__(self, channels: int, c_mid: int, act: ActivationName):
        half = channels // 2
        fine, coarse = (darknet_path(half, c_mid, act) for _ in range(2))
        super().__init__(Elastic(fine, coarse), "linear")


def bottleneck_path(
    c_in: int, c_mid: int, c_out: int, act: ActivationName, *, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Build 1x1, 3x3 and linear 1x1 convolutions. The activation of the block follows the sum with the shortcut."""
    return nn.Sequential(
        ConvBN(c_in, c_mid, act=act),
        ConvBN(c_mid, c_mid, 3, stride, groups=groups, act=act),
        ConvBN(c_mid, c_out, act="linear"),
    )


def darknet_path(channels: int, c_mid: int, act: ActivationName) -> nn.Sequential:
    """Build 1x1 and 3x3 convolutions, both with activation."""
    return nn.Sequential(ConvBN(channels, c_mid, act=act), ConvBN(c_mid, channels, 3, act=act))
