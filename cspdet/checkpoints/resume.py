"""Recipe and initial network of a training run, from a config or from the `last.pt` of a run to resume."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from cspdet.checkpoints.building import build_network, with_num_classes
from cspdet.checkpoints.finetune import finetune_recipe
from cspdet.checkpoints.initial_weights import load_initial_weights
from cspdet.checkpoints.load_report import TransferReport
from cspdet.checkpoints.recipes import recipe_from_checkpoint
from cspdet.config.aliases import rename_override
from cspdet.config.user_modules import forbid_user_modules
from cspdet.errors import CheckpointError, ConfigError
from cspdet.io.checkpoint import Checkpoint, load_checkpoint
from cspdet.io.folders import CHECKPOINT_SUFFIXES
from cspdet.models.bundle import Network
from cspdet.recipe import Recipe, load_recipe, recipe_from_dict, recipe_to_dict
from cspdet.structures import MODEL_TYPES
from cspdet.training.run.options import RESUME_OVERRIDABLE, TrainOptions

log = logging.getLogger("cspdet")

COMMANDS = {"detection": "train", "classification": "train-classifier"}
EXAMPLES = {"detection": "configs/csppelee_efm_sam.yaml", "classification": "configs/classification/csppeleenet.yaml"}


def load_recipe_or_resume(options: TrainOptions) -> tuple[Recipe, Checkpoint | None]:
    """Return the recipe of a run. If the run is resumed, also return its checkpoint `last.pt`, else None.

    Raises:
        ConfigError: The config is missing, invalid or for another task, or an override is not allowed when resuming.
        CheckpointError: The checkpoint is missing or corrupt, or has no training state.
    """
    if options.resume is not None:
        return _resume(options, options.resume)
    command, example = COMMANDS[options.task or "detection"], EXAMPLES[options.task or "detection"]
    if options.config is None:
        raise ConfigError(f"{command}: expected a CONFIG, such as {example}, or --resume DIR")
    if options.output is not None and (options.output / "last.pt").exists():
        raise ConfigError(
            f"{options.output}: already contains a run; resume it with cspdet {command} --resume {options.output}, "
            "or choose another --output"
        )
    if options.config.suffix in CHECKPOINT_SUFFIXES:
        return finetune_recipe(options, options.config), None
    return load_recipe(options.config, options.overrides, task=options.task), None


def _resume(options: TrainOptions, folder: Path) -> tuple[Recipe, Checkpoint]:
    path = folder / "last.pt"
    checkpoint = load_checkpoint(path)
    if checkpoint.training is None:
        raise CheckpointError(f"{path}: has no training state to resume from")
    if options.task is not None and checkpoint.task != options.task:
        expected, found = MODEL_TYPES[options.task], MODEL_TYPES[checkpoint.task]
        command = COMMANDS[checkpoint.task]
        hint = f"resume with: cspdet {command} --resume {folder}"
        raise ConfigError(f"{path}: expected {expected}, found {found}; {hint}")
    recipe = recipe_from_checkpoint(checkpoint, str(path), for_training=True)
    if options.config is not None:
        given = with_num_classes(load_recipe(options.config, task=options.task), len(checkpoint.categories))
        if given.model != recipe.model:
            raise ConfigError(f"{options.config}: the model differs from that of the run in {folder}")
    _warn_if_config_edited(folder / "config.yaml", recipe)
    for override in options.overrides:
        key = rename_override(override).split("=")[0]
        if not any(key == overridable or key.startswith(f"{overridable}.") for overridable in RESUME_OVERRIDABLE):
            raise ConfigError(
                f"override {override!r}: cannot be changed on --resume; allowed keys: {', '.join(RESUME_OVERRIDABLE)}"
            )
    return recipe_from_dict(recipe.task, recipe_to_dict(recipe), str(path), options.overrides), checkpoint


def _warn_if_config_edited(path: Path, recipe: Recipe) -> None:
    """Warn if the user edited `config.yaml` of the run. Resuming does not read this file."""
    try:
        with forbid_user_modules():  # nobody asked to read this file, so it runs no code
            is_unchanged = not path.exists() or load_recipe(path, task=recipe.task) == recipe
    except ConfigError:
        is_unchanged = False
    if not is_unchanged:
        log.warning(
            "%s: differs from the config in last.pt and is ignored on resume; change settings with key=value on the "
            "command line", path
        )  # fmt: skip


def build_initial_network(
    options: TrainOptions, recipe: Recipe, checkpoint: Checkpoint | None, class_names: Sequence[str]
) -> tuple[Network, TransferReport | None]:
    """Build the network of a run and load its initial weights.

    Random weights (seed `train.seed`) are replaced by the pretrained weights of the config, then by `options.weights`.

    Args:
        options: Arguments of the run; `weights` is the file of initial weights.
        recipe: The recipe of the run.
        checkpoint: The checkpoint to resume from. If it is given, no weights are loaded here.
        class_names: Class names of the data.

    Returns:
        The network, and the report of weights loaded from `options.weights`, or None if nothing was loaded.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.train.seed)
        network = build_network(recipe, len(class_names), options.config_source, pretrained=checkpoint is None)
    if checkpoint is not None:
        return network, None
    report = None if options.weights is None else load_initial_weights(network, options.weights, class_names)
    _check_kept_classes([name for name in recipe.train.keep_classes if name in class_names], report)
    return network, report


def _check_kept_classes(names: Sequence[str], report: TransferReport | None) -> None:
    """Raise ConfigError if the outputs of a class in `train.keep_classes` were not loaded."""
    missing = [name for name in names if report is None or name not in report.classes]
    if missing:
        source = "there are no initial weights" if report is None else f"{report.source} has no outputs of this class"
        raise ConfigError(
            f"train.keep_classes: {missing[0]}: {source}: expected a checkpoint with this class as MODEL or --weights"
        )
