"""Gradients of activations laid out densely, while a network trains in bf16 on a CPU.

The gradient of one of several maps that were concatenated is a slice of the gradient of all: a few channels of each
pixel. Where these are fewer than torch's kernels take at once, they go through the slice value by value, 5 to 20 times
as slowly as through a dense tensor; to copy it first costs a fraction of that. In bf16 it pays up to 16 or 32 channels,
the widths of dense blocks. `benchmarks/activation_gradients.py` measures it, and docs/results.md has the figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

ACTIVATIONS = {F.leaky_relu, F.relu, F.silu, F.mish}
MAX_CHANNELS = 64  # channels of a slice that is as fast as its copy


class ContiguousGradients(TorchFunctionMode):
    """Activations of few channels in a forward pass within it get dense gradients; the networks stay as they are."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in ACTIVATIONS and output.ndim == 4 and output.requires_grad:
            output.register_hook(_make_contiguous)
        return output


def _make_contiguous(gradient: Tensor) -> Tensor:
    return gradient if gradient.shape[1] >= MAX_CHANNELS else gradient.contiguous(memory_format=torch.channels_last)
