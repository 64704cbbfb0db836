"""Building blocks that several networks share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cspdet.models.base_config import ActivationName

LEAKY_SLOPE = 0.1  # Darknet's


def activation(name: ActivationName) -> nn.Module:
    """The activation that a Darknet cfg calls leaky, relu, swish, mish, logistic or linear."""
    if name == "leaky":
        return nn.LeakyReLU(LEAKY_SLOPE, inplace=True)
    if name == "relu":
        return nn.ReLU(inplace=True)
    if name == "swish":
        return nn.SiLU(inplace=True)
    if name == "mish":
        return nn.Mish(inplace=True)
    if name == "sigmoid":
        return nn.Sigmoid()
    return nn.Identity()


class ConvBN(nn.Module):
    """Convolution without bias, batch normalization, activation: (B, c_in, H, W) -> (B, c_out, H/stride, W/stride)."""

    def __init__(
        self, c_in: int, c_out: int, k: int = 1, stride: int = 1, *, groups: int = 1, act: ActivationName = "leaky"
    ):
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, k, stride, padding=k // 2, groups=groups, bias=False)
        # Darknet's rolling average keeps 0.99 a step; 0.97 serves data sets of a few hundred pictures as well
        self.norm = nn.BatchNorm2d(c_out, eps=1e-5, momentum=0.03)
        self.act = activation(act)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


class Maxout(nn.Module):
    """Compress channels by their maximum: output channel k is the largest of the inputs k, k + c_out, k + 2 c_out, ...

    (B, c_in, H, W) -> (B, c_out, H, W), without weights. Darknet's `maxpool_depth`, whose groups are strided, not
    contiguous.
    """

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        if c_out < 1 or c_in % c_out:
            raise ValueError(f"Maxout needs c_in to be a multiple of c_out; got {c_in} and {c_out}")
        self.c_in, self.c_out = c_in, c_out

    def forward(self, x: Tensor) -> Tensor:
        if self.c_in == self.c_out:
            return x
        # split, not slices: the gradients of its parts are put together at once, those of slices summed one by one
        parts = x.split(self.c_out, dim=1)
        largest = parts[0]
        for group in range(1, self.c_in // self.c_out):
            largest = torch.maximum(largest, parts[group])
        return largest


class SPP(nn.Module):
    """Spatial pyramid pooling: the 13x13, 9x9 and 5x5 neighborhoods' maxima, and the features themselves.

    (B, C, H, W) -> (B, 4C, H, W), in the order of the `[route]` of the authors' cfgs.
    """

    SIZES = (13, 9, 5)

    def __init__(self) -> None:
        super().__init__()
        self.pools = nn.ModuleList(nn.MaxPool2d(size, stride=1, padding=size // 2) for size in self.SIZES)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((*(pool(x) for pool in self.pools), x), dim=1)


class SqueezeExcite(nn.Module):
    """The features times a gate a channel, computed from their averages (Hu et al. 2018).

    (B, C, H, W) -> (B, C, H, W). Two 1x1 convolutions with bias and without normalization, as in Darknet's cfgs.
    """

    def __init__(self, channels: int, reduction: int, act: ActivationName):
        super().__init__()
        self.average = nn.AdaptiveAvgPool2d(1)
        self.squeeze = nn.Conv2d(channels, channels // reduction, 1)
        self.act = activation(act)
        self.excite = nn.Conv2d(channels // reduction, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.excite(self.act(self.squeeze(self.average(x)))).sigmoid()


class SAM(nn.Module):
    """Spatial attention, point by point: the features times a sigmoid of their own 1x1 convolution.

    (B, C, H, W) -> (B, C, H, W). The `[sam]` of the authors' cfgs, after CBAM without its pooling.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.gate = ConvBN(channels, channels, act="sigmoid")

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


def shortcut(x: Tensor, source: Tensor) -> Tensor:
    """Darknet's `[shortcut]`: x plus the channels that both have; the result has the shape of x.

    (B, C, H, W), (B, C', sH, sW) -> (B, C, H, W). A source of more channels gives its first C; one of fewer changes
    only the first C' of x; one of s times the size is read at every s-th pixel, as the authors' Darknet did.
    """
    step = source.shape[2] // x.shape[2]
    if step > 1:
        source = source[:, :, ::step, ::step]
    channels, given = x.shape[1], source.shape[1]
    if given == channels:
        return x + source
    if given > channels:
        return x + source[:, :channels]
    return torch.cat((x[:, :given] + source, x[:, given:]), dim=1)


def upsample(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 2H, 2W), nearest."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def init_weights(module: nn.Module) -> None:
    """He initialization for leaky ReLU (He et al. 2015) in every convolution; linear layers as small normals.

    A part that has the attribute `skip_init_weights` keeps the weights that it came with.
    """
    if getattr(module, "skip_init_weights", False):
        return
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, a=LEAKY_SLOPE, nonlinearity="leaky_relu")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
    if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
        nn.init.zeros_(module.bias)
    for child in module.children():
        init_weights(child)
