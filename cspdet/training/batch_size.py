"""`train.batch_size: auto`: as many pictures a forward pass as the CUDA device holds."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from cspdet.device import autocast, resolve_precision
from cspdet.errors import ConfigError
from cspdet.models import Classifier, Detector
from cspdet.recipe import ClassificationRecipe, DetectionRecipe
from cspdet.training.distributed.context import DistributedContext

RecipeT = TypeVar("RecipeT", DetectionRecipe, ClassificationRecipe)

log = logging.getLogger("cspdet")

# What the loss, the optimizer, the averaged weights and the fragments between them take comes on top of a pass.
USABLE_MEMORY_FRACTION = 0.8


def resolve_batch_size(
    recipe: RecipeT, model: Detector | Classifier, device: torch.device, context: DistributedContext
) -> RecipeT:
    """The recipe with a number of pictures a forward pass over all processes, measured where it says `auto`.

    Raises:
        ConfigError: `auto` on a CPU, or not even one picture fits.
    """
    train = recipe.train
    if train.batch_size != "auto":
        return recipe
    if device.type != "cuda":
        raise ConfigError("train.batch_size: auto is measured on a CUDA device; expected a number on a CPU")
    scale = train.multi_scale.high if train.multi_scale else 1.0
    size_hw = (round(recipe.input.size[0] * scale / 32) * 32, round(recipe.input.size[1] * scale / 32) * 32)
    max_per_process = max(1, train.nominal_batch_size // context.world_size)
    per_process = find_max_batch_size(
        lambda batch_size: _measure_peak_bytes(model, batch_size, size_hw, recipe, device),
        _usable_bytes(device),
        max_per_process,
    )
    if per_process == 0:
        raise ConfigError(f"train.batch_size: not one picture of {size_hw[0]}x{size_hw[1]} fits on {device}")
    batch_size = context.broadcast(per_process) * context.world_size
    log.info("train.batch_size: %d, as many as fit", batch_size)
    return recipe.model_copy(update={"train": train.model_copy(update={"batch_size": batch_size})})


def find_max_batch_size(measure_bytes: Callable[[int], int | None], available_bytes: int, max_batch_size: int) -> int:
    """The largest power of two up to `most` whose pass takes at most `usable` bytes; 0 if not even 1 does.

    bytes_of  what a pass over so many pictures takes; None: it does not fit
    """
    batch_size, found = 1, 0
    while batch_size <= max_batch_size:
        required_bytes = measure_bytes(batch_size)
        if required_bytes is None or required_bytes > available_bytes:
            break
        found, batch_size = batch_size, 2 * batch_size
    return found


def _usable_bytes(device: torch.device) -> int:
    free, _ = torch.cuda.mem_get_info(device)
    return int(USABLE_MEMORY_FRACTION * free)


def _measure_peak_bytes(
    model: Detector | Classifier,
    batch_size: int,
    size_hw: tuple[int, int],
    recipe: DetectionRecipe | ClassificationRecipe,
    device: torch.device,
) -> int | None:
    """The most memory that a forward and backward pass of a copy of the network takes."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    try:
        trial = copy.deepcopy(model).to(device).to(memory_format=torch.channels_last).train()
        images = torch.rand(batch_size, 3, *size_hw, device=device).to(memory_format=torch.channels_last)
        with autocast(device, resolve_precision(recipe.train.precision, device)):
            output = trial(images)
        scales = output if isinstance(output, tuple) else (output,)
        sum(scale.float().mean() for scale in scales).backward()
        return torch.cuda.max_memory_allocated(device) - before
    except torch.cuda.OutOfMemoryError:
        return None
