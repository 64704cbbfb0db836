"""Choice of the batch size: the largest that fits into CUDA memory, and the smallest for batch normalization."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable

import torch

from cspdet.device import Precision, autocast, resolve_precision
from cspdet.errors import ConfigError
from cspdet.models.bundle import Network
from cspdet.training.config import TrainerConfig
from cspdet.training.distributed.context import DistributedContext

log = logging.getLogger("cspdet")

# The rest is for the loss, the optimizer, the EMA weights and fragmentation, which the measured pass does not include.
USABLE_MEMORY_FRACTION = 0.8


def resolve_batch_size(
    train: TrainerConfig,
    input_hw: tuple[int, int],
    network: Network,
    device: torch.device,
    context: DistributedContext,
) -> int:
    """Return the number of images per forward pass, over all processes; for `auto`, measure the largest that fits.

    Args:
        train: The `train` section of the recipe.
        input_hw: Height and width of the network input in pixels.
        network: The network; a copy of it is measured.
        device: Device for training.
        context: Process group of the run.

    Raises:
        ConfigError: The device is a CPU and the value is `auto`, or a single image does not fit into memory.
    """
    if train.batch_size != "auto":
        return train.batch_size
    if device.type != "cuda":
        raise ConfigError("train.batch_size: auto is measured on a CUDA device; expected a number on a CPU")
    scale = train.multi_scale.high if train.multi_scale else 1.0
    size_hw = (round(input_hw[0] * scale / 32) * 32, round(input_hw[1] * scale / 32) * 32)
    precision = resolve_precision(train.precision, device)
    max_per_process = max(1, train.nominal_batch_size // context.world_size)
    per_process = find_max_batch_size(
        lambda batch_size: _measure_peak_bytes(network, batch_size, size_hw, precision, device),
        _usable_bytes(device),
        max_per_process,
    )
    if per_process == 0:
        raise ConfigError(f"train.batch_size: not one image of {size_hw[0]}x{size_hw[1]} fits on {device}")
    batch_size = context.broadcast(per_process) * context.world_size
    log.info("train.batch_size: auto selects %d", batch_size)
    return batch_size


def min_images_per_process(train: TrainerConfig, input_hw: tuple[int, int], stride: int) -> int:
    """Return the minimum images per process in a batch: 2 if the coarsest feature map can be a single cell, else 1.

    In training, batch normalization needs more than one value per channel.

    Args:
        train: The training config; only `multi_scale` is used.
        input_hw: Height and width of the network's input in pixels.
        stride: Input pixels per cell of the coarsest feature map.
    """
    scale = train.multi_scale.low if train.multi_scale else 1.0
    return 2 if round(max(input_hw) * scale / stride) <= 1 else 1


def single_value_error(error: Exception) -> ConfigError | None:
    """Return an error for the user if `error` is torch's error for batch normalization of a single value, else None."""
    if "Expected more than 1 value per channel" not in str(error):
        return None
    return ConfigError(
        "train.batch_size: batch normalization needs more than one value per channel, but a feature map has one cell "
        "and the batch one image; use 2 or more images per batch and process, or a larger input.size"
    )


def find_max_batch_size(measure_bytes: Callable[[int], int | None], available_bytes: int, max_batch_size: int) -> int:
    """Return the largest power-of-two batch size that fits into memory; 0 if a batch of 1 does not fit.

    Args:
        measure_bytes: Function that returns the memory in bytes of a pass with a batch size, or None if the pass does
            not fit.
        available_bytes: Available memory in bytes.
        max_batch_size: Upper limit of the result.
    """
    batch_size, largest = 1, 0
    while batch_size <= max_batch_size:
        required_bytes = measure_bytes(batch_size)
        if required_bytes is None or required_bytes > available_bytes:
            break
        largest, batch_size = batch_size, 2 * batch_size
    return largest


def _usable_bytes(device: torch.device) -> int:
    free, _ = torch.cuda.mem_get_info(device)
    return int(USABLE_MEMORY_FRACTION * free)


def _measure_peak_bytes(
    model: Network, batch_size: int, size_hw: tuple[int, int], precision: Precision, device: torch.device
) -> int | None:
    """Measure the peak memory in bytes of a forward and backward pass of a copy of the network; None: out of memory."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    try:
        trial = copy.deepcopy(model).to(device).to(memory_format=torch.channels_last).train()
        images = torch.rand(batch_size, 3, *size_hw, device=device).to(memory_format=torch.channels_last)
        with autocast(device, precision):
            output = trial(images)
        scales = output if isinstance(output, tuple) else (output,)
        sum(scale.float().mean() for scale in scales).backward()
        return torch.cuda.max_memory_allocated(device) - before
    except torch.cuda.OutOfMemoryError:
        return None
