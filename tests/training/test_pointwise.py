"""1x1 convolutions in training as matrix products or over pictures cut anew: the same numbers, where and where not."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cspdet.training.cpu_fast_paths import pointwise
from cspdet.training.cpu_fast_paths.pointwise import MAX_MATMUL_PIXELS, MIN_ONEDNN_BATCH, PointwiseAsMatmul, conv2d


def channels_last(*shape: int) -> torch.Tensor:
    values = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))
    return values.contiguous(memory_format=torch.channels_last)


@pytest.fixture
def products(monkeypatch):
    """The shapes of the matrices that were multiplied."""
    shapes: list[tuple[int, ...]] = []
    linear = F.linear

    def spy(rows, matrix, bias=None):
        shapes.append((*rows.shape, len(matrix)))
        return linear(rows, matrix, bias)

    monkeypatch.setattr(F, "linear", spy)
    monkeypatch.setattr(pointwise, "mkl_matmul_is_slow", lambda: False)
    return shapes


@pytest.fixture
def one_thread_of_slow_products(monkeypatch):
    monkeypatch.setattr(pointwise, "MIN_REBATCH_MACS", 1024)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(pointwise, "mkl_matmul_is_slow", lambda: True)


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 3),
    channels=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    size_hw=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    bias=st.booleans(),
    part=st.booleans(),
    num_images=st.sampled_from([None, 1, 2, 3, 16]),
)
def test_it_is_the_convolution_with_its_gradients(num_images, batch, channels, size_hw, bias, part):
    c_in, c_out = channels
    whole = channels_last(batch, 2 * c_in, *size_hw) if part else channels_last(batch, c_in, *size_hw)
    weight = channels_last(c_out, c_in, 1, 1)
    shift = torch.arange(c_out, dtype=torch.float64) if bias else None
    gradient = channels_last(batch, c_out, *size_hw)
    even = num_images if num_images is not None and batch * math.prod(size_hw) % num_images == 0 else 1
    kernel = pointwise._matmul_1x1 if num_images is None else partial(pointwise._conv_rebatched, new_batch_size=even)
    results = []
    for function in (F.conv2d, kernel):
        leaves = [value.clone(memory_format=torch.preserve_format).requires_grad_() for value in (whole, weight)]
        image = leaves[0][:, :c_in]  # half of the channels, as a cross stage path takes them
        output = function(image, leaves[1], shift)
        output.backward(gradient)
        results.append((output.detach(), leaves[0].grad, leaves[1].grad))
    for found, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("threads", [1, 2])
def test_large_maps_are_products_where_one_thread_computes(threads, products, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    side = int(MAX_MATMUL_PIXELS**0.5)
    weight = channels_last(8, 4, 1, 1)
    conv2d(channels_last(2, 4, side, side), weight)
    assert products == [(2 * side * side, 4, 8)]
    conv2d(channels_last(2, 4, side, side + 1), weight)
    assert len(products) == (2 if threads == 1 else 1)


@pytest.mark.usefixtures("one_thread_of_slow_products")
@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((2, 4, 8, 8), (16, 4, 1, 8)),
        ((2, 4, 5, 5), (25, 4, 1, 2)),  # 50 pixels: the first number from 16 on that divides them
        ((1, 4, 67, 1), (1, 4, 67, 1)),  # a prime number of pixels stays as it is
        ((1, 4, 4, 8), (16, 4, 1, 2)),  # 32 pixels, 4 to 8 channels: 1024 multiply-adds
        ((1, 4, 4, 7), (1, 4, 4, 7)),  # less work than that
        ((MIN_ONEDNN_BATCH, 4, 8, 8), (MIN_ONEDNN_BATCH, 4, 8, 8)),
    ],
)
def test_where_products_are_slow_the_pixels_become_more_images(shape, expected, monkeypatch):
    seen: list[tuple[int, ...]] = []
    torch_conv2d = F.conv2d

    def spy(image, *rest):
        seen.append(tuple(image.shape))
        return torch_conv2d(image, *rest)

    monkeypatch.setattr(F, "conv2d", spy)
    weight = channels_last(8, 4, 1, 1).requires_grad_()
    output = conv2d(channels_last(*shape), weight)
    assert seen == [expected]
    output.sum().backward()
    assert weight.grad.stride() == weight.stride()  # or DistributedDataParallel would copy it
    assert output.shape == (shape[0], 8, *shape[2:])
    assert output.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("layer", "image"),
    [
        (nn.Conv2d(4, 8, 3, padding=1), channels_last(2, 4, 6, 6)),
        (nn.Conv2d(4, 8, 1, stride=2), channels_last(2, 4, 6, 6)),
        (nn.Conv2d(4, 8, 1, padding=1), channels_last(2, 4, 6, 6)),
        (nn.Conv2d(4, 8, 1, groups=2), channels_last(2, 4, 6, 6)),
        (nn.Conv2d(4, 8, 1, padding="same"), channels_last(2, 4, 6, 6)),
        (nn.Conv2d(4, 8, 1), channels_last(2, 4, 6, 6).contiguous()),
        (nn.Conv2d(4, 8, 1), channels_last(1, 4, 6, 6)[0]),
    ],
    ids=["3x3", "stride", "padding", "groups", "padding in words", "channels first", "no batch"],
)
def test_other_convolutions_stay_as_they_are(layer, image, products):
    layer = layer.double()
    with PointwiseAsMatmul():
        found = layer(image)
    assert products == []
    assert torch.equal(found, layer(image))


def test_layers_need_not_know_of_it(products):
    layer, image = nn.Conv2d(4, 8, 1).double().to(memory_format=torch.channels_last), channels_last(2, 4, 6, 6)
    context = PointwiseAsMatmul()
    for count in (1, 2):
        with context:
            layer(image).sum().backward()
        assert products == [(72, 4, 8)] * count
    layer(image)
    assert len(products) == 2
    assert layer.weight.grad is not None
    assert layer.weight.grad.stride() == layer.weight.stride()  # or DistributedDataParallel would copy it
