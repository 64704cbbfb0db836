"""What OpenVINO graphs are rewritten to: the same outputs in the same shapes, and foreign graphs left alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from engine_data import small_detector
from openvino_data import graph_of, kinds_of, outputs_of
from torch import nn

from cspdet.inference.engines.cpu_kernels.openvino_graph import fold_constants, split_channels_last

SIZE = (1, 12, 5, 7)


class Outputs(nn.Module):
    """A map as raw outputs of some anchors, and in another order."""

    def __init__(self, anchors: int, order: tuple[int, ...]):
        super().__init__()
        self.anchors, self.order = anchors, order
        self.conv = nn.Conv2d(12, 24, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.conv(image)
        batch, channels, height, width = x.shape
        return x.view(batch, self.anchors, channels // self.anchors, height, width).permute(self.order)


@pytest.mark.parametrize("anchors", [1, 3, 4])
def test_raw_outputs_are_cut_to_the_same_numbers(anchors):
    network, image = Outputs(anchors, (0, 1, 3, 4, 2)), torch.randn(SIZE)
    model = graph_of(network, SIZE)
    (before,) = outputs_of(model, image)
    assert split_channels_last(model) == 1
    (after,) = outputs_of(model, image)
    assert after.shape == (1, anchors, 5, 7, 24 // anchors)
    np.testing.assert_array_equal(after, before)
    assert list(model.output(0).get_names()) == ["raw"]


def test_all_raw_outputs_of_a_detector_are_found():
    loaded = small_detector()
    names = ("raw_16", "raw_32")
    model = graph_of(loaded.network, (1, 3, 64, 96), names)
    image = torch.rand(1, 3, 64, 96)
    before = outputs_of(model, image)
    assert split_channels_last(model) == len(before) == 2
    for found, expected in zip(outputs_of(model, image), before, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert [next(iter(output.get_names())) for output in model.outputs] == list(names)


@pytest.mark.parametrize(
    ("network", "size"),
    [(Outputs(3, (0, 1, 4, 3, 2)), SIZE), (Outputs(3, (0, 1, 3, 4, 2)), (1, 12, -1, -1)), (nn.Conv2d(12, 3, 1), SIZE)],
    ids=["another order", "any size", "no raw output"],
)
def test_other_graphs_are_left_alone(network, size):
    assert split_channels_last(graph_of(network, size)) == 0


def test_a_bias_that_comes_as_a_formula_becomes_a_constant():
    model = graph_of(nn.Conv2d(12, 4, 3, padding=1), SIZE)
    assert "ShapeOf" in kinds_of(model)
    fold_constants(model)
    kinds = kinds_of(model)
    assert "ShapeOf" not in kinds
    assert kinds.count("Convolution") == kinds.count("Add") == 1
