"""Checkpoints and recipes: the config of a checkpoint as a recipe, and a checkpoint of a recipe's network."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from cspdet.errors import CheckpointError, ConfigError
from cspdet.io.checkpoint import Checkpoint
from cspdet.recipe import Recipe, recipe_from_dict, recipe_to_dict
from cspdet.structures import Categories


def recipe_from_checkpoint(checkpoint: Checkpoint, where: str) -> Recipe:
    """The recipe that a checkpoint was trained with; keys of cspdet 1 are renamed.

    Args:
        checkpoint: What `load_checkpoint` read.
        where: The file that an error names.

    Raises:
        CheckpointError: a config that is not valid, or that names a class of a user's module that is not imported.
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
    """A checkpoint of the network of a recipe, to be saved with `save_checkpoint`."""
    return Checkpoint(recipe.task, recipe_to_dict(recipe), categories, weights, training)
