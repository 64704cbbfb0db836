"""Train a detector or a classifier.

  cspdet train csppelee_efm_sam data=mine.yaml train.epochs=50
  cspdet train classification/csppeleenet data=imagenet
  cspdet train --resume runs/csppelee_efm_sam
  cspdet train runs/csppelee_efm_sam/best.pt data=other.yaml       # fine-tuning, with the recipe train/finetune.yaml

Override config values with key.path=value, or a whole section with a file: train=configs/train/paper.yaml
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from cspdet.cli.arguments import (
    CONFIG_SUFFIXES,
    EXPORTED_SUFFIXES,
    add_device_argument,
    add_model_options,
    check_model,
    check_weights,
    model_path,
)
from cspdet.config.released import names_released
from cspdet.errors import ConfigError, check_all
from cspdet.io.folders import CHECKPOINT_SUFFIXES

if TYPE_CHECKING:
    from cspdet.models.bundle import TaskName


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `train`."""
    add_run_arguments(parser, "model")


def run(args: argparse.Namespace) -> int:
    """Train, and return the exit code of the trainer."""
    return run_train(args)


def add_run_arguments(parser: argparse.ArgumentParser, model_type: str) -> None:
    """Add the arguments of the training commands.

    Args:
        parser: The parser of the command.
        model_type: detector, classifier or model: the type of the model in the help text.
    """
    parser.add_argument(
        "config", nargs="?", type=Path, metavar="CONFIG",
        help=f"a {model_type}'s config file, or a trained {model_type} to train further",
    )  # fmt: skip
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="run folder (default: runs/<config name>, with -2, -3 ... if it exists)",
    )
    parser.add_argument("--resume", type=Path, metavar="DIR", help="resume the run in this folder")
    parser.add_argument(
        "--weights", metavar="FILE",
        help="initial weights: a checkpoint (.pt; only the weights that fit), Darknet's .weights or .conv.N, timm:NAME",
    )  # fmt: skip
    add_device_argument(parser)
    parser.add_argument("--stop-after", type=int, metavar="N", help="stop after epoch N; --resume continues")
    add_model_options(parser)


def run_train(args: argparse.Namespace, task: TaskName | None = None) -> int:
    """Train with the arguments of a training command.

    Args:
        args: The arguments of `add_run_arguments`, and `data` if the command has this option.
        task: The expected task; None: the task of the config.

    Returns:
        The exit code of the trainer: 0, 130 after Ctrl-C, 143 after SIGTERM, or 129 after SIGHUP.
    """
    _check_config(args, task)
    from cspdet.device import select_device
    from cspdet.training.distributed.context import local_device
    from cspdet.training.run.options import TrainOptions
    from cspdet.workflows.train import run_training

    options = TrainOptions(
        args.config, args.output, args.resume, args.weights, local_device(select_device(args.device)), args.stop_after,
        tuple(args.overrides), task, getattr(args, "data", None),
    )  # fmt: skip
    return run_training(options).exit_code


def _resolve_config(config: Path) -> Path:
    """Return the path of a CONFIG argument. For a model to train further, this is the path of its checkpoint.

    Raises:
        CheckpointError: The checkpoint is missing, or the named model is not downloaded.
        ConfigError: CONFIG is an exported file.
    """
    if config.suffix in CONFIG_SUFFIXES or names_released(config):
        return config
    if config.suffix in EXPORTED_SUFFIXES:
        raise ConfigError(f"{config}: expected a CONFIG (.yaml) or a checkpoint (.pt), found an exported file")
    check_model(config)
    return model_path(str(config))


def _check_config(args: argparse.Namespace, task: TaskName | None) -> None:
    """Check the arguments, and the config, overrides and data of a new run, before torch is imported.

    Raises:
        UserError: An argument, the config, an override or the data descriptor is invalid, or data is missing.
    """
    if args.stop_after is not None and args.stop_after < 1:
        raise ConfigError(f"--stop-after: expected 1 or more, found {args.stop_after}")
    if args.config is None or args.resume is not None:
        return
    args.config = _resolve_config(args.config)
    if args.config.suffix in CHECKPOINT_SUFFIXES:
        return  # its config can be read with torch only
    from cspdet.datasets.descriptor import load_dataset_config
    from cspdet.recipe import load_recipe

    def check_data() -> None:
        recipe = load_recipe(args.config, args.overrides, task=task)
        if recipe.task == "detection":
            load_dataset_config(recipe.data).split("train")

    check_all(check_data, lambda: check_weights(args.weights))


if __name__ == "__main__":
    from cspdet.cli.main import run_command

    raise SystemExit(run_command("train"))
