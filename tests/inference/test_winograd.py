"""Winograd's filtering in OpenVINO graphs: the algebra, the same function as before, which layers are left alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from engine_data import build, small_detector
from hypothesis import given, settings
from hypothesis import strategies as st
from openvino_data import graph_of, kinds_of, outputs_of
from torch import nn
from torch.nn import functional as F

from cspdet.inference.engines import openvino_engine
from cspdet.inference.engines.cpu_kernels import winograd
from cspdet.inference.engines.cpu_kernels.openvino_graph import fold_constants
from cspdet.inference.engines.cpu_kernels.winograd import (
    FILTER_TRANSFORM,
    INPUT_TRANSFORM,
    OUTPUT_TRANSFORM,
    estimated_time_ratio,
    use_winograd,
)
from cspdet.inference.engines.parity import probe_inputs

ROUNDING = 2e-5  # of the largest output


def test_four_rows_from_six_products_are_the_filter_at_four_places():
    """The product is bilinear, so the 6 x 3 pairs of unit vectors say all: row t takes input i by weight i - t."""
    found = np.einsum("tk,kr,ki->tri", OUTPUT_TRANSFORM, FILTER_TRANSFORM, INPUT_TRANSFORM)
    expected = np.zeros((4, 3, 6))
    for row in range(4):
        for weight in range(3):
            expected[row, weight, row + weight] = 1
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_the_estimate_by_hand():
    # 6 products for 4 rows of 3: half. 10 (256 + 512) / (256 * 512) = 0.0586. 8 strips of 32: 10 / 256 = 0.0391.
    assert estimated_time_ratio((256, 512), (32, 32)) == pytest.approx(0.5 + 0.0586 + 0.0391, abs=1e-4)
    # 13 rows need 4 strips, of which 16 rows come: 24 / 39.
    assert estimated_time_ratio((512, 1024), (13, 13)) == pytest.approx(24 / 39 + 0.0293 + 10 / 52, abs=1e-4)


def folded(layer: nn.Module, size: tuple[int, ...]):
    """The graph as the engine has it when it comes to filtering."""
    model = graph_of(layer, size, ("raw",) if isinstance(layer, nn.Conv2d) else ("first", "second"))
    fold_constants(model)
    return model


class Block(nn.Module):
    """A 3x3 layer as networks have it, with a reader of its output beside the next layer."""

    def __init__(self, channels: tuple[int, int], bias: bool, activation: nn.Module):
        super().__init__()
        self.conv = nn.Conv2d(*channels, 3, padding=1, bias=bias)
        self.activation = activation
        self.after = nn.Conv2d(channels[1], 4, 1)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.activation(self.conv(image))
        return self.after(x), x.mean((2, 3))


@settings(max_examples=25, deadline=None)
@given(
    channels=st.tuples(st.sampled_from([1, 3, 16, 40]), st.sampled_from([1, 8, 24])),
    size_hw=st.tuples(st.integers(1, 14), st.integers(1, 11)),
    bias=st.booleans(),
    activation=st.sampled_from([nn.Identity(), nn.ReLU(), nn.LeakyReLU(0.1), nn.SiLU(), nn.Mish()]),
)
def test_a_rewritten_layer_is_the_same_function(channels, size_hw, bias, activation):
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, channels[0], *size_hw, generator=generator)
    block = Block(channels, bias, activation)
    with torch.no_grad():
        expected = block(image)
    model = folded(block, image.shape)
    assert use_winograd(model, max_time_ratio=float("inf")) == 1
    assert kinds_of(model).count("Convolution") == 6 + 1
    for found, value in zip(outputs_of(model, image), expected, strict=True):
        assert found.shape == value.shape
        assert np.abs(found - value.numpy()).max() <= ROUNDING * max(1.0, float(value.abs().max()))


def test_a_chain_with_a_sum_around_it_is_the_same_function():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = (nn.Conv2d(64, 64, 3, padding=1, bias=False) for _ in range(2))
            self.bias = nn.Parameter(torch.randn(1, 64, 1, 1))

        def forward(self, x):
            x = x + F.leaky_relu(self.first(x) + self.bias, 0.1)
            return x + self.second(x), x

    image = torch.randn(1, 64, 48, 40, generator=torch.Generator().manual_seed(1))
    network = Residual()
    with torch.no_grad():
        expected = network(image)
    model = folded(network, image.shape)
    assert use_winograd(model) == 2
    for found, value in zip(outputs_of(model, image), expected, strict=True):
        assert np.abs(found - value.numpy()).max() <= ROUNDING * float(value.abs().max())


def test_of_layers_that_follow_each_other_none_is_computed_twice():
    layers = [nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.LeakyReLU(0.1)) for _ in range(3)]

    class Chain(nn.Sequential):
        def forward(self, x):
            return super().forward(x), x

    network, image = Chain(*layers), torch.randn(1, 64, 48, 40, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = network(image)
    model = folded(network, image.shape)
    assert use_winograd(model) == 3
    assert kinds_of(model).count("Convolution") == 3 * 6
    for found, value in zip(outputs_of(model, image), expected, strict=True):
        assert np.abs(found - value.numpy()).max() <= ROUNDING * float(value.abs().max())


@pytest.mark.parametrize(
    ("layer", "size_hw"),
    [
        (nn.Conv2d(128, 128, 3, padding=1, stride=2), (32, 32)),
        (nn.Conv2d(128, 128, 3, padding=2, dilation=2), (32, 32)),
        (nn.Conv2d(128, 128, 3), (32, 32)),
        (nn.Conv2d(128, 128, 3, padding=1, groups=4), (32, 32)),
        (nn.Conv2d(128, 128, 1), (32, 32)),
        (nn.Conv2d(128, 128, 5, padding=2), (32, 32)),
        (nn.Conv2d(16, 32, 3, padding=1), (32, 32)),
        (nn.Conv2d(128, 128, 3, padding=1), (5, 5)),
    ],
    ids=["stride", "dilation", "no padding", "groups", "1x1", "5x5", "few channels", "small map"],
)
def test_other_layers_are_left_alone(layer, size_hw):
    model = folded(layer, (1, 16 if layer.in_channels == 16 else 128, *size_hw))
    before = kinds_of(model)
    assert use_winograd(model) == 0
    assert kinds_of(model).count("Convolution") == before.count("Convolution")


def test_a_layer_of_an_unknown_size_or_another_processor_is_left_alone(monkeypatch):
    image, layer = torch.zeros(1, 128, 32, 32), nn.Conv2d(128, 128, 3, padding=1)
    assert use_winograd(folded(layer, (1, 128, -1, -1))) == 0
    model = folded(layer, image.shape)
    monkeypatch.setattr(winograd.platform, "machine", lambda: "aarch64")
    assert use_winograd(model) == 0
    monkeypatch.setattr(winograd.platform, "machine", lambda: "x86_64")
    assert use_winograd(model) == 1


def test_the_engine_uses_it_in_fp32_alone_and_agrees_with_torch(monkeypatch):
    pytest.importorskip("openvino")
    rewritten: list[int] = []

    def wherever_it_can(model):
        rewritten.append(use_winograd(model, max_time_ratio=float("inf")))

    monkeypatch.setattr(openvino_engine, "use_winograd", wherever_it_can)
    loaded = small_detector()
    engine, reference = (build(loaded, name) for name in ("openvino", "torch"))
    for image in probe_inputs(engine.size_hw):
        for found, expected in zip(engine(image), reference(image), strict=True):
            assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert len(rewritten) == 1
    assert rewritten[0] > 3
    engine.precision = "int8"
    engine._compile((64, 64), streams=1)
    assert len(rewritten) == 1


def test_a_bias_that_comes_as_a_formula_becomes_a_constant():
    model = graph_of(nn.Conv2d(12, 4, 3, padding=1), (1, 12, 5, 7))
    assert "ShapeOf" in kinds_of(model)
    fold_constants(model)
    kinds = kinds_of(model)
    assert "ShapeOf" not in kinds
    assert kinds.count("Convolution") == kinds.count("Add") == 1
