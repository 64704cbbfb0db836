"""Conversion between checkpoints and recipes."""

from __future__ import annotations

import reprlib
from typing import Any

from torch import Tensor

from cspdet.errors import CheckpointError, ConfigError
from cspdet.io.checkpoint import Checkpoint
from cspdet.recipe import Recipe, recipe_from_dict, recipe_to_dict
from cspdet.structures import Categories

# What a model needs of its config; the other sections are settings of its training and of evaluations.
MODEL_SECTIONS = ("task", "model", "input")
UNKNOWN_DATA = "unknown-data.yaml"  # stands for the data of a detector's config that names none


def recipe_from_checkpoint(checkpoint: Checkpoint, where: str, *, for_training: bool = False) -> Recipe:
    """Return the recipe of a checkpoint, with the keys of cspdet 1 renamed. Files named in the recipe are not opened.

    Args:
        checkpoint: Result of `load_checkpoint`.
        where: Name of the file, for error messages.
        for_training: Whether all sections must be valid. If not, invalid values outside of `task`, `model` and `input`
            are ignored with a warning. A later version may have written them.

    Raises:
        CheckpointError: The config is invalid, or names a user-defined class whose module is not imported.
    """
    where, config = checkpoint.describe(where), checkpoint.config
    model = config.get("model")
    if isinstance(model, dict) and "cfg" in model and "\n" not in str(model["cfg"]):
        raise CheckpointError(f"{where}: model.cfg: expected the text of a cfg, found {reprlib.repr(model['cfg'])}")
    if checkpoint.task == "detection" and not for_training and not isinstance(config.get("data"), str):
        config = {**config, "data": UNKNOWN_DATA}
    try:
        return recipe_from_dict(checkpoint.task, config, where, required=None if for_training else MODEL_SECTIONS)
    except ConfigError as error:
        raise CheckpointError(*error.problems) from None
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{where}: config: expected plain values: {str(error).splitlines()[0][:120]}") from None


def make_checkpoint(
    recipe: Recipe,
    categories: Categories,
    weights: dict[str, Tensor],
    training: dict[str, Any] | None = None,
) -> Checkpoint:
    """Create a checkpoint from a recipe and weights; write it with `save_checkpoint`."""
    return Checkpoint(recipe.task, recipe_to_dict(recipe), categories, weights, training)
