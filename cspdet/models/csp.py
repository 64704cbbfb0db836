"""Cross stage partial connections (CSPNet, Wang et al. 2019, section 3, figures 2-4).

    x ──┬── x0'  ── fraction gamma of the channels ───────────────┐
        │                                                         concat ── T2 ── out
        └── x0'' ── others ── body (dense, residual...) ──── T1 ──┘

The gradients of the two parts are separate, so that the layers of the body do not learn from duplicate gradient
information. T1 is the partial transition, before the concatenation; T2 is the final transition, after it:

    fusion   T1   T2    name in the paper
    both     yes  yes   CSP (figure 3b)
    first    no   yes   fusion first (figure 3c)
    last     yes  no    fusion last (figure 3d)
    none     no   no
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cspdet.models.base_config import ActivationName, Fusion
from cspdet.models.blocks import ConvBN


def has_partial_transition(fusion: Fusion) -> bool:
    """Return whether a fusion strategy has the partial transition T1, before the concatenation."""
    return fusion in ("both", "last")


def has_final_transition(fusion: Fusion) -> bool:
    """Return whether a fusion strategy has the final transition T2, after the concatenation."""
    return fusion in ("both", "first")


def partition(channels: int, gamma: float) -> tuple[int, int]:
    """Split a number of channels into the channels of the shortcut and the channels of the body.

    Args:
        channels: Input channels of the stage.
        gamma: Fraction of the channels that the shortcut receives.

    Returns:
        The channels of the shortcut, and the channels of the body.

    Raises:
        ValueError: One of the parts would be empty.
    """
    shortcut_channels = round(gamma * channels)
    if not 0 < shortcut_channels < channels:
        raise ValueError(f"gamma {gamma} of {channels} channels leaves one part of the split empty")
    return shortcut_channels, channels - shortcut_channels


class Split(nn.Module):
    """Split by channels: (B, C, H, W) -> shortcut (B, C_s, H, W), main (B, C_m, H, W).

    The shortcut part has the first C_s channels.
    """

    def __init__(self, shortcut_channels: int, main_channels: int):
        super().__init__()
        self.split_sizes = (shortcut_channels, main_channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shortcut, main = x.split(self.split_sizes, dim=1)
        return shortcut, main


class ConvSplit(nn.Module):
    """Split by two 1x1 convolutions, as in the cfgs of the CSPNet authors.

    (B, C, H, W) -> shortcut (B, C_s, H, W), main (B, C_m, H, W).
    """

    def __init__(self, c_in: int, shortcut_channels: int, main_channels: int, act: ActivationName):
        super().__init__()
        self.short_conv = ConvBN(c_in, shortcut_channels, act=act)
        self.main_conv = ConvBN(c_in, main_channels, act=act)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.short_conv(x), self.main_conv(x)


class TransitionSplit(nn.Module):
    """Final transition T2 of a stage merged with the split of the next stage, with average pooling of stride 2.

    (B, C, H, W) -> shortcut (B, C_s, H/2, W/2), main (B, C_m, H/2, W/2). Each output has its own convolution, as
    in the CSPNet authors' early cfgs. The published cost of the largest layer is the cost of one of these
    convolutions. One convolution followed by `Split` would compute the same.
    """

    def __init__(self, c_in: int, shortcut_channels: int, main_channels: int, *, pool_first: bool, act: ActivationName):
        super().__init__()
        self.split = ConvSplit(c_in, shortcut_channels, main_channels, act)
        self.pool = nn.AvgPool2d(2)
        self.pool_first = pool_first

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.pool_first:
            shortcut, main = self.split(self.pool(x))
            return shortcut, main
        shortcut, main = self.split(x)
        return self.pool(shortcut), self.pool(main)


class CSPStage(nn.Module):
    """Cross stage partial stage: the split of the input is x0' and x0'', the output is T2(concat(T1(body(x0'')), x0')).

    T1 is the partial transition, T2 the final transition. Modules and concatenated channels have the same order as in
    the CSPNet authors' cfgs.
    """

    def __init__(self, split: nn.Module, body: nn.Module, partial_transition: nn.Module, final_transition: nn.Module):
        """Build a stage from modules with matching channels.

        Args:
            split: Returns the shortcut part x0' and the main part x0''.
            body: Applied to the main part.
            partial_transition: T1; `nn.Identity()` for fusion strategies without T1.
            final_transition: T2; `nn.Identity()` without T2, or if T2 is part of the split of the next stage.
        """
        super().__init__()
        self.split, self.body = split, body
        self.partial_transition, self.final_transition = partial_transition, final_transition

    def forward(self, x: Tensor) -> Tensor:
        shortcut, main = self.split(x)
        return self.final_transition(torch.cat((self.partial_transition(self.body(main)), shortcut), dim=1))
