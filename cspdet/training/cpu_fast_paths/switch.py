"""The switch `train.cpu_fast_paths`, contiguous gradients for bf16, and the memory of a step."""

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
MAX_CHANNELS = 64  # channels of a slice that is as fast as its copy

# mallopt's parameters, from glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def use_cpu_fast_paths(config: TrainerConfig, device: torch.device) -> bool:
    """Whether a run uses the fast paths, by `train.cpu_fast_paths`.

    Raises:
        ConfigError: they are required, but the device is no CPU or the network is compiled.
    """
    possible = device.type == "cpu" and not config.compile
    if config.cpu_fast_paths is True and not possible:
        found = "train.compile=true" if device.type == "cpu" else f"device {device}"
        raise ConfigError(f"train.cpu_fast_paths: true needs a CPU and train.compile=false, found {found}")
    return possible and config.cpu_fast_paths is not False


def cpu_fast_paths(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """The context of a forward pass in training: pointwise kernels in fp32, contiguous gradients in bf16.

    It may be entered any number of times. On another device than a CPU it does nothing.
    """
    if device.type != "cpu":
        return nullcontext()
    return PointwiseAsMatmul() if precision == "fp32" else ContiguousGradients()


class ContiguousGradients(TorchFunctionMode):
    """Makes the gradients of activations with few channels contiguous, in a forward pass within it.

    The gradient of one of several concatenated maps is a slice of the gradient of all: a few channels of each pixel.
    Where these are fewer than torch's kernels process at once, they read the slice value by value, 5 to 20 times as
    slowly as a contiguous tensor; to copy it first costs a fraction of that. In bf16 this is faster up to 16 or 32
    channels, the widths of dense blocks: `benchmarks/activation_gradients.py` measures it.
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
    """Let glibc keep the memory that a step frees for the next one, instead of returning it to the kernel.

    By default every activation above 32 MB is mapped again in each step, and its pages are zeroed one by one; without
    that, a step on a CPU is about 10% faster. The process then keeps its peak memory until it ends. Does nothing where
    there is no glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
