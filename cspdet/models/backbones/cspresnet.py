"""CSPResNet-50 and CSPResNeXt-50: bottleneck stages with cross stage partial connections.

    stem     7x7/2 64, maxpool 2x2 ──────────────────── stride 4
    stage 1            CSP of 3 bottlenecks ── T2
    stage 2  3x3/2 ─── CSP of 3 bottlenecks ── T2 ── C3, stride 8
    stage 3  3x3/2 ─── CSP of 5 bottlenecks ── T2 ── C4, stride 16
    stage 4  3x3/2 ─── CSP of 2 bottlenecks ── T2 ── C5, stride 32

    CSP      ──┬── 1x1 shortcut ───────────────────── concat, T1 first
               └── 1x1 main ── bottlenecks ── 1x1 T1 ──┘

T1 is the convolution before the concatenation, T2 the one after it (see `cspdet.models.csp`).

Sources: the CSPNet authors' csresnet50.cfg and csresnext50.cfg; for `elastic`, the -elastic versions of both. Two
details follow these cfgs. Only the split convolutions of stages 2 and 3 are linear. In stage 1, the main convolution
has 64 channels, half of the stage width, so the first residual sum (layer 8) adds only these channels. C3, C4 and C5
are layers 38, 65 and 80, as in csresnext50-panet-spp.cfg. Without T2, the output of a stage is the concatenation.

Cost as classifiers of 1000 classes at 256x256:

                            weights      published   BFLOPs    published
    cspresnet50             21,566,656   21.57M      8.9684    8.97
    cspresnet50, elastic    29,795,520   -           9.3643    9.36
    cspresnext50            20,499,136   20.50M      7.9303    7.93
    cspresnext50, elastic   16,857,792   -           5.4494    5.45
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from cspdet.models.backbones.config import CSPResNetConfig
from cspdet.models.backbones.residual import Bottleneck, ElasticBottleneck
from cspdet.models.backbones.resnet import STEM_CHANNELS, ResNetStem
from cspdet.models.blocks import ConvBN
from cspdet.models.csp import ConvSplit, CSPStage, has_final_transition, has_partial_transition
from cspdet.structures import Features, FeatureSpec

DEPTHS = (3, 3, 5, 2)  # bottlenecks per stage
WIDTHS = (128, 256, 512, 1024)  # channels of each part of a stage before the concatenation
FIRST_MAIN_CHANNELS = 64  # output channels of the main convolution of stage 1, without elastic
LINEAR_SPLIT_STAGES = (1, 2)  # indices of the stages whose split convolutions have no activation


class CSPResNetArchSpec(NamedTuple):
    """Parameters in which CSPResNet-50 and CSPResNeXt-50 differ, with one value per stage."""

    mid_channels: tuple[int, ...]  # channels of a bottleneck's 3x3 convolution
    out_channels: tuple[int, ...]  # channels of T2
    groups: int


ELASTIC_MID_CHANNELS = (64, 128, 256, 512)  # for each half of the channels, in both networks
ARCH_SPECS = {
    "cspresnet50": CSPResNetArchSpec((64, 128, 256, 512), (128, 256, 512, 1024), 1),
    "cspresnext50": CSPResNetArchSpec((128, 256, 512, 1024), (256, 512, 1024, 2048), 32),
}


class CSPResNet(nn.Module):
    """CSPResNet backbone: (B, 3, H, W) -> three feature maps of strides 8, 16 and 32, finest first.

    H and W are multiples of 32.
    """

    def __init__(self, config: CSPResNetConfig):
        super().__init__()
        spec, act = ARCH_SPECS[config.name], config.activation
        self.stem = ResNetStem(act)
        self.stages, channels = nn.ModuleList(), [STEM_CHANNELS]
        for i, (width, c_out) in enumerate(zip(WIDTHS, spec.out_channels, strict=True)):
            parts: list[nn.Module] = []
            c_in = channels[-1]
            if i > 0:
                c_down = spec.out_channels[i - 1]
                parts.append(ConvBN(c_in, c_down, 3, 2, groups=spec.groups, act=act))
                c_in = c_down
            parts.append(_csp_stage(config, i, c_in))
            self.stages.append(nn.Sequential(*parts))
            channels.append(c_out if has_final_transition(config.fusion) else 2 * width)
        self.out_specs = tuple(FeatureSpec(c, stride) for c, stride in zip(channels[2:], (8, 16, 32), strict=True))

    def forward(self, image: Tensor) -> Features:
        """Return the feature maps, finest first."""
        c3 = self.stages[1](self.stages[0](self.stem(image)))
        c4 = self.stages[2](c3)
        c5 = self.stages[3](c4)
        return c3, c4, c5


def _csp_stage(config: CSPResNetConfig, i: int, c_in: int) -> CSPStage:
    """Build stage i (from 0) for `c_in` input channels, without its strided convolution.

    With the final transition T2, the output has `out_channels[i]` channels. Without T2, it has 2 WIDTHS[i].
    """
    spec, act, width = ARCH_SPECS[config.name], config.activation, WIDTHS[i]
    main_channels = FIRST_MAIN_CHANNELS if i == 0 and not config.elastic else width
    blocks: list[nn.Module] = []
    for j in range(DEPTHS[i]):
        if config.elastic:
            blocks.append(ElasticBottleneck(width, ELASTIC_MID_CHANNELS[i], act, groups=max(spec.groups // 2, 1)))
        else:
            blocks.append(
                Bottleneck(width if j else main_channels, spec.mid_channels[i], width, act, groups=spec.groups)
            )
    return CSPStage(
        split=ConvSplit(c_in, width, main_channels, "linear" if i in LINEAR_SPLIT_STAGES else act),
        body=nn.Sequential(*blocks),
        partial_transition=ConvBN(width, width, act=act) if has_partial_transition(config.fusion) else nn.Identity(),
        final_transition=ConvBN(2 * width, spec.out_channels[i], act=act)
        if has_final_transition(config.fusion)
        else nn.Identity(),
    )
