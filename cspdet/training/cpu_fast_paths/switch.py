"""How a forward pass on a CPU is led to the faster of torch's kernels, and its gradients too."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from cspdet.device import Precision
from cspdet.training.cpu_fast_paths.contiguous_gradients import ContiguousGradients
from cspdet.training.cpu_fast_paths.pointwise import PointwiseAsMatmul


def cpu_fast_paths(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """The context of a forward pass while training: faster 1x1 layers in fp32 on a CPU, dense gradients in bf16 there,
    elsewhere nothing. It may be entered any number of times; neither changes more than rounding."""
    if device.type != "cpu":
        return nullcontext()
    return PointwiseAsMatmul() if precision == "fp32" else ContiguousGradients()
