"""1x1 convolutions of small maps, with one thread of all, in a faster way, while a network trains on a CPU.

A convolution goes through its pictures one by one, a matrix product through all of their pixels at once: the smaller
the map, the more that saves, up to half of a layer's forward and backward time. Where products are slow, the same
pixels are dealt out to more and smaller pictures, for which torch has a faster kernel.
`benchmarks/pointwise_layers.py` measures both, and docs/results.md has the figures.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

MAX_MATMUL_PIXELS = 26 * 26  # pixels of a map, with several threads; above, the convolution is as fast or faster
MIN_ONEDNN_BATCH = 16  # from so many on torch gives 1x1 layers to oneDNN with one thread, too; below, it unrolls them
MIN_REBATCH_MACS = 8_000_000  # multiply-adds of a layer; below, cutting its pictures anew costs more than it saves


class PointwiseAsMatmul(TorchFunctionMode):
    """A forward pass within it takes them the faster way; the networks stay as they are."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        chosen = conv2d if func is F.conv2d else func
        return chosen(*args, **(kwargs or {}))


def conv2d(
    image: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """`torch.nn.functional.conv2d`; where it is 1x1 over every pixel, without groups or padding, and channels lie last
    in memory: as a matrix product or over pictures cut anew, if the map is small or one thread computes."""
    pointwise = weight.shape[2:] == (1, 1) and groups == 1 and _all_equal(stride, 1) and _all_equal(padding, 0)
    if pointwise and image.ndim == 4 and image.stride(1) == 1:
        single_thread = torch.get_num_threads() == 1
        if single_thread and mkl_matmul_is_slow():
            new_batch_size = _rebatch_size(image.shape, len(weight))
            return (
                F.conv2d(image, weight, bias)
                if new_batch_size is None
                else _conv_rebatched(image, weight, bias, new_batch_size)
            )
        if single_thread or image.shape[2] * image.shape[3] <= MAX_MATMUL_PIXELS:
            return _matmul_1x1(image, weight, bias)
    return F.conv2d(image, weight, bias, stride, padding, dilation, groups)


def _matmul_1x1(image: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """All pixels of the batch, a row each, times the weight."""
    batch, channels, height, width = image.shape
    pixels = image.permute(0, 2, 3, 1).reshape(batch * height * width, channels)
    # Not flatten(1): the gradient is to lie in memory as the weight does, or other processes' do not fit to it.
    matrix = weight.permute(0, 2, 3, 1).reshape(len(weight), channels)
    return F.linear(pixels, matrix, bias).view(batch, height, width, len(weight)).permute(0, 3, 1, 2)


def _rebatch_size(shape: tuple[int, ...], channels_out: int) -> int | None:
    """How many pictures of one row the pixels of an image (B, C, H, W) are best cut into; None: they stay."""
    batch, channels, height, width = shape
    pixels = batch * height * width
    if batch >= MIN_ONEDNN_BATCH or pixels * channels * channels_out < MIN_REBATCH_MACS:
        return None
    return next((n for n in range(MIN_ONEDNN_BATCH, 4 * MIN_ONEDNN_BATCH) if pixels % n == 0), None)


def _conv_rebatched(image: Tensor, weight: Tensor, bias: Tensor | None, new_batch_size: int) -> Tensor:
    """The convolution of the same pixels as so many pictures of one row."""
    batch, channels, height, width = image.shape
    rows = image.permute(0, 2, 3, 1).reshape(new_batch_size, 1, -1, channels).permute(0, 3, 1, 2)
    output = F.conv2d(rows, weight, bias).permute(0, 2, 3, 1)
    return output.reshape(batch, height, width, len(weight)).permute(0, 3, 1, 2)


@cache
def mkl_matmul_is_slow() -> bool:
    """Whether MKL multiplies the matrices and the CPU is AMD's, on which it reaches half of what convolutions do."""
    cpuinfo = Path("/proc/cpuinfo")
    cpu_name = cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.is_file() else platform.processor()
    return torch.backends.mkl.is_available() and "AuthenticAMD" in cpu_name


def _all_equal(sides: Any, value: int) -> bool:
    return sides == value or sides == (value, value) or sides == [value, value]
