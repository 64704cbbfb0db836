""".weights files: every number in its place, and files that do not fit told with where they part."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch
from darknet_data import CFGS, NET, TINY, conv, network, write_numbers, write_pair
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cspdet.config.loader import parse_config
from cspdet.darknet.weight_order import layers_in_file_order
from cspdet.darknet.weights import SkipInit, WeightsHeader, conv_weights, read_weights, write_weights
from cspdet.errors import CheckpointError, ConfigError, UserError
from cspdet.models import Detector
from cspdet.models.blocks import ConvBN
from cspdet.models.config import DetectorConfig


def counted_off(folder, layers, version=(0, 2, 5)):
    """A file whose numbers are 0, 1, 2, ..."""
    path = folder / "x.weights"
    count = sum(layer.num_elements for layer in layers)
    path.write_bytes(struct.pack("<iiiQ", *version, 1) + np.arange(count, dtype="<f4").tobytes())
    return path


def test_a_convolutions_numbers_stand_as_bias_scale_mean_variance_weights(tmp_path):
    block, plain = ConvBN(2, 2), nn.Conv2d(2, 1, 1)
    layers = [conv_weights("a", block.conv, block.norm), conv_weights("b", plain, None)]
    filled = read_weights(counted_off(tmp_path, layers), layers)
    assert filled == (WeightsHeader(0, 2, 5, 1), 2, 2, 15)
    norm = block.norm
    values = (norm.bias, norm.weight, norm.running_mean, norm.running_var, block.conv.weight, plain.bias, plain.weight)
    assert [part.flatten().tolist() for part in values] == [
        [0, 1],
        [2, 3],
        [4, 5],
        [6, 7],
        [8, 9, 10, 11],
        [12],
        [13, 14],
    ]


@pytest.mark.parametrize(("version", "weights"), [((0, 2, 5), [[1, 2, 3]]), ((0, 2000, 0), [[1, 2, 3]])])
def test_a_connected_layers_weights_follow_its_bias(tmp_path, version, weights):
    layers = network(NET + "[avgpool]\n[connected]\noutput=1\n").body.layer_weights()
    read_weights(counted_off(tmp_path, layers, version), layers)
    assert layers[0].named_tensors[1][1].tolist() == weights


def test_old_files_store_connected_layers_the_other_way_round(tmp_path):
    model = network(NET + "[avgpool]\n[connected]\noutput=2\nbatch_normalize=1\n")
    layers = model.body.layer_weights()
    assert [what for what, _ in layers[0].named_tensors] == ["bias", "connections", "scales", "means", "variances"]
    read_weights(counted_off(tmp_path, layers), layers)
    assert model.body.layer[1].linear.weight.tolist() == [[2, 3, 4], [5, 6, 7]]
    read_weights(counted_off(tmp_path, layers, (0, 1001, 0)), layers)
    assert model.body.layer[1].linear.weight.tolist() == [[2, 4, 6], [3, 5, 7]]


@pytest.mark.parametrize("version", [(0, 1, 0), (0, 2, 0), (1, 0, 0)])
def test_the_version_says_how_long_the_header_is(tmp_path, version):
    model = network(TINY)
    count = sum(layer.num_elements for layer in model.body.layer_weights())
    filled = read_weights(write_numbers(tmp_path / "x.weights", count, version=version), model.body.layer_weights())
    assert (filled.header.images_seen, filled.num_values) == (6400, count)


@pytest.mark.parametrize("name", CFGS)
def test_what_is_written_comes_back(tmp_path, name):
    first, second = network(CFGS[name]), network(CFGS[name])
    write_weights(tmp_path / "x.weights", first.body.layer_weights(), WeightsHeader(images_seen=12))
    filled = read_weights(tmp_path / "x.weights", second.body.layer_weights())
    assert filled.header == (0, 2, 5, 12)
    x = torch.rand(2, 3, 64, 64)
    a, b = first.eval()(x), second.eval()(x)
    for p, q in zip(a, b, strict=True) if isinstance(a, tuple) else [(a, b)]:
        assert torch.equal(p, q)


def refusal(path, layers, **options):
    with pytest.raises(CheckpointError) as caught:
        read_weights(path, layers, **options)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{path}: ")
    return problem.removeprefix(f"{path}: ")


def test_files_that_are_too_short_or_too_long_name_the_first_layer_that_differs(tmp_path):
    layers = network(TINY).body.layer_weights()
    # 8 filters of 27 weights and 4 numbers each; 16 of 72 and 4; 8 of 72 and 4; 16 of 216 and 4 ...
    assert [layer.num_elements for layer in layers] == [248, 1216, 608, 3520, 119, 160, 231]
    path = tmp_path / "x.weights"
    heading = "has {:,} values, but the network needs 6,102: "
    for found, rest in {
        0: "it ends before layer 0 [convolutional], line 8",
        100: "it ends within layer 0 [convolutional], line 8, after 100 of its 248",
        2000: "it ends within layer 4 [convolutional], line 31, after 536 of its 608",
        6106: "4 are left over after layer 14 [convolutional], line 71, the last layer",
    }.items():
        message = refusal(write_numbers(path, found), layers)
        assert message.startswith(heading.format(found))
        assert message.removeprefix(heading.format(found)) == rest or "line" in rest, message
        assert rest.split(", line")[0] in message
    between = refusal(write_numbers(path, 248 + 1216), layers)
    assert "it ends before layer 4 [convolutional]" in between
    assert between.endswith("--partial loads its 2 layers, as initial weights for training")


def test_a_partial_file_fills_the_first_layers_and_leaves_the_others(tmp_path):
    model = network(TINY)
    layers = model.body.layer_weights()
    before = layers[2].named_tensors[-1][1].clone()
    filled = read_weights(write_numbers(tmp_path / "x.conv.3", 248 + 1216), layers, partial=True)
    assert (filled.num_loaded, filled.num_layers) == (2, 7)
    assert layers[1].named_tensors[-1][1].min() >= 0.05
    assert torch.equal(layers[2].named_tensors[-1][1], before)
    assert "within layer 4" in refusal(write_numbers(tmp_path / "x", 2000), layers, partial=True)
    assert "ends before layer 0" in refusal(write_numbers(tmp_path / "x", 0), layers, partial=True)


def test_layers_that_are_not_loaded_have_no_numbers(tmp_path):
    text = NET + conv(4, 1, 1, "dontload=1") + conv(4, 1, 1, "dontloadscales=1") + "[avgpool]\n"
    (layer,) = network(text).body.layer_weights()
    assert layer.num_elements == 4 + 16


def test_files_that_are_none_of_darknets(tmp_path):
    layers = network(TINY).body.layer_weights()
    path, good = tmp_path / "x.weights", write_numbers(tmp_path / "good.weights", 6102).read_bytes()
    for content, message in {
        b"": "is shorter than the header",
        good[:15]: "is shorter than the header",
        good[:-1]: "ends within a value",
        b"hello " * 10: "not a .weights file: found version",
        good[:400] + struct.pack("<f", float("nan")) + good[404:]: "layer 0 [convolutional]",
    }.items():
        path.write_bytes(content)
        assert message in refusal(path, layers)
    variances = 20 + 4 * 3 * 8
    path.write_bytes(good[:variances] + struct.pack("<f", -1.0) + good[variances + 4 :])
    assert "its variances are negative: the file is of another network, or corrupt" in refusal(path, layers)
    assert "not readable" in refusal(tmp_path, layers)
    assert "no such file (did you mean 'good.weights'?)" in refusal(tmp_path / "goo.weights", layers)


def test_a_file_that_cannot_be_written_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_weights(tmp_path / "file/x.weights", network(TINY).body.layer_weights())


@given(cut=st.integers(0, 6102 * 4 + 20), tail=st.binary(max_size=64), partial=st.booleans())
@settings(max_examples=50)
def test_cut_and_extended_files_never_end_in_a_traceback(tmp_path_factory, cut, tail, partial):
    folder = tmp_path_factory.mktemp("cut")
    cfg, path = write_pair(folder, TINY)
    path.write_bytes(path.read_bytes()[:cut] + tail)
    layers = network(cfg.read_text()).body.layer_weights()
    try:
        filled = read_weights(path, layers, partial=partial)
    except CheckpointError:
        return
    assert filled.num_values == sum(layer.num_elements for layer in layers[: filled.num_loaded])


def test_undrawn_weights_are_left_alone():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    with SkipInit():
        model = network(TINY)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.body.layer[0].norm.running_var.tolist() == [1.0] * 8
    assert model.anchors.wh.sum() == 10 + 14 + 37 + 58


# --- our own networks in the order of the official cfgs -------------------------------------------


def own(neck: str, scales: int, backbone: str = "darknetref") -> Detector:
    anchors = [[[10, 10]] * 3] * scales
    values = {
        "backbone": {"name": backbone},
        "neck": {"name": neck},
        "head": {"anchors": anchors, "scale_x_y": [1.0] * scales},
    }
    with torch.device("meta"):
        return parse_config(values, DetectorConfig, "test").build(80)


# Heads by level, 0 the finest, each with what stands right before it, read off the cfgs.
ORDERS = {
    "yolov3": [
        ("neck.coarse.output_conv.conv", 2),
        ("neck.middle.output_conv.conv", 1),
        ("neck.fine.output_conv.conv", 0),
    ],
    "panet_spp": [("neck.fine_output.0.conv", 0), ("neck.middle_output.0.conv", 1), ("neck.coarse_output.0.conv", 2)],
    "yolov3_tiny": [("neck.coarse.conv", 1), ("neck.fine.conv", 0)],
    "prn": [("neck.coarse.mix.conv", 1), ("neck.finer.0.mix.conv", 0)],
}


@pytest.mark.parametrize("neck", ORDERS)
def test_heads_stand_where_the_official_cfgs_have_them(neck):
    names = [layer.name for layer in layers_in_file_order(own(neck, len(ORDERS[neck]), "darknet53"))]
    found = [(names[i - 1], int(name[-1])) for i, name in enumerate(names) if name.startswith("head.pred_convs")]
    assert found == ORDERS[neck]


def test_yolov3_needs_as_many_numbers_as_its_official_file_has():
    # yolov3.weights has 248,007,048 bytes: a header of 20 and 62,001,757 numbers
    assert (
        sum(layer.num_elements for layer in layers_in_file_order(own("yolov3", 3, "darknet53")))
        == (248_007_048 - 20) // 4
    )


def test_a_neck_without_an_official_cfg_is_refused():
    with pytest.raises(ConfigError, match="there is no official cfg with the neck EFM"):
        layers_in_file_order(own("efm", 3, "darknet53"))
