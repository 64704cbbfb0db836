"""Building blocks on inputs small enough to work out by hand, and the laws of the cross stage partial connection."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cspdet.errors import ConfigError
from cspdet.models import build_backbone
from cspdet.models.backbones import BACKBONES
from cspdet.models.base_config import Fusion
from cspdet.models.blocks import SAM, SPP, ConvBN, Maxout, SqueezeExcite, activation, shortcut, upsample
from cspdet.models.csp import (
    ConvSplit,
    CSPStage,
    Split,
    TransitionSplit,
    has_final_transition,
    has_partial_transition,
    partition,
)
from cspdet.models.necks import NECKS
from cspdet.structures import FeatureSpec


def channels(*values: float) -> Tensor:
    """(1, C, 1, 1) with these values."""
    return torch.tensor(values).view(1, -1, 1, 1)


def test_maxout_takes_strided_groups():
    # 6 channels to 2: output 0 of channels 0, 2, 4; output 1 of 1, 3, 5 (Darknet's maxpool_depth)
    assert Maxout(6, 2)(channels(1, 9, 5, 2, 3, 4)).flatten().tolist() == [5, 9]
    with pytest.raises(ValueError, match="multiple"):
        Maxout(6, 4)


def test_sam_at_zero_gain_halves_its_input():
    sam = SAM(4).eval()
    nn.init.zeros_(sam.gate.conv.weight)
    x = torch.randn(1, 4, 3, 3)
    torch.testing.assert_close(sam(x), x / 2)


def test_squeeze_excitation_weighs_channels_not_places():
    torch.manual_seed(0)
    block = SqueezeExcite(8, 2, "leaky").eval()
    x = torch.rand(2, 8, 4, 6) + 1
    gate = block(x) / x
    torch.testing.assert_close(gate, gate[:, :, :1, :1].expand_as(gate))
    assert (gate > 0).all()
    assert (gate < 1).all()


def test_spp_gives_the_widest_window_first_and_the_features_last():
    x = torch.zeros(1, 1, 15, 15)
    x[0, 0, 7, 7] = 1
    out = SPP()(x)
    assert out.shape == (1, 4, 15, 15)
    # a single pixel is seen by every pixel whose window holds it
    assert [int(part.sum()) for part in out[0]] == [13 * 13, 9 * 9, 5 * 5, 1]


@pytest.mark.parametrize(
    ("x", "source", "expected"),
    [
        ((1, 2, 3), (10, 20, 30), [11, 22, 33]),
        ((1, 2), (10, 20, 30), [11, 22]),  # a wider source gives its first channels
        ((1, 2, 3), (10, 20), [11, 22, 3]),  # a narrower one changes the first channels
    ],
)
def test_a_shortcut_adds_the_channels_that_both_have(x, source, expected):
    assert shortcut(channels(*x), channels(*source)).flatten().tolist() == expected


def test_a_shortcut_reads_a_larger_source_at_every_other_pixel():
    source = torch.arange(16.0).view(1, 1, 4, 4)
    assert shortcut(torch.zeros(1, 1, 2, 2), source).flatten().tolist() == [0, 2, 8, 10]


def test_upsampling_repeats_pixels():
    assert upsample(torch.tensor([[[[1.0, 2.0]]]])).tolist() == [[[[1, 1, 2, 2], [1, 1, 2, 2]]]]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("leaky", [-0.2, 0, 3]),
        ("relu", [0.0, 0, 3]),
        ("linear", [-2.0, 0, 3]),
        ("sigmoid", [1 / (1 + 2.718281828**2), 0.5, 1 / (1 + 2.718281828**-3)]),
        ("swish", [-2 / (1 + 2.718281828**2), 0, 3 / (1 + 2.718281828**-3)]),
        ("mish", [-0.252501, 0, 2.986535]),  # x tanh(ln(1 + e^x))
    ],
)
def test_activations_are_those_of_darknet(name, expected):
    torch.testing.assert_close(activation(name)(torch.tensor([-2.0, 0, 3])), torch.tensor(expected))


def test_a_dense_block_sees_only_its_part_of_the_split():
    """The carried part reaches the concatenation untouched: the gradient-flow claim of section 3 of the paper."""
    torch.manual_seed(0)
    stage = build_backbone("csppeleenet", gamma=0.25).stages[0].eval()
    x = torch.randn(1, 32, 8, 8)
    changed = x.clone()
    changed[:, :8] += 1  # the carried quarter
    out, other = stage(x), stage(changed)
    torch.testing.assert_close(out[:, -8:], x[:, :8])
    torch.testing.assert_close(out[:, :-8], other[:, :-8])


def test_a_stage_concatenates_the_main_branch_first():
    stage = CSPStage(Split(1, 2), nn.ReLU(), nn.Identity(), nn.Identity())
    assert stage(channels(-1, -2, 3)).flatten().tolist() == [0, 3, -1]


def test_gradients_of_the_two_parts_do_not_mix():
    """No weight of the body gets a gradient through the carried part, and the carried part none through the body."""
    body = nn.Conv2d(2, 2, 1)
    stage = CSPStage(Split(2, 2), body, nn.Identity(), nn.Identity())
    x = torch.randn(1, 4, 3, 3, requires_grad=True)
    out = stage(x)
    out[:, 2:].sum().backward(retain_graph=True)  # the carried part
    assert x.grad is not None
    assert body.weight.grad is None or not body.weight.grad.any()
    assert x.grad[:, :2].eq(1).all()
    assert not x.grad[:, 2:].any()
    x.grad = None
    out[:, :2].sum().backward()
    assert not x.grad[:, :2].any()


@pytest.mark.parametrize("pool_first", [True, False])
def test_two_transitions_are_one_that_is_split_afterwards(pool_first):
    torch.manual_seed(0)
    # Without activation, for pooling before and after it then agree as well
    two = TransitionSplit(6, 2, 4, pool_first=pool_first, act="linear").eval()
    one = ConvBN(6, 6, act="linear").eval()
    assert isinstance(two.split, ConvSplit)
    weights = torch.cat((two.split.short_conv.conv.weight, two.split.main_conv.conv.weight))
    one.conv.load_state_dict({"weight": weights})
    x = torch.randn(2, 6, 4, 8)
    for a, b in zip(two(x), Split(2, 4)(F.avg_pool2d(one(x), 2)), strict=True):
        torch.testing.assert_close(a, b)


def test_fusion_strategies_have_the_transitions_of_the_paper():
    table = {
        name: (has_partial_transition(name), has_final_transition(name)) for name in ("both", "first", "last", "none")
    }
    assert table == {"both": (True, True), "first": (False, True), "last": (True, False), "none": (False, False)}


def test_gamma_is_the_fraction_of_shortcut_channels():
    assert partition(32, 0.25) == (8, 24)
    with pytest.raises(ValueError, match="leaves one part of the split empty"):
        partition(32, 0.001)


def test_backbones_by_name():
    backbone = build_backbone("csppeleenet", fusion="last")
    assert [tuple(spec) for spec in backbone.out_specs] == [(256, 8), (512, 16), (704, 32)]
    with pytest.raises(ConfigError, match="csppeleenet"):
        build_backbone("csppeleenett")
    with pytest.raises(ConfigError, match="gama: unknown key \\(did you mean 'gamma'\\?\\)"):
        build_backbone("csppeleenet", gama=0.5)
    with pytest.raises(ValueError, match="leaves one part of the split empty"):
        build_backbone("csppeleenet", gamma=0.001)


BACKBONE_CONFIGS = {name: BACKBONES.get(name) for name in BACKBONES.names() if name != "timm"}
NECK_CONFIGS = {name: NECKS.get(name) for name in NECKS.names()}


@pytest.mark.parametrize("backbone_name", BACKBONE_CONFIGS)
def test_any_backbone_goes_with_any_neck(backbone_name):
    """Nothing is computed: a neck knows a backbone by its declared maps only, which the contract holds to be real."""
    with torch.device("meta"):
        backbone = BACKBONE_CONFIGS[backbone_name](name=backbone_name).build()
        for neck_name, cls in NECK_CONFIGS.items():
            neck = cls(name=neck_name).build(backbone.out_specs).eval()
            coarsest = 2 * backbone.out_specs[-1].stride
            features = tuple(torch.zeros(1, c, coarsest // s, 2 * coarsest // s) for c, s in backbone.out_specs)
            expected = [(1, c, coarsest // s, 2 * coarsest // s) for c, s in neck.out_specs]
            assert [tuple(x.shape) for x in neck(features)] == expected, neck_name


CSP = [name for name, cls in BACKBONE_CONFIGS.items() if "fusion" in cls.model_fields]


@pytest.mark.parametrize("fusion", get_args(Fusion))
@pytest.mark.parametrize("name", CSP)
def test_declared_maps_are_real_whatever_the_fusion(name, fusion):
    with torch.device("meta"):
        backbone = BACKBONE_CONFIGS[name](name=name, fusion=fusion, activation="mish").build().eval()
        maps = backbone(torch.zeros(1, 3, 64, 128))
    assert [tuple(x.shape) for x in maps] == [(1, c, 64 // stride, 128 // stride) for c, stride in backbone.out_specs]
    assert not any(isinstance(module, nn.LeakyReLU) for module in backbone.modules())


@pytest.mark.parametrize("neck_name", NECK_CONFIGS)
def test_a_neck_says_when_there_are_too_few_maps(neck_name):
    with pytest.raises(ValueError, match=rf"{neck_name} fuses [23] feature maps; the backbone has 1"):
        NECK_CONFIGS[neck_name](name=neck_name).build((FeatureSpec(64, 32),))


@pytest.mark.parametrize("neck_name", NECK_CONFIGS)
def test_necks_ignore_maps_that_are_finer_than_theirs(neck_name):
    with torch.device("meta"):
        maps = (FeatureSpec(128, 4), *build_backbone("peleenet").out_specs)
        neck = NECK_CONFIGS[neck_name](name=neck_name).build(maps).eval()
        features = tuple(torch.zeros(1, c, 64 // s, 64 // s) for c, s in maps)
        assert [x.shape[1] for x in neck(features)] == [spec.channels for spec in neck.out_specs]
