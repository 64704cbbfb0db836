"""Building blocks that several networks share."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

ActivationName = Literal["leaky", "relu", "swish", "mish", "sigmoid", "linear"]

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

    def __init__(self, c_in: int, c_out: int, k: int = 1, stride: int = 1, act: ActivationName = "leaky"):
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, k, stride, padding=k // 2, bias=False)
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
        largest = x[:, : self.c_out]
        for first in range(self.c_out, self.c_in, self.c_out):
            largest = torch.maximum(largest, x[:, first : first + self.c_out])
        return largest


class SAM(nn.Module):
    """Spatial attention, point by point: the features times a sigmoid of their own 1x1 convolution.

    (B, C, H, W) -> (B, C, H, W). The `[sam]` of the authors' cfgs, after CBAM without its pooling.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.gate = ConvBN(channels, channels, act="sigmoid")

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


def initialize(module: nn.Module) -> None:
    """He initialization for leaky ReLU (He et al. 2015) in every convolution; linear layers as small normals."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, a=LEAKY_SLOPE, nonlinearity="leaky_relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
