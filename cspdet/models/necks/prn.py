"""Partial residual network (Wang et al. 2019): maps are fused by adding their first channels, not by concatenation.

    C5 ─ 1x1 256 ─┬─ 3x3 256 ─┬─ + ────────────────────────── stride 32, 256
                  └───────────┼──┘
       ┌──────────────────────┘
       └─ 1x1 128 ─ 2x up ─┬─ + ─ 3x3 128 ─┬─ + ─ + ───────── stride 16, 128
                           └──┼────────────┼──┘   │
    C4[:128] ─────────────────┴────────────┼──────┘
       ┌───────────────────────────────────┘
       └─ 1x1 128 ─ 2x up ─┬─ + ─ 3x3 128 ─── + ─ + ───────── stride 8,  128, in PRN-3l
                           └──┼───────────────┘   │
    C3[:128] ─────────────────┴───────────────────┘

Each + is followed by the activation. The two scales of PRN are yolov3-tiny-prn.cfg layers 14-25. PRN-3l is a
reconstruction, because no cfg was published: its third scale repeats the second one. Cost with 80 classes and 3 anchors
per scale; parameters as stored by Darknet, including biases and 4 values per channel with batch normalization:

                        BFLOPs at 416, 320   published    parameters   published
    yolov3-tiny-prn          3.4666          3.467        4.9398M      4.95M
    Pelee-PRN                4.0383  2.3896  4.04  2.39   3.1587M      3.16M
    Pelee-PRN-3l             5.0345  2.9790  5.03  3.98   3.3565M      3.36M
    CSPPeleeNet-PRN          3.6078          3.590
    CSPPeleeNet-PRN-3l       4.6039          4.586

3.98 is assumed to be a misprint of 2.98.
"""

from __future__ import annotations

from torch import Tensor, nn

from cspdet.models.base_config import ActivationName
from cspdet.models.blocks import ConvBN, activation, shortcut, upsample
from cspdet.models.necks.config import PRNConfig
from cspdet.models.necks.scales import select_top_levels
from cspdet.structures import Features, FeatureSpec

COARSE_CHANNELS = 256  # channels of the coarsest scale
FINE_CHANNELS = 128  # channels of the finer scales


class PRNCoarsestScale(nn.Module):
    """Coarsest scale: (B, C, H, W) -> two maps (B, 256, H, W).

    The first map is the input of the next finer scale, the second is the output of this scale.
    """

    def __init__(self, c_in: int, act: ActivationName):
        super().__init__()
        self.reduce = ConvBN(c_in, COARSE_CHANNELS, act=act)
        self.mix = ConvBN(COARSE_CHANNELS, COARSE_CHANNELS, 3, act=act)
        self.act = activation(act)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        reduced = self.reduce(x)
        mixed = self.mix(reduced)
        return mixed, self.act(mixed + reduced)


class PRNFinerScale(nn.Module):
    """Fuse a coarser scale (B, C', H/2, W/2) with a backbone map (B, C, H, W).

    Returns two maps (B, 128, H, W): the input of the next finer scale, and the output of this scale. The first map is
    the output of the 3x3 convolution, before the last two sums, as in the cfg.
    """

    def __init__(self, c_coarser: int, act: ActivationName):
        super().__init__()
        self.reduce = ConvBN(c_coarser, FINE_CHANNELS, act=act)
        self.mix = ConvBN(FINE_CHANNELS, FINE_CHANNELS, 3, act=act)
        self.act = activation(act)

    def forward(self, coarser: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        raised = upsample(self.reduce(coarser))
        mixed = self.mix(self.act(shortcut(raised, x)))
        return mixed, self.act(shortcut(self.act(mixed + raised), x))


class PRN(nn.Module):
    """Partial residual network: fuse the `scales` coarsest maps.

    The outputs have the strides of these maps. The coarsest output has 256 channels, the others have 128.
    """

    def __init__(self, config: PRNConfig, inputs: tuple[FeatureSpec, ...]):
        super().__init__()
        chosen = select_top_levels(inputs, config.scales, config.name)
        self.coarse = PRNCoarsestScale(chosen[-1].channels, config.activation)
        self.finer = nn.ModuleList(  # from coarse to fine
            PRNFinerScale(COARSE_CHANNELS if i == 0 else FINE_CHANNELS, config.activation)
            for i in range(config.scales - 1)
        )
        widths = (FINE_CHANNELS,) * (config.scales - 1) + (COARSE_CHANNELS,)
        self.out_specs = tuple(FeatureSpec(c, spec.stride) for c, spec in zip(widths, chosen, strict=True))

    def forward(self, features: Features) -> Features:
        """Return the fused feature maps, finest first."""
        route, output = self.coarse(features[-1])
        outputs = [output]
        for i, scale in enumerate(self.finer):
            route, output = scale(route, features[-2 - i])
            outputs.insert(0, output)
        return tuple(outputs)
