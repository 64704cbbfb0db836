"""Import of Darknet weights: build the network of a cfg or config, load the weights, and create a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from cspdet.checkpoints.building import build_classifier, build_network, classes_from_config
from cspdet.checkpoints.darknet_cfg import BN_EPS, categories_from_cfg, recipe_from_cfg
from cspdet.checkpoints.recipes import make_checkpoint
from cspdet.config.loader import load_config
from cspdet.config.released import CONFIG_SUFFIXES
from cspdet.darknet.names import categories_from_names
from cspdet.darknet.weight_order import layers_in_file_order
from cspdet.darknet.weights import LoadResult, SkipInit, read_weights
from cspdet.errors import ConfigError
from cspdet.io.checkpoint import Checkpoint
from cspdet.models import Classifier, Detector
from cspdet.recipe import ClassificationRecipe, DetectionRecipe, Recipe, infer_task
from cspdet.structures import Categories


class ImportedModel(NamedTuple):
    """A network with weights from a Darknet file, its recipe and its classes."""

    recipe: Recipe
    categories: Categories
    network: Detector | Classifier
    load_result: LoadResult

    def to_checkpoint(self) -> Checkpoint:
        """Return the checkpoint. Its `program` ends with `import-darknet`, which marks imported checkpoints."""
        checkpoint = make_checkpoint(self.recipe, self.categories, self.network.state_dict())
        return replace(checkpoint, program=f"{checkpoint.program} import-darknet")


def import_darknet(
    cfg: Path,
    weights: Path,
    *,
    names: tuple[str, ...] | None = None,
    bn_eps: float | None = None,
    overrides: Sequence[str] = (),
    partial: bool = False,
) -> ImportedModel:
    """Build the network of a cfg or config, and load Darknet weights into it.

    Args:
        cfg: A Darknet cfg, or a config (`.yaml`) of the same network.
        weights: The `.weights` file.
        names: Class names; None: COCO names for 80 classes, VOC names for 20 classes, else `class 1`, `class 2`, ...
        bn_eps: Epsilon of batch normalization, only for a cfg; None: 1e-5.
        overrides: `key.path=value` for the recipe.
        partial: Whether to accept a file with only the first layers. The other layers are then initialized at random.

    Raises:
        ConfigError: The cfg, the config or an argument is invalid.
        CheckpointError: The weights are missing, corrupt, or of another network.
    """
    if cfg.suffix in CONFIG_SUFFIXES:
        if bn_eps is not None:
            raise ConfigError(f"--bn-eps: {cfg} is not a cfg; networks of a config have {BN_EPS:g}")
        recipe, categories = _recipe_from_config(cfg, names, overrides)
    else:
        bn_eps = BN_EPS if bn_eps is None else bn_eps
        recipe, categories = recipe_from_cfg(cfg, names=names, bn_eps=bn_eps, overrides=overrides)
    # Without `partial`, the file replaces all weights, and their random initialization would take seconds.
    with nullcontext() if partial else SkipInit(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_network(recipe, len(categories), str(cfg), pretrained=False)
    load_result = read_weights(weights, layers_in_file_order(network), partial=partial)
    return ImportedModel(recipe, categories, network, load_result)


def _recipe_from_config(
    path: Path, names: tuple[str, ...] | None, overrides: Sequence[str]
) -> tuple[Recipe, Categories]:
    recipe: Recipe
    if infer_task(path) == "classification":
        recipe = load_config(path, ClassificationRecipe, overrides)
        with torch.device("meta"):
            count = build_classifier(recipe, str(path)).num_classes
        return recipe, categories_from_cfg(count, names, path)
    recipe = load_config(path, DetectionRecipe, overrides)
    return recipe, classes_from_config(recipe) if names is None else categories_from_names(names)
