"""`train.cpu_fast_paths` setting, contiguous gradients for bf16, and glibc memory settings."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from cspdet.device import Precision
from cspdet.errors import ConfigError
from cspdet.training.config import TrainerConfig
from cspdet.training.cpu_fast_paths.pointwise import PointwiseAsMatmul

ACTIVATIONS = {F.leaky_relu, F.relu, F.silu, F.mish}
MAX_CHANNELS = 64  # with more channels, a slice is processed as fast as a contiguous copy

# mallopt's parameters, from glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def use_cpu_fast_paths(config: TrainerConfig, device: torch.device) -> bool:
    """Return whether a run uses the fast paths, according to `train.cpu_fast_paths`.

    Raises:
        ConfigError: The setting is `true`, but the device is not a CPU or the network is compiled.
    """
    possible = device.type == "cpu" and not config.compile
    if config.cpu_fast_paths is True and not possible:
        found = "train.compile=true" if device.type == "cpu" else f"device {device}"
        raise ConfigError(f"train.cpu_fast_paths: true needs a CPU and train.compile=false, found {found}")
    return possible and config.cpu_fast_paths is not False


def cpu_fast_paths(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Return the context manager for a training forward pass: pointwise kernels in fp32, contiguous gradients in bf16.

    It is reusable, and has no effect on a device that is not a CPU.
    """
    if device.type != "cpu":
        return nullcontext()
    return PointwiseAsMatmul() if precision == "fp32" else ContiguousGradients()


class ContiguousGradients(TorchFunctionMode):
    """Context manager that makes the gradients of activations with few channels contiguous.

    The gradient of one of several concatenated feature maps is a slice of the gradient of the concatenation: a few
    channels of each pixel. If these are fewer than the vector width of torch's kernels, the kernels read the slice
    value by value, 5 to 20 times slower than a contiguous tensor. Gradients with fewer than MAX_CHANNELS channels are
    copied first, which is much faster; `benchmarks/activation_gradients.py` measures it.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in ACTIVATIONS and output.ndim == 4 and output.requires_grad:
            output.register_hook(_make_contiguous)
        return output


def _make_contiguous(gradient: Tensor) -> Tensor:
    return gradient if gradient.shape[1] >= MAX_CHANNELS else gradient.contiguous(memory_format=torch.channels_last)


def disable_malloc_trim() -> None:
    """Let glibc keep freed memory for the next step, instead of returning it to the kernel.

    By default, glibc maps memory for every activation above 32 MB in each step, and the kernel sets all of this memory
    to zero. With this setting, a step on a CPU is about 10% faster, but the process keeps its peak memory until it
    ends. It has no effect without glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
