"""The layers of a cfg as modules, where PyTorch and the blocks of our own networks have no such module yet.

A module takes the feature maps of the layers that its section names, (B, C, H, W) each, and gives one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from cspdet.models.blocks import activation, shortcut


class _FunctionalActivation(nn.Module):
    """An activation that PyTorch has no module for."""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


# Those of Darknet's activations that depend on nothing but the number itself.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: activation("linear"),
    "leaky": lambda: activation("leaky"),
    "relu": lambda: activation("relu"),
    "mish": lambda: activation("mish"),
    "swish": lambda: activation("swish"),
    "logistic": lambda: activation("sigmoid"),
    "relu6": lambda: nn.ReLU6(inplace=True),
    "tanh": nn.Tanh,
    "elu": lambda: nn.ELU(inplace=True),
    "selu": lambda: nn.SELU(inplace=True),
    "gelu": lambda: nn.GELU(approximate="tanh"),
    "hardtan": lambda: nn.Hardtanh(inplace=True),
    "relie": lambda: nn.LeakyReLU(0.01, inplace=True),
    "ramp": lambda: _FunctionalActivation(lambda x: x.clamp(min=0) + 0.1 * x),
    "loggy": lambda: _FunctionalActivation(lambda x: 2 * x.sigmoid() - 1),
    "hard_mish": lambda: _FunctionalActivation(lambda x: 0.5 * x * (x + 2).clamp(min=0, max=2)),
}


class Convolution(nn.Module):
    """Convolution, normalization where there is one, activation: `[convolutional]`."""

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d | None, act: str):
        super().__init__()
        self.conv, self.norm, self.act = conv, norm, ACTIVATIONS[act]()

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.act(x if self.norm is None else self.norm(x))


class Connected(nn.Module):
    """(B, C, H, W) -> (B, outputs, 1, 1): `[connected]`."""

    def __init__(self, linear: nn.Linear, norm: nn.BatchNorm2d | None, act: str):
        super().__init__()
        self.linear, self.norm, self.act = linear, norm, ACTIVATIONS[act]()

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x.flatten(1))[:, :, None, None]
        return self.act(x if self.norm is None else self.norm(x))


def max_pool(size: int, stride_hw: tuple[int, int], padding: int) -> nn.Module:
    """`[maxpool]`: `padding` is what both sides have together; the left and upper ones get the smaller half."""
    before, after = padding // 2, padding - padding // 2
    if before == after and 2 * before <= size:
        return nn.MaxPool2d(size, stride_hw, before)
    if before == 0 and size == 2 and stride_hw == (2, 2):
        return nn.MaxPool2d(2, 2, ceil_mode=True)
    return nn.Sequential(
        nn.ConstantPad2d((before, after, before, after), -torch.inf), nn.MaxPool2d(size, stride_hw)
    )  # fmt: skip


class AvgPool(nn.Module):
    """`[local_avgpool]`: padded as `[maxpool]`, but what lies outside of the map is not counted."""

    def __init__(self, size: int, stride_hw: tuple[int, int], padding: int):
        super().__init__()
        before, after = padding // 2, padding - padding // 2
        self.pad = nn.ConstantPad2d((before, after, before, after), 0.0)
        self.pool = nn.AvgPool2d(size, stride_hw)

    def forward(self, x: Tensor) -> Tensor:
        inside = self.pad(torch.ones_like(x[:1, :1]))
        return self.pool(self.pad(x)) / nn.functional.avg_pool2d(inside, self.pool.kernel_size, self.pool.stride)


class Upsample(nn.Module):
    """`[upsample]`: every value `stride` times each way, times `scale`."""

    def __init__(self, stride: int, scale: float):
        super().__init__()
        self.upsample = nn.Upsample(scale_factor=float(stride), mode="nearest")
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        x = self.upsample(x)
        return x if self.scale == 1 else self.scale * x


class Route(nn.Module):
    """`[route]`: of every map the `group`-th of `groups` equal parts, one after the other."""

    def __init__(self, groups: int, group: int):
        super().__init__()
        self.groups, self.group = groups, group

    def forward(self, *maps: Tensor) -> Tensor:
        if self.groups > 1:
            maps = tuple(x.chunk(self.groups, dim=1)[self.group] for x in maps)
        return maps[0] if len(maps) == 1 else torch.cat(maps, dim=1)


class Shortcut(nn.Module):
    """`[shortcut]`: the map before and those that it names, added up; the activation stands behind the sum."""

    def __init__(self, act: str):
        super().__init__()
        self.act = ACTIVATIONS[act]()

    def forward(self, x: Tensor, *sources: Tensor) -> Tensor:
        for source in sources:
            x = shortcut(x, source)
        return self.act(x)


class Multiply(nn.Module):
    """`[sam]` and `[scale_channels]`: two maps multiplied, of which one may have one cell or one channel only."""

    def __init__(self, act: str):
        super().__init__()
        self.act = ACTIVATIONS[act]()

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        return self.act(x * source)


class SpaceToDepth(nn.Module):
    """`[reorg3d]`: (B, C, sH, sW) -> (B, s*s*C, H, W); the channels of one place in the s x s windows stay together."""

    def __init__(self, stride: int):
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        s = self.stride
        x = x.reshape(batch, channels, height // s, s, width // s, s)
        return x.permute(0, 3, 5, 1, 2, 4).reshape(batch, s * s * channels, height // s, width // s)


class Reorg(nn.Module):
    """`[reorg]`, YOLOv2's: `SpaceToDepth`, but of the numbers read as (B, C / s / s, s*sH, s*sW).

    Darknet mixes up the two sides; the networks were trained with it.
    """

    def __init__(self, stride: int):
        super().__init__()
        self.stride = stride
        self.inner = SpaceToDepth(stride)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        s = self.stride
        mixed = self.inner(x.reshape(batch, channels // (s * s), s * height, s * width))
        return mixed.reshape(batch, s * s * channels, height // s, width // s)


class YoloOutput(nn.Module):
    """`[yolo]` without its equations, which our own head has: (B, A * (5 + C), H, W) -> (B, A, H, W, 5 + C)."""

    def __init__(self, num_anchors: int):
        super().__init__()
        self.num_anchors = num_anchors

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        return x.view(batch, self.num_anchors, channels // self.num_anchors, height, width).permute(0, 1, 3, 4, 2)


class Logits(nn.Module):
    """`[softmax]` without its exponentials, which classifiers here leave to the loss."""

    def __init__(self, temperature: float):
        super().__init__()
        self.temperature = temperature

    def forward(self, x: Tensor) -> Tensor:
        return x if self.temperature == 1 else x / self.temperature
