"""The cross stage partial connection: the idea of the paper, in one place (Wang et al. 2019, section 3, figures 2-4).

    x ──┬── x0'  ── gamma of the channels, untouched ─────────────┐
        │                                                         concat ── T2 ── out
        └── x0'' ── the rest ── body (dense, residual...) ── T1 ──┘

The gradients of the two parts stay apart until the concatenation, so that no layer of the body learns what the carried
part already says. T1 is the partial transition before the fusion, T2 the one after it:

    fusion   T1   T2    the paper's name
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
    """Whether the strategy has the partial transition, before the concatenation."""
    return fusion in ("both", "last")


def has_final_transition(fusion: Fusion) -> bool:
    """Whether the strategy has the transition after the concatenation."""
    return fusion in ("both", "first")


def partition(channels: int, gamma: float) -> tuple[int, int]:
    """How many channels are carried round the body and how many go through it.

    Raises:
        ValueError: one of the parts would be empty.
    """
    shortcut_channels = round(gamma * channels)
    if not 0 < shortcut_channels < channels:
        raise ValueError(f"gamma {gamma} of {channels} channels leaves one part of the split empty")
    return shortcut_channels, channels - shortcut_channels


class Split(nn.Module):
    """x0' and x0'' as the first and the other channels of x: (B, C, H, W) -> (B, carried, H, W), (B, worked, H, W)."""

    def __init__(self, shortcut_channels: int, main_channels: int):
        super().__init__()
        self.split_sizes = (shortcut_channels, main_channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shortcut, main = x.split(self.split_sizes, dim=1)
        return shortcut, main


class ConvSplit(nn.Module):
    """x0' and x0'' by a 1x1 convolution of x each: the split of the authors' released cfgs.

    (B, C, H, W) -> (B, carried, H, W), (B, worked, H, W).
    """

    def __init__(self, c_in: int, shortcut_channels: int, main_channels: int, act: ActivationName):
        super().__init__()
        self.short_conv = ConvBN(c_in, shortcut_channels, act=act)
        self.main_conv = ConvBN(c_in, main_channels, act=act)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.short_conv(x), self.main_conv(x)


class TransitionSplit(nn.Module):
    """T2 of one stage and the split of the next at once: a `ConvSplit` round a halving average pool.

    (B, C, H, W) -> (B, carried, H/2, W/2), (B, worked, H/2, W/2). The same function as one convolution of both widths
    followed by `Split`, but written as the authors' early cfgs have it, which is what their largest layer refers to.
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
    """Split, run the body on one part, fuse: T2(concat(T1(body(x0'')), x0')).

    The parts are built outside and must fit each other; `nn.Identity()` stands for a transition that the fusion
    strategy leaves out, or for a T2 that belongs to the next stage's split. Modules are registered, and channels
    concatenated, in the order of the authors' cfgs.
    """

    def __init__(self, split: nn.Module, body: nn.Module, partial_transition: nn.Module, final_transition: nn.Module):
        super().__init__()
        self.split, self.body, self.partial_transition, self.final_transition = (
            split,
            body,
            partial_transition,
            final_transition,
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut, main = self.split(x)
        return self.final_transition(torch.cat((self.partial_transition(self.body(main)), shortcut), dim=1))
