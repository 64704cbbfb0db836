"""Conversion between checkpoints and recipes."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from cspdet.errors import CheckpointError, ConfigError
from cspdet.io.checkpoint import Checkpoint
from cspdet.recipe import Recipe, recipe_from_dict, recipe_to_dict
from cspdet.structures import Categories


def recipe_from_checkpoint(checkpoint: Checkpoint, where: str) -> Recipe:
    """Return the recipe of a checkpoint, with the keys of cspdet 1 renamed.

    Args:
        checkpoint: Result of `load_checkpoint`.
        where: Name of the file, for error messages.

    Raises:
        CheckpointError: The config is invalid, or names a user-defined class whose module is not imported.
    """
    try:
        return recipe_from_dict(checkpoint.task, checkpoint.config, where)
    except ConfigError as error:
        raise CheckpointError(*error.problems) from None


def make_checkpoint(
    recipe: Recipe,
    categories: Categories,
    weights: dict[str, Tensor],
    training: dict[str, Any] | None = None,
) -> Checkpoint:
    """Create a checkpoint from a recipe and weights; write it with `save_checkpoint`."""
    return Checkpoint(recipe.task, recipe_to_dict(recipe), categories, weights, training)
