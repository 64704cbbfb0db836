"""MODEL, as every command takes it: a checkpoint, or a config with or without weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cspdet.checkpoint import load_checkpoint, load_weights
from cspdet.coco_classes import COCO_CLASSES
from cspdet.config import parse_config
from cspdet.datasets.coco import load_coco
from cspdet.datasets.descriptor import load_descriptor
from cspdet.errors import CheckpointError, ConfigError, DataError
from cspdet.models import Detector
from cspdet.recipe import Recipe, load_recipe, recipe_to_plain
from cspdet.types import Classes


@dataclass(frozen=True)
class LoadedModel:
    """A detector in evaluation mode on the CPU, with what it was trained for."""

    model: Detector
    recipe: Recipe
    classes: Classes
    name: str


def load_model(path: str | Path, *, weights: str | Path | None = None, overrides: Sequence[str] = ()) -> LoadedModel:
    """Load a MODEL: `.pt` with its own config, or `.yaml` with `weights` (a `.pt`) or random ones (seeded).

    Overrides apply to a config, and to a checkpoint's own config where the network stays the same.

    Raises:
        CheckpointError, ConfigError: with what was expected and found.
    """
    path = Path(path)
    if path.suffix in (".yaml", ".yml"):
        recipe = load_recipe(path, overrides)
        if weights is None:
            classes = classes_of_config(recipe)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(recipe.train.seed)
                model = build_detector(recipe, len(classes), str(path))
            return LoadedModel(model.eval(), recipe, classes, path.stem)
        checkpoint, source = load_checkpoint(weights), str(weights)
    elif path.suffix == ".pt" or path.is_file():
        if weights is not None:
            raise CheckpointError(f"{path}: a checkpoint brings its own weights; --weights goes with a config (.yaml)")
        checkpoint, source = load_checkpoint(path), str(path)
        recipe = _overridden(checkpoint.recipe, overrides)
    else:
        raise CheckpointError(f"{path}: no such file; expected a checkpoint (.pt) or a config (.yaml)")
    model = build_detector(recipe, len(checkpoint.classes), source, pretrained=False)
    load_weights(model, checkpoint.weights, source)
    return LoadedModel(model.eval(), recipe, checkpoint.classes, path.stem)


def build_detector(recipe: Recipe, classes: int, where: str, *, pretrained: bool = True) -> Detector:
    """The network of a recipe; parts that do not fit, or an input that its strides do not divide, are a ConfigError.

    pretrained=False leaves out the weights that the config may ask for, since others will replace them.
    """
    try:
        model = recipe.model.build(classes, pretrained=pretrained)
    except ValueError as error:
        raise ConfigError(f"{where}: model: {error}") from None
    check_size(recipe.input.size, model.strides, where)
    return model


def check_size(size_hw: tuple[int, int], strides: tuple[int, ...], where: str) -> None:
    """Raise ConfigError unless the coarsest stride divides both sides."""
    step = max(strides)
    if any(side % step for side in size_hw):
        raise ConfigError(f"{where}: input.size: expected multiples of {step}, found {size_hw[0]}x{size_hw[1]}")


def classes_of_config(recipe: Recipe) -> Classes:
    """The classes of the recipe's data where it is on disk, else COCO's 80: for networks without trained weights."""
    try:
        return load_coco(load_descriptor(recipe.data).split("train"), "train").classes
    except (DataError, ConfigError):
        return COCO_CLASSES


def _overridden(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    if not overrides:
        return recipe
    return parse_config(recipe_to_plain(recipe), Recipe, "the checkpoint's config", overrides)
