"""Modules for cfg layers that neither PyTorch nor `cspdet.models.blocks` provides.

The inputs of a module are the outputs of the input layers of its section, each of shape (B, C, H, W). A module returns
one feature map.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from cspdet.models.blocks import activation, shortcut


class _FunctionalActivation(nn.Module):
    """An activation that PyTorch does not provide as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


# Darknet's elementwise activations, by their names in a cfg.
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
    """A `[convolutional]` layer: convolution, optional batch normalization, activation."""

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d | None, act: str):
        super().__init__()
        self.conv, self.norm, self.act = conv, norm, ACTIVATIONS[act]()

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.act(x if self.norm is None else self.norm(x))


class Connected(nn.Module):
    """A `[connected]` layer: fully connected, (B, C, H, W) -> (B, outputs, 1, 1)."""

    def __init__(self, linear: nn.Linear, norm: nn.BatchNorm2d | None, act: str):
        super().__init__()
        self.linear, self.norm, self.act = linear, norm, ACTIVATIONS[act]()

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x.flatten(1))[:, :, None, None]
        return self.act(x if self.norm is None else self.norm(x))


def max_pool(size: int, stride_hw: tuple[int, int], padding: int) -> nn.Module:
    """Create a `[maxpool]` layer.

    Args:
        size: Kernel size.
        stride_hw: Vertical and horizontal stride.
        padding: Sum of the padding of two opposite sides. If the sum is odd, the right and lower sides get one cell
            more.
    """
    before, after = padding // 2, padding - padding // 2
    if before == after and 2 * before <= size:
        return nn.MaxPool2d(size, stride_hw, before)
    if before == 0 and size == 2 and stride_hw == (2, 2):
        return nn.MaxPool2d(2, 2, ceil_mode=True)
    return nn.Sequential(
        nn.ConstantPad2d((before, after, before, after), -torch.inf), nn.MaxPool2d(size, stride_hw)
    )  # fmt: skip


class AvgPool(nn.Module):
    """A `[local_avgpool]` layer. Padded cells are excluded from the average.

    If the padding is odd, the right and lower sides get one cell more.
    """

    def __init__(self, size: int, stride_hw: tuple[int, int], padding: int):
        super().__init__()
        before, after = padding // 2, padding - padding // 2
        self.pad = nn.ConstantPad2d((before, after, before, after), 0.0)
        self.pool = nn.AvgPool2d(size, stride_hw)

    def forward(self, x: Tensor) -> Tensor:
        inside = self.pad(torch.ones_like(x[:1, :1]))
        return self.pool(self.pad(x)) / nn.functional.avg_pool2d(inside, self.pool.kernel_size, self.pool.stride)


class Upsample(nn.Module):
    """An `[upsample]` layer: nearest-neighbor upsampling by `stride`, then multiplication by `scale`."""

    def __init__(self, stride: int, scale: float):
        super().__init__()
        self.upsample = nn.Upsample(scale_factor=float(stride), mode="nearest")
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        x = self.upsample(x)
        return x if self.scale == 1 else self.scale * x


class Route(nn.Module):
    """A `[route]` layer: concatenates its inputs along the channels.

    If `groups` is above 1, each input is split into `groups` channel groups, and only the group with index `group` is
    used.
    """

    def __init__(self, groups: int, group: int):
        super().__init__()
        self.groups, self.group = groups, group

    def forward(self, *maps: Tensor) -> Tensor:
        if self.groups > 1:
            maps = tuple(x.chunk(self.groups, dim=1)[self.group] for x in maps)
        return maps[0] if len(maps) == 1 else torch.cat(maps, dim=1)


class Shortcut(nn.Module):
    """A `[shortcut]` layer: adds its inputs, then applies the activation."""

    def __init__(self, act: str):
        super().__init__()
        self.act = ACTIVATIONS[act]()

    def forward(self, x: Tensor, *sources: Tensor) -> Tensor:
        for source in sources:
            x = shortcut(x, source)
        return self.act(x)


class Multiply(nn.Module):
    """A `[sam]` or `[scale_channels]` layer: product of two maps. One of them may have a single cell or channel."""

    def __init__(self, act: str):
        super().__init__()
        self.act = ACTIVATIONS[act]()

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        return self.act(x * source)


class SpaceToDepth(nn.Module):
    """A `[reorg3d]` layer: (B, C, sH, sW) -> (B, s*s*C, H, W).

    Output channel (s*y + x) * C + c has the values of channel c at offset (y, x) of each s x s window.
    """

    def __init__(self, stride: int):
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        s = self.stride
        x = x.reshape(batch, channels, height // s, s, width // s, s)
        return x.permute(0, 3, 5, 1, 2, 4).reshape(batch, s * s * channels, height // s, width // s)


class Reorg(nn.Module):
    """A `[reorg]` layer of YOLOv2: (B, C, H, W) -> (B, s*s*C, H/s, W/s).

    The input is viewed as (B, C/(s*s), s*H, s*W) and passed to `SpaceToDepth`; the result is viewed as the output
    shape. Darknet's implementation does the same, and the published networks were trained with it.
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


class Logits(nn.Module):
    """A `[softmax]` layer that divides the logits by the temperature; the loss applies the softmax."""

    def __init__(self, temperature: float):
        super().__init__()
        self.temperature = temperature

    def forward(self, x: Tensor) -> Tensor:
        return x if self.temperature == 1 else x / self.temperature
