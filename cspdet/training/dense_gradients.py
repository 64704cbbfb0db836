"""Gradients of activations laid out densely, while a network trains in bf16 on a CPU.

The gradient of one of several maps that were concatenated is a slice of the gradient of all: a few channels of each
pixel. torch's kernels of the activations' gradients go through such a slice up to 20 times as slowly as through a dense
tensor in bf16, value by value; to copy it first costs a fraction of that. In fp32 the slice is as fast as the copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

ACTIVATIONS = {F.leaky_relu, F.relu, F.silu, F.mish}


class DenseGradients(TorchFunctionMode):
    """Activations of a forward pass within it get dense gradients of the same values; the networks stay as they are."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in ACTIVATIONS and output.ndim == 4 and output.requires_grad:
            output.register_hook(_dense)
        return output


def _dense(gradient: Tensor) -> Tensor:
    return gradient.contiguous(memory_format=torch.channels_last)
