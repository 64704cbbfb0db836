"""`train.batch_size: auto`: as many pictures a forward pass as the CUDA device holds."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from cspdet.device import autocast, pick_precision
from cspdet.errors import ConfigError
from cspdet.models import Classifier, Detector
from cspdet.recipe import ClassifierRecipe, Recipe
from cspdet.training.distributed.context import World

AnyRecipe = TypeVar("AnyRecipe", Recipe, ClassifierRecipe)

log = logging.getLogger("cspdet")

# What the loss, the optimizer, the averaged weights and the fragments between them take comes on top of a pass.
USABLE = 0.8


def with_batch_size(recipe: AnyRecipe, model: Detector | Classifier, device: torch.device, world: World) -> AnyRecipe:
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
    most = max(1, train.nominal_batch_size // world.size)
    found = largest_power(lambda pictures: _bytes_of(model, pictures, size_hw, recipe, device), _usable(device), most)
    if found == 0:
        raise ConfigError(f"train.batch_size: not one picture of {size_hw[0]}x{size_hw[1]} fits on {device}")
    pictures = world.share(found) * world.size
    log.info("train.batch_size: %d, as many as fit", pictures)
    return recipe.model_copy(update={"train": train.model_copy(update={"batch_size": pictures})})


def largest_power(bytes_of: Callable[[int], int | None], usable: int, most: int) -> int:
    """The largest power of two up to `most` whose pass takes at most `usable` bytes; 0 if not even 1 does.

    bytes_of  what a pass over so many pictures takes; None: it does not fit
    """
    pictures, found = 1, 0
    while pictures <= most:
        taken = bytes_of(pictures)
        if taken is None or taken > usable:
            break
        found, pictures = pictures, 2 * pictures
    return found


def _usable(device: torch.device) -> int:
    free, _ = torch.cuda.mem_get_info(device)
    return int(USABLE * free)


def _bytes_of(
    model: Detector | Classifier,
    pictures: int,
    size_hw: tuple[int, int],
    recipe: Recipe | ClassifierRecipe,
    device: torch.device,
) -> int | None:
    """The most memory that a forward and backward pass of a copy of the network takes."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    try:
        trial = copy.deepcopy(model).to(device).to(memory_format=torch.channels_last).train()
        images = torch.rand(pictures, 3, *size_hw, device=device).to(memory_format=torch.channels_last)
        with autocast(device, pick_precision(recipe.train.precision, device)):
            output = trial(images)
        scales = output if isinstance(output, tuple) else (output,)
        sum(scale.float().mean() for scale in scales).backward()
        return torch.cuda.max_memory_allocated(device) - before
    except torch.cuda.OutOfMemoryError:
        return None
