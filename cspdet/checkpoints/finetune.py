"""Fine-tuning: a trained model in place of the CONFIG of a training run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cspdet.checkpoints.recipes import recipe_from_checkpoint
from cspdet.config.released import CONFIG_SUFFIXES, names_released
from cspdet.errors import CheckpointError, ConfigError
from cspdet.io.checkpoint import load_checkpoint
from cspdet.io.folders import CHECKPOINT_SUFFIXES
from cspdet.models.bundle import check_task
from cspdet.recipe import Recipe, recipe_from_dict, recipe_to_dict
from cspdet.training.run.options import TrainOptions
from cspdet.zoo.cache import resolve_model

RECIPES = {"detection": "train/finetune.yaml", "classification": "train/classifier_recommended.yaml"}


def use_model_as_config(options: TrainOptions) -> TrainOptions:
    """If `options.config` is a downloaded model or a run folder, replace it by the path of its checkpoint.

    The name of a released config is kept. If `options.weights` is None, the checkpoint is also the source of the
    initial weights.

    Raises:
        CheckpointError: The model is not downloaded.
    """
    if options.config is None or names_released(options.config) or options.config.suffix in CONFIG_SUFFIXES:
        return options
    path = resolve_model(options.config)
    return (
        replace(options, config=path, weights=options.weights or str(path))
        if path.suffix in CHECKPOINT_SUFFIXES
        else options
    )


def finetune_recipe(options: TrainOptions, path: Path) -> Recipe:
    """Return the config in the checkpoint of a model, with its section `train` replaced for fine-tuning.

    Args:
        options: Arguments of the run, including overrides of the recipe.
        path: The checkpoint of the model.

    Raises:
        CheckpointError: The checkpoint is missing, corrupt or for another task.
        ConfigError: An override is invalid, or the data is not named.
    """
    checkpoint = load_checkpoint(path)
    check_task(options.task or checkpoint.task, checkpoint.task, str(path))
    named = options.data is not None or any(text.startswith("data=") for text in options.overrides)
    if not named:
        raise ConfigError(f"{path}: to train this model further, name the data: data=FILE")
    values = recipe_to_dict(recipe_from_checkpoint(checkpoint, str(path)))
    del values["train"]
    overrides = [f"train={RECIPES[checkpoint.task]}", *options.overrides]
    try:
        return recipe_from_dict(checkpoint.task, values, str(path), overrides)
    except CheckpointError as error:  # the overrides are from the command line
        raise ConfigError(*error.problems) from None
