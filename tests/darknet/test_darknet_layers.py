"""The layers of a cfg against numbers worked out by hand and against plain loops over Darknet's definitions."""

from __future__ import annotations

import math

import pytest
import torch
from darknet_data import CFGS, NET, TINY, conv, network, yolo
from torch import Tensor, nn

from cspdet.darknet.cfg import parse_cfg
from cspdet.darknet.graph import build_graph
from cspdet.darknet.layers import ACTIVATIONS, AvgPool, Multiply, Reorg, Route, Shortcut, SpaceToDepth, max_pool
from cspdet.models.config import YoloHeadConfig
from cspdet.models.head import Anchors
from cspdet.models.postprocess import decode
from cspdet.models.profile import profile
from cspdet.structures import Targets
from cspdet.training.assigners.config import AnchorIoUConfig
from cspdet.training.losses.config import YoloLossConfig
from cspdet.training.losses.yolo import yolo_loss


def counting(*shape: int) -> Tensor:
    return torch.arange(math.prod(shape), dtype=torch.float32).reshape(shape)


def window_by_window(x: Tensor, size: int, stride: int, padding: int, average: bool) -> Tensor:
    """Darknet's pooling: windows begin padding // 2 before the map, and see nothing outside of it."""
    height, width = ((side + padding - size) // stride + 1 for side in x.shape[2:])
    y = torch.empty(*x.shape[:2], height, width)
    for i in range(height):
        for j in range(width):
            top, left = i * stride - padding // 2, j * stride - padding // 2
            seen = x[:, :, max(0, top) : top + size, max(0, left) : left + size].flatten(2)
            y[:, :, i, j] = seen.mean(-1) if average else seen.amax(-1)
    return y


@pytest.mark.parametrize("side", [4, 5, 7])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_pooling_sees_darknets_windows(size, stride, side):
    x = torch.randn(2, 3, side, side + 1, generator=torch.Generator().manual_seed(0)) - 3  # a zero outside would win
    for padding in {0, 1, size - 1, size, 2 * size - 2} & set(range(2 * size - 1)):
        if side + padding < size:
            continue
        expected = window_by_window(x, size, stride, padding, average=False)
        assert torch.equal(max_pool(size, (stride, stride), padding)(x), expected)
        average = AvgPool(size, (stride, stride), padding)(x)
        torch.testing.assert_close(average, window_by_window(x, size, stride, padding, average=True))


def test_the_usual_poolings_need_no_padding_of_their_own():
    # 2/2 looks right and down only, 5/1 both ways alike: both are PyTorch's, which is quicker
    assert isinstance(max_pool(2, (2, 2), 1), nn.MaxPool2d)
    assert isinstance(max_pool(5, (1, 1), 4), nn.MaxPool2d)
    assert max_pool(2, (2, 2), 1)(counting(1, 1, 3, 3)).flatten().tolist() == [4, 5, 7, 8]
    assert max_pool(2, (1, 1), 1)(counting(1, 1, 2, 2)).flatten().tolist() == [3, 3, 3, 3]


# f(-2), f(-1), f(0), f(3) by the formulas of Darknet's activations.c
FORMULAS = {
    "linear": (-2, -1, 0, 3),
    "leaky": (-0.2, -0.1, 0, 3),
    "relu": (0, 0, 0, 3),
    "relu6": (0, 0, 0, 3),
    "relie": (-0.02, -0.01, 0, 3),
    "ramp": (-0.2, -0.1, 0, 3.3),
    "hardtan": (-1, -1, 0, 1),
    "hard_mish": (0, -0.5, 0, 3),
    "logistic": tuple(1 / (1 + math.exp(-x)) for x in (-2, -1, 0, 3)),
    "loggy": tuple(2 / (1 + math.exp(-x)) - 1 for x in (-2, -1, 0, 3)),
    "tanh": tuple(map(math.tanh, (-2, -1, 0, 3))),
    "elu": (math.exp(-2) - 1, math.exp(-1) - 1, 0, 3),
    "selu": (1.0507 * 1.6732 * (math.exp(-2) - 1), 1.0507 * 1.6732 * (math.exp(-1) - 1), 0, 1.0507 * 3),
    "swish": tuple(x / (1 + math.exp(-x)) for x in (-2, -1, 0, 3)),
    "mish": tuple(x * math.tanh(math.log1p(math.exp(x))) for x in (-2, -1, 0, 3)),
    "gelu": tuple(0.5 * x * (1 + math.tanh(0.797885 * x + 0.035677 * x**3)) for x in (-2, -1, 0, 3)),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_darknets_formulas(name):
    y = ACTIVATIONS[name]()(torch.tensor((-2.0, -1.0, 0.0, 3.0)))
    assert y.tolist() == pytest.approx(FORMULAS[name], rel=1e-4, abs=1e-5)


def test_route_takes_the_same_group_of_every_map():
    a, b = counting(1, 4, 1, 1), 10 + counting(1, 6, 1, 1)
    assert Route(2, 1)(a, b).flatten().tolist() == [2, 3, 13, 14, 15]
    assert Route(1, 0)(b, a).flatten().tolist() == [10, 11, 12, 13, 14, 15, 0, 1, 2, 3]


def test_shortcut_adds_what_both_have_and_then_activates():
    x = -counting(1, 3, 1, 1)
    assert Shortcut("linear")(x, torch.ones(1, 5, 1, 1), torch.ones(1, 1, 1, 1)).flatten().tolist() == [2, 0, -1]
    assert Shortcut("leaky")(x, torch.ones(1, 1, 1, 1)).flatten().tolist() == pytest.approx([1, -0.1, -0.2])
    twice = counting(1, 1, 4, 4)
    assert Shortcut("linear")(torch.zeros(1, 1, 2, 2), twice).flatten().tolist() == [0, 2, 8, 10]


def test_products_repeat_the_smaller_map():
    x = counting(1, 2, 2, 2)
    assert Multiply("linear")(torch.tensor((2.0, 3.0)).view(1, 2, 1, 1), x).flatten().tolist() == [
        0,
        2,
        4,
        6,
        12,
        15,
        18,
        21,
    ]
    assert Multiply("relu")(-torch.eye(2)[None, None], x - 1).flatten().tolist() == [1, 0, 0, 0, 0, 0, 0, 0]


def test_space_to_depth_keeps_the_channels_of_one_place_together():
    x = counting(1, 2, 2, 2)  # channel 0: 0 1 / 2 3; channel 1: 4 5 / 6 7
    assert SpaceToDepth(2)(x).flatten().tolist() == [0, 4, 1, 5, 2, 6, 3, 7]


def reorg_by_index(x: Tensor, s: int) -> Tensor:
    """Darknet's reorg_cpu as forward_reorg_old_layer calls it, index by index."""
    _, channels, height, width = x.shape
    flat, out, few = x.flatten(), torch.empty(x.numel()), channels // (s * s)
    for k in range(channels):
        for j in range(height):
            for i in range(width):
                row, column = j * s + k // few // s, i * s + k // few % s
                out[i + width * (j + height * k)] = flat[column + width * s * (row + height * s * (k % few))]
    return out.view(1, channels * s * s, height // s, width // s)


@pytest.mark.parametrize(("channels", "s"), [(4, 2), (8, 2), (9, 3)])
def test_reorg_mixes_the_numbers_as_darknet_does(channels, s):
    x = counting(1, channels, 2 * s, 4 * s)
    assert torch.equal(Reorg(s)(x), reorg_by_index(x, s))


@pytest.mark.parametrize("name", CFGS)
def test_planned_shapes_and_weights_are_the_real_ones(name):
    model = network(CFGS[name]).eval()
    planned = build_graph(parse_cfg(CFGS[name], "x.cfg"))
    seen: list[tuple[int, ...]] = []
    for layer in model.body.layer:
        layer.register_forward_hook(lambda module, args, output: seen.append(tuple(output.shape[1:])))
    with torch.no_grad():
        model(torch.rand(1, 3, 64, 64))
    for layer, shape in zip(planned.layers, seen, strict=True):
        if layer.section.section_type in ("yolo", "region"):
            anchors, height, width, values = shape
            shape = (anchors * values, height, width)
        assert shape == layer.shape, layer.name
    assert sum(layer.num_weights for layer in planned.layers) == sum(
        numbers.num_elements for numbers in model.body.layer_weights()
    )


def test_convolutions_pad_dilate_and_normalize_as_their_section_says():
    text = NET + "[convolutional]\nfilters=2\nsize=3\nstride_x=2\nstride_y=1\ndilation=2\npadding=3\ncbn=1\n"
    layer = network(text + "[avgpool]\n").body.layer[0]
    assert (layer.conv.stride, layer.conv.padding, layer.conv.dilation) == ((1, 2), (3, 3), (2, 2))
    assert layer.norm is not None
    assert isinstance(layer.act, nn.Sigmoid)  # Darknet's default
    assert layer.norm.eps == 1e-5


def test_heads_come_finest_first_with_their_anchors():
    model = network(TINY)
    assert model.strides == (4, 16)
    assert model.anchors.wh.tolist() == [[[10, 14]], [[37, 58]]]
    assert model.num_classes == 2
    out = model.eval()(torch.rand(1, 3, 32, 64))
    assert [tuple(raw.shape) for raw in out] == [(1, 1, 8, 16, 7), (1, 1, 2, 4, 7)]


def test_new_coords_are_squares_of_the_convolutions_own_sigmoid():
    text = NET + conv(14, 64, 64, norm=False, act="logistic").replace("pad=1", "pad=0")
    model = network(text + yolo("0,2", "scale_x_y=2.0", "new_coords=1")).eval()
    layer = model.body.layer[0]
    nn.init.zeros_(layer.conv.weight)
    layer.conv.bias.data = torch.logit(torch.tensor((0.75, 0.5, 0.6, 0.25, 0.9, 0.5, 0.1) * 2))
    with torch.no_grad():
        box, score = decode(model(torch.rand(1, 3, 64, 64)), model.anchors)
    # center: 2 * v - 0.5 cells of 64; size: (2 v)^2 anchors of 10x14 and 37x58
    for found, (w, h) in zip(box[0].tolist(), ((10, 14), (37, 58)), strict=True):
        half_w, half_h = 1.44 * w / 2, 0.25 * h / 2
        assert found == pytest.approx([64 - half_w, 32 - half_h, 64 + half_w, 32 + half_h], abs=1e-3)
    assert score[0, 0].tolist() == pytest.approx([0.45, 0.09], rel=1e-5)


def test_a_softmax_gives_logits_over_its_temperature():
    text = NET + "[avgpool]\n[softmax]\ntemperature=2\n"
    assert network(text)(torch.full((2, 3, 64, 64), 0.5)).tolist() == [[0.25] * 3] * 2


def test_costs_are_counted():
    cost = profile(network(NET + conv(8, 3, 2) + "[maxpool]\nsize=2\n" + conv(7, norm=False) + yolo("0")), (64, 64))
    # 8 * 27 and 7 * 8 weights at 32x32, doubled; a 2x2 window for each of 8 * 32 * 32, its stride being 1
    assert cost.conv_weights == 216 + 56
    assert cost.bflops * 1e9 == 2 * (216 + 56) * 1024 + 4 * 8 * 1024
    assert cost.stored_values == 216 + 4 * 8 + 56 + 7


def test_a_list_may_end_with_a_comma():
    plain, comma = network(TINY), network(TINY.replace("37,58", "37,58,").replace("mask=2", "mask=2,"))
    assert torch.equal(comma.anchors.wh, plain.anchors.wh)


def test_heads_with_different_numbers_of_anchors_are_filled_up_with_anchors_that_detect_nothing():
    """The second head uses two anchors: those of the first are followed by one whose score is 0 and that no box has."""
    last = TINY.rindex("filters=7")
    text = TINY[:last] + "filters=14" + TINY[last + len("filters=7") :].replace("mask=0", "mask=0,1")
    model = network(text)
    images = torch.rand(1, 3, 64, 64)
    fine, coarse = model.eval()(images)
    assert (fine.shape, coarse.shape) == ((1, 2, 16, 16, 7), (1, 2, 4, 4, 7))
    assert torch.equal(coarse[:, :1], model.body(images)[1])
    boxes, scores = decode((fine, coarse), model.anchors)
    assert scores[:, -16:].max() < 1e-12
    assert (boxes[:, -16:, 2:] - boxes[:, -16:, :2]).max() < 0.01
    targets = Targets(
        torch.tensor([0]), torch.tensor([0]), torch.tensor([[10.0, 10.0, 50.0, 60.0]]), torch.tensor([False])
    )
    loss = yolo_loss((fine, coarse), targets, model.anchors, YoloLossConfig(), AnchorIoUConfig().build())
    assert torch.isfinite(loss.total)


@pytest.mark.parametrize("kind", ["mse", "ciou"])
def test_the_loss_of_square_sizes_is_least_at_the_box_itself(kind):
    anchors = Anchors(YoloHeadConfig(anchors=(((16.0, 8.0),),), scale_x_y=(1.0,), wh_decoding="square"), (8,))
    box = torch.tensor([[5.0, 4.0, 29.0, 12.0]])  # center (17, 8): column 2, row 1, fraction (1/8, 0); 24x8
    targets = Targets(torch.tensor([0]), torch.tensor([0]), box, torch.tensor([False]))
    # (2 sigmoid)^2 times 16x8: sqrt(1.5) / 2 and 1 / 2
    best = torch.logit(torch.tensor((1 / 8, 1e-6, math.sqrt(1.5) / 2, 0.5)))
    raw = torch.zeros(1, 1, 4, 4, 6)
    raw[0, 0, 1, 2, :4] = best

    def box_loss(values: Tensor) -> Tensor:
        return yolo_loss((values,), targets, anchors, YoloLossConfig(box=kind), AnchorIoUConfig().build()).box

    least = box_loss(raw)
    for i in range(4):
        for step in (-0.5, 0.5):
            other = raw.clone()
            other[0, 0, 1, 2, i] += step
            if i != 1:  # at its border there is only one way
                assert box_loss(other) > least
    if kind == "mse":  # an overlap has a kink where the boxes agree
        gradient = torch.autograd.grad(box_loss(raw.requires_grad_()), raw)[0][0, 0, 1, 2, 2:4]
        assert gradient.abs().max() < 1e-4
