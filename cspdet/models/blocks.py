"""Building blocks of the networks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cspdet.models.base_config import ActivationName

LEAKY_SLOPE = 0.1  # negative slope in Darknet


def activation(name: ActivationName) -> nn.Module:
    """Return the activation module for a Darknet name; Darknet's `logistic` is called `sigmoid` here."""
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
        # Darknet's momentum is 0.01; with 0.03, datasets of a few hundred images work too
        self.norm = nn.BatchNorm2d(c_out, eps=1e-5, momentum=0.03)
        self.act = activation(act)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


class Maxout(nn.Module):
    """Maximum over channels: output k is the maximum of the input channels k, k + c_out, k + 2 c_out, ...

    (B, c_in, H, W) -> (B, c_out, H, W), without weights. This is Darknet's `maxpool_depth`; the channels of a group are
    strided, not contiguous.
    """

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        if c_out < 1 or c_in % c_out:
            raise ValueError(f"Maxout needs c_in to be a multiple of c_out; got {c_in} and {c_out}")
        self.c_in, self.c_out = c_in, c_out

    def forward(self, x: Tensor) -> Tensor:
        if self.c_in == self.c_out:
            return x
        # split instead of slicing: the backward pass concatenates the gradients once, instead of adding padded tensors
        parts = x.split(self.c_out, dim=1)
        maximum = parts[0]
        for group in range(1, self.c_in // self.c_out):
            maximum = torch.maximum(maximum, parts[group])
        return maximum


class SPP(nn.Module):
    """Spatial pyramid pooling: max pooling over 13x13, 9x9 and 5x5, concatenated with the input.

    (B, C, H, W) -> (B, 4C, H, W). The order of the maps is that of the CSPNet authors' cfgs.
    """

    SIZES = (13, 9, 5)

    def __init__(self) -> None:
        super().__init__()
        self.pools = nn.ModuleList(nn.MaxPool2d(size, stride=1, padding=size // 2) for size in self.SIZES)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((*(pool(x) for pool in self.pools), x), dim=1)


class SqueezeExcite(nn.Module):
    """Squeeze-and-excitation: scale each channel by a gate computed from global averages (Hu et al. 2018).

    (B, C, H, W) -> (B, C, H, W). The gate has two 1x1 convolutions with bias and without normalization, as in Darknet's
    cfgs.
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
    """Pointwise spatial attention: (B, C, H, W) -> (B, C, H, W).

    The input is multiplied by the sigmoid of a 1x1 convolution of the input with batch normalization. This is `[sam]`
    in the CSPNet authors' cfgs: the spatial attention of CBAM without pooling.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.gate = ConvBN(channels, channels, act="sigmoid")

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


def shortcut(x: Tensor, source: Tensor) -> Tensor:
    """Add two feature maps that may differ in channels and resolution (Darknet's `[shortcut]`).

    x (B, C, H, W), source (B, C', sH, sW) -> (B, C, H, W), with an integer s. If C' > C, only the first C channels of
    `source` are added. If C' < C, `source` is added to the first C' channels of `x`. If s > 1, `source` is first
    subsampled with stride s.
    """
    step = source.shape[2] // x.shape[2]
    if step > 1:
        source = source[:, :, ::step, ::step]
    channels, source_channels = x.shape[1], source.shape[1]
    if source_channels == channels:
        return x + source
    if source_channels > channels:
        return x + source[:, :channels]
    return torch.cat((x[:, :source_channels] + source, x[:, source_channels:]), dim=1)


def upsample(x: Tensor) -> Tensor:
    """Upsample by nearest neighbor: (B, C, H, W) -> (B, C, 2H, 2W)."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def init_weights(module: nn.Module) -> None:
    """Initialize convolutions with He initialization for leaky ReLU, linear layers with N(0, 0.01^2), biases with 0.

    Modules whose attribute `skip_init_weights` is true are not changed.
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
