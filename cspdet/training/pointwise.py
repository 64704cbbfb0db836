"""1x1 convolutions of small maps, with one thread of all, as matrix products, while a network trains on a CPU.

A convolution goes through its pictures one by one, a matrix product through all of their pixels at once: the smaller
the map, the more that saves, up to half of a layer's forward and backward time. `benchmarks/pointwise_layers.py`
measures it, and docs/results.md has the figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

LARGEST_MAP = 26 * 26  # pixels of a map, with several threads; above, the convolution is as fast or faster


class PointwiseProducts(TorchFunctionMode):
    """A forward pass within it takes them for matrix products; the networks stay as they are."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        chosen = convolve if func is F.conv2d else func
        return chosen(*args, **(kwargs or {}))


def convolve(
    image: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """`torch.nn.functional.conv2d`, as a matrix product where that is the same and faster: 1x1, every pixel, no groups,
    no padding, a small map (with one thread any) with its channels last in memory."""
    pointwise = weight.shape[2:] == (1, 1) and groups == 1 and _all(stride, 1) and _all(padding, 0)
    if not pointwise or image.ndim != 4 or image.stride(1) != 1 or not _worth(image.shape[2] * image.shape[3]):
        return F.conv2d(image, weight, bias, stride, padding, dilation, groups)
    batch, channels, height, width = image.shape
    pixels = image.permute(0, 2, 3, 1).reshape(batch * height * width, channels)
    # Not flatten(1): the gradient is to lie in memory as the weight does, or other processes' do not fit to it.
    matrix = weight.permute(0, 2, 3, 1).reshape(len(weight), channels)
    return F.linear(pixels, matrix, bias).view(batch, height, width, len(weight)).permute(0, 3, 1, 2)


def _worth(pixels: int) -> bool:
    # With one thread torch has no oneDNN for 1x1 layers and batches below 16: it unrolls the picture, and is slower.
    return pixels <= LARGEST_MAP or torch.get_num_threads() == 1


def _all(sides: Any, value: int) -> bool:
    return sides == value or sides == (value, value) or sides == [value, value]
