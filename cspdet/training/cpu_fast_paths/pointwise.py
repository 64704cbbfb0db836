"""Faster 1x1 convolutions for CPU training: for small feature maps, and for maps of any size with one thread.

torch's convolution processes the images of a batch one after another; a matrix product processes the pixels of all
images at once. This saves more time the smaller the map is, up to half of the forward and backward time of a layer. On
processors with slow matrix products, the pixels are rebatched into more and smaller images instead, for which torch
uses a faster kernel. `benchmarks/pointwise_layers.py` measures both.
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

MAX_MATMUL_PIXELS = 26 * 26  # H * W with several threads; for larger maps the convolution is as fast or faster
MIN_ONEDNN_BATCH = 16  # with one thread, torch uses oneDNN for 1x1 layers from this batch size on, else im2col
MIN_REBATCH_MACS = 8_000_000  # multiply-adds of a layer; below, rebatching costs more than it saves


class PointwiseAsMatmul(TorchFunctionMode):
    """Context manager that replaces `F.conv2d` by `conv2d` inside the `with` block; the modules do not change."""

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
    """Compute `torch.nn.functional.conv2d`, with faster 1x1 convolutions of channels-last images.

    A 1x1 convolution without stride, groups and padding, of a small map or with one thread, is computed as a matrix
    product or on rebatched pixels; all others by torch. The arguments are the same as for `F.conv2d`.
    """
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
    """Compute a 1x1 convolution as a matrix product of all pixels and the weight."""
    batch, channels, height, width = image.shape
    pixels = image.permute(0, 2, 3, 1).reshape(batch * height * width, channels)
    # Not flatten(1): the gradient must have the memory layout of the weight, which DDP expects in all processes.
    matrix = weight.permute(0, 2, 3, 1).reshape(len(weight), channels)
    return F.linear(pixels, matrix, bias).view(batch, height, width, len(weight)).permute(0, 3, 1, 2)


def _rebatch_size(shape: tuple[int, ...], channels_out: int) -> int | None:
    """Return the batch size for rebatching the pixels of (B, C, H, W), or None if rebatching is not faster."""
    batch, channels, height, width = shape
    pixels = batch * height * width
    if batch >= MIN_ONEDNN_BATCH or pixels * channels * channels_out < MIN_REBATCH_MACS:
        return None
    return next((n for n in range(MIN_ONEDNN_BATCH, 4 * MIN_ONEDNN_BATCH) if pixels % n == 0), None)


def _conv_rebatched(image: Tensor, weight: Tensor, bias: Tensor | None, new_batch_size: int) -> Tensor:
    """Compute a 1x1 convolution after all pixels are rearranged to `new_batch_size` images of height 1.

    With one thread, torch uses its faster oneDNN kernels only for batches of at least MIN_ONEDNN_BATCH images.
    """
    batch, channels, height, width = image.shape
    rows = image.permute(0, 2, 3, 1).reshape(new_batch_size, 1, -1, channels).permute(0, 3, 1, 2)
    output = F.conv2d(rows, weight, bias).permute(0, 2, 3, 1)
    return output.reshape(batch, height, width, len(weight)).permute(0, 3, 1, 2)


@cache
def mkl_matmul_is_slow() -> bool:
    """Return whether torch uses MKL on an AMD CPU; its matrix products are then half as fast as its convolutions."""
    cpuinfo = Path("/proc/cpuinfo")
    cpu_name = cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.is_file() else platform.processor()
    return torch.backends.mkl.is_available() and "AuthenticAMD" in cpu_name


def _all_equal(sides: Any, value: int) -> bool:
    return sides == value or sides == (value, value) or sides == [value, value]
