"""A MODEL, counted: from a config or a checkpoint to the cost of its network, built on the meta device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cspdet.checkpoints.building import build_detector, classes_from_config
from cspdet.checkpoints.loading import load_model
from cspdet.models.bundle import Network, TaskName, check_size
from cspdet.models.profile import ModelCost, profile
from cspdet.recipe import ClassificationRecipe, load_recipe

DEFAULT_NUM_CLASSES: dict[TaskName, int] = {
    "detection": 80,
    "classification": 1000,
}  # of the published figures: COCO's and ImageNet's


@dataclass(frozen=True)
class ModelProfile:
    """What a MODEL costs at one input size."""

    name: str
    cost: ModelCost
    strides: tuple[int, ...]
    matches_published: bool  # whether it is the network that the published figures of its name are for


def profile_model(
    path: str | Path,
    overrides: Sequence[str] = (),
    size_hw: tuple[int, int] | None = None,
    num_classes: int | None = None,
    num_classes_cache: dict[Path, int] | None = None,
) -> ModelProfile:
    """Count a config (`.yaml`) or checkpoint at `size_hw`, or at its own input size.

    `classes` are a detector config's; None: those of its data where that is on disk, else COCO's 80. `class_counts`
    remembers them by data descriptor, for calls that share it.

    Raises:
        ConfigError, CheckpointError: no such model, or one that cannot be built at this size.
    """
    path = Path(path)
    task, model, config_size = _build_model(
        path, overrides, num_classes, {} if num_classes_cache is None else num_classes_cache
    )
    size_hw = size_hw or config_size
    check_size(size_hw, model, str(path))
    is_default = model.num_classes == DEFAULT_NUM_CLASSES[task]
    changed = any(text.split("=")[0].split(".")[0] == "model" for text in overrides)
    return ModelProfile(path.stem, profile(model, size_hw), model.strides, is_default and not changed)


def _build_model(
    path: Path, overrides: Sequence[str], num_classes: int | None, num_classes_cache: dict[Path, int]
) -> tuple[TaskName, Network, tuple[int, int]]:
    """The task, the network, and the input size of its config."""
    if path.suffix not in (".yaml", ".yml"):
        bundle = load_model(path, overrides=overrides)
        return bundle.task, bundle.torch_network, bundle.config.input.size
    recipe = load_recipe(path, overrides)
    if isinstance(recipe, ClassificationRecipe):
        with torch.device("meta"):
            return "classification", recipe.model.build(pretrained=False), recipe.input.size
    if num_classes is None:
        if recipe.data not in num_classes_cache:  # a large annotation file takes many seconds to read
            num_classes_cache[recipe.data] = len(classes_from_config(recipe))
        num_classes = num_classes_cache[recipe.data]
    with torch.device("meta"):
        model = build_detector(recipe, num_classes, str(path), pretrained=False)
    return "detection", model, recipe.input.size
