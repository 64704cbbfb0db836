"""Exact Fusion Model: each anchor scale sees the scale below, its own and the one above (CSPNet paper, figure 6c).

                                                               head of the scale
    C3 ─1x1─ P3 ──────────────────────────────┐
             │                     P3 64 ─────┴─ concat ─[SAM]─ 1x1 3x3 1x1 3x3 ── stride 8,   64
             │            P4 ─maxout 64, up ──┘
             └maxpool 64 ─────────────┐
    C4 ─1x1─ P4 ───────────── P4 128 ─┼───────── concat ─[SAM]─ 1x1 3x3 1x1 3x3 ── stride 16, 128
             │       P5 ─maxout 64, up┘
             └maxpool 128 ────────────┐
    C5 ─1x1─ P5 ──── P5 ─maxout 128 ──┴───────── concat ─[SAM]─ 1x1 3x3 1x1 3x3 ── stride 32, 256

Maxout compresses before the concatenation, which keeps every 3x3 convolution at the same cost ("balance computation").
A reconstruction, since no cfg was released: with CSPPeleeNet at 416x416 and 80 classes it counts 4.837 BFLOPs
(published 4.868), with SAM 5.037 (published 5.068); its largest layer, 0.1994, is 80% below PeleeNet-YOLO's.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from cspdet.config import ConfigModel
from cspdet.models.blocks import SAM, ActivationName, ConvBN, Maxout
from cspdet.types import Features, FeatureSpec


class EFMConfig(ConfigModel):
    """width is that of the finest scale; each coarser one doubles it."""

    name: Literal["efm"]
    width: int = Field(64, ge=2, multiple_of=2)
    sam: bool = False
    activation: ActivationName = "leaky"

    def build(self, inputs: tuple[FeatureSpec, ...]) -> EFM:
        return EFM(self, inputs)


class EFM(nn.Module):
    """Three maps to three maps of the same strides, `width`, 2 `width` and 4 `width` channels, finest first."""

    def __init__(self, config: EFMConfig, inputs: tuple[FeatureSpec, ...]):
        super().__init__()
        if len(inputs) != 3:
            raise ValueError(f"EFM fuses three scales; the backbone gives {len(inputs)}")
        fine, middle, coarse = config.width, 2 * config.width, 4 * config.width
        act = config.activation
        self.lateral = nn.ModuleList(
            ConvBN(spec.channels, c, act=act) for spec, c in zip(inputs, (fine, middle, coarse), strict=True)
        )
        self.down = nn.MaxPool2d(2)
        self.middle_to_fine = Maxout(middle, fine)
        self.coarse_to_middle = Maxout(coarse, fine)
        self.coarse_to_coarse = Maxout(coarse, middle)
        fused = (2 * fine, 2 * fine + middle, 2 * middle)
        self.attend = nn.ModuleList(SAM(c) if config.sam else nn.Identity() for c in fused)
        self.refine = nn.ModuleList(
            nn.Sequential(
                ConvBN(c_in, c, 1, act=act),
                ConvBN(c, c, 3, act=act),
                ConvBN(c, c, 1, act=act),
                ConvBN(c, c, 3, act=act),
            )
            for c_in, c in zip(fused, (fine, middle, coarse), strict=True)
        )
        self.out = tuple(FeatureSpec(c, spec.stride) for c, spec in zip((fine, middle, coarse), inputs, strict=True))

    def forward(self, features: Features) -> Features:
        p3, p4, p5 = (conv(x) for conv, x in zip(self.lateral, features, strict=True))
        fused = (
            torch.cat((p3, upsample(self.middle_to_fine(p4))), dim=1),
            torch.cat((self.down(p3), p4, upsample(self.coarse_to_middle(p5))), dim=1),
            torch.cat((self.down(p4), self.coarse_to_coarse(p5)), dim=1),
        )
        return tuple(refine(attend(x)) for attend, refine, x in zip(self.attend, self.refine, fused, strict=True))


def upsample(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 2H, 2W), nearest."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
