"""The model loader for checkpoints, configs with or without weights, Darknet cfg and weights, and exported files."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from cspdet.checkpoints.building import build_network, classes_from_config
from cspdet.checkpoints.darknet_cfg import recipe_from_cfg
from cspdet.checkpoints.pretrained import DARKNET_FILE
from cspdet.checkpoints.recipes import recipe_from_checkpoint
from cspdet.darknet.names import categories_from_count
from cspdet.darknet.weight_order import layers_in_file_order
from cspdet.darknet.weights import SkipInit, read_weights
from cspdet.errors import CheckpointError, ConfigError
from cspdet.inference.config import AUTO
from cspdet.inference.engines.exported import is_exported, read_exported_metadata
from cspdet.io.checkpoint import Checkpoint, load_checkpoint, load_weights
from cspdet.io.folders import CHECKPOINT_SUFFIXES
from cspdet.models.bundle import ModelBundle, check_task
from cspdet.recipe import Recipe, load_recipe, recipe_from_dict, recipe_to_dict
from cspdet.structures import Categories, TaskName
from cspdet.zoo.cache import find_entry, resolve_model

HUB_STEM = "model"  # files of this name are named by their metadata

log = logging.getLogger("cspdet")


def load_model(
    source: str | Path,
    *,
    weights: str | Path | None = None,
    overrides: Sequence[str] = (),
    task: TaskName | None = None,
    backend: str = AUTO,
) -> ModelBundle:
    """Load a detector or a classifier, in evaluation mode on the CPU.

    Args:
        source: A checkpoint (`.pt`, `.safetensors`), the folder of a run, the name of a downloaded model (of `cspdet
            zoo`, or `hf:user/name`), a config (`.yaml`), the name of a released config, a Darknet cfg (`.cfg`), or an
            exported file.
        weights: Trained weights for a config or cfg: a checkpoint or a Darknet `.weights` file. None: random weights,
            drawn with seed `train.seed`.
        overrides: `key.path=value` for a config, or for the config in a checkpoint if the network does not change.
        task: The expected task; None accepts both.
        backend: The engine that will run an exported file. A user-defined engine (`module:Class`) can define file
            suffixes.

    Returns:
        The bundle. For an exported file, it has metadata but no network. Classes without names get numbered names.

    Raises:
        CheckpointError: A file is missing, corrupt or for another task, or the weights do not fit.
        ConfigError: The config or an override is invalid.
    """
    path, weights = resolve_model(source), None if weights is None else resolve_model(weights)
    if is_exported(path, backend):
        return _load_exported(path, weights, overrides, task, backend)
    if path.suffix == ".cfg":
        return _load_cfg(path, weights, overrides, task)
    if path.suffix in (".yaml", ".yml") or (path.suffix not in CHECKPOINT_SUFFIXES and not path.is_file()):
        recipe = load_recipe(path, overrides, task=task)
        return _bundle_from_recipe(recipe, weights, str(path), path.stem)
    if weights is not None and path.is_file():
        raise CheckpointError(f"{path}: a checkpoint has its own weights; use --weights only with a config (.yaml)")
    checkpoint = load_checkpoint(path)
    check_task(task or checkpoint.task, checkpoint.task, str(path))
    recipe = _apply_overrides(recipe_from_checkpoint(checkpoint, str(path)), overrides)
    name = checkpoint.info.name if path.stem == HUB_STEM else None
    return _bundle_from_checkpoint(recipe, checkpoint, str(path), name or path.stem)


def _load_exported(
    path: Path, weights: str | Path | None, overrides: Sequence[str], task: TaskName | None, backend: str
) -> ModelBundle:  # fmt: skip
    if weights is not None:
        raise CheckpointError(f"{path}: an exported file has its own weights; use --weights only with a config (.yaml)")
    if overrides:
        raise ConfigError(f"{path}: an exported file has no config; override {overrides[0]!r} is not possible")
    metadata = read_exported_metadata(path, backend)
    check_task(task or metadata.task, metadata.task, str(path))
    return ModelBundle(
        metadata.task, None, metadata, metadata.classes, metadata.name, metadata, path, metadata.program
    )  # fmt: skip


def _load_cfg(
    path: Path, weights: str | Path | None, overrides: Sequence[str], task: TaskName | None
) -> ModelBundle:  # fmt: skip
    recipe, categories = recipe_from_cfg(path, overrides=overrides)
    check_task(task or recipe.task, recipe.task, str(path))
    return _bundle_from_recipe(recipe, weights, str(path), path.stem, categories)


def _bundle_from_recipe(
    recipe: Recipe, weights: str | Path | None, source: str, name: str, categories: Categories | None = None
) -> ModelBundle:
    """Build the network of a config, with random weights or with weights from a checkpoint or a Darknet file."""
    if weights is not None and not DARKNET_FILE.search(str(weights)):
        checkpoint = load_checkpoint(weights)
        check_task(recipe.task, checkpoint.task, str(weights))
        recipe = _with_num_classes(recipe, len(checkpoint.categories))
        return _bundle_from_checkpoint(recipe, checkpoint, str(weights), name)
    if categories is None and recipe.task == "detection":
        categories = classes_from_config(recipe)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.train.seed)
        num_classes = 0 if categories is None else len(categories)
        network = build_network(recipe, num_classes, source, pretrained=weights is None)
    if weights is None:
        hint = f"--weights FILE, or `cspdet fetch {source}`" if find_entry(source) else "--weights FILE"
        log.warning("%s: no weights are given, so the outputs of the model have no meaning; use %s", source, hint)
    else:
        try:
            layers = layers_in_file_order(network)
        except ValueError as error:
            raise ConfigError(f"{source}: {error}, so Darknet weights cannot be loaded into this network") from None
        read_weights(weights, layers)
    return ModelBundle(
        recipe.task, network.eval(), recipe, categories or categories_from_count(network.num_classes), name
    )


def _bundle_from_checkpoint(recipe: Recipe, checkpoint: Checkpoint, source: str, name: str) -> ModelBundle:
    source = checkpoint.describe(source)
    with SkipInit():  # all weights are in the checkpoint
        network = build_network(recipe, len(checkpoint.categories), source, pretrained=False)
    load_weights(network, checkpoint.weights, source)
    return ModelBundle(
        recipe.task, network.eval(), recipe, checkpoint.categories, name, program=checkpoint.program,
        info=checkpoint.info,
    )  # fmt: skip


def _with_num_classes(recipe: Recipe, num_classes: int) -> Recipe:
    """Return the recipe with the number of classes of the weights.

    The recipe of a detector or a cfg is returned unchanged, because it has no key `model.num_classes`.
    """
    if "num_classes" not in type(recipe.model).model_fields:
        return recipe
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"num_classes": num_classes})})


def _apply_overrides(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    if not overrides:
        return recipe
    return recipe_from_dict(recipe.task, recipe_to_dict(recipe), "the checkpoint's config", overrides)
