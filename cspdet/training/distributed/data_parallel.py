"""DistributedDataParallel and torch.compile wrappers of the trained network."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cspdet.training.distributed.context import DistributedContext

# Batch-norm buffers are either synchronized already (SyncBatchNorm) or local on purpose, so DDP must not broadcast
# them. torch 2.15 renamed the argument.
BUFFER_SYNC_ARG = "forward_sync_buffers"
HAS_FORWARD_SYNC_BUFFERS = BUFFER_SYNC_ARG in inspect.signature(DistributedDataParallel).parameters
DDP_KWARGS: dict[str, Any] = {BUFFER_SYNC_ARG if HAS_FORWARD_SYNC_BUFFERS else "broadcast_buffers": False}


def wrap_model(model: nn.Module, device: torch.device, context: DistributedContext, *, compiled: bool) -> nn.Module:
    """Wrap the model in DDP if there are several processes, and compile it if requested.

    Args:
        model: The network, on `device`.
        device: Device of this process.
        context: Process group of the run.
        compiled: Whether to use torch.compile.
    """
    network = model
    if context.world_size > 1:
        ids = [device] if device.type == "cuda" else None
        with context.collective("comparing the networks"):
            network = DistributedDataParallel(network, ids, gradient_as_bucket_view=True, **DDP_KWARGS)
    return torch.compile(network) if compiled else network  # type: ignore[return-value]


@contextmanager
def gradient_reduction(network: nn.Module, context: DistributedContext, update: bool) -> Iterator[None]:
    """Return a context manager for a forward and backward pass; gradients are all-reduced only if `update` is true.

    The watchdog ends the run if the all-reduce does not finish before the timeout.

    Args:
        network: The result of `wrap_model`.
        context: Process group of the run.
        update: Whether an optimizer step follows.
    """
    parallel = getattr(network, "_orig_mod", network)  # unwrap torch.compile
    suspended: AbstractContextManager[None] = nullcontext()
    if not update and isinstance(parallel, DistributedDataParallel):
        suspended = parallel.no_sync()
    with context.collective("computing gradients"), suspended:
        yield
