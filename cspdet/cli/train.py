"""Train a detector or a classifier.

  cspdet train configs/csppelee_efm_sam.yaml data=mine.yaml train.epochs=50
  cspdet train configs/classification/csppeleenet.yaml data=imagenet
  cspdet train --resume runs/csppelee_efm_sam

Any value of the config can be given as key.path=value, a whole section as a file: train=configs/train/paper.yaml
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cspdet.models.bundle import TaskName


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command line of `train` takes."""
    add_run_arguments(parser, "model")


def run(args: argparse.Namespace) -> int:
    """Train; the exit code is that of the loop."""
    return run_train(args)


def add_run_arguments(parser: argparse.ArgumentParser, model_type: str) -> None:
    """Add what every training command takes.

    Args:
        parser: The parser of the command.
        model_type: What is trained, for the help.
    """
    parser.add_argument("config", nargs="?", type=Path, metavar="CONFIG", help=f"a {model_type}'s config file")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: runs/<config name>, -2, -3 ... when taken")
    parser.add_argument("--resume", type=Path, metavar="DIR", help="resume the run in this folder")
    parser.add_argument(
        "--weights", metavar="FILE",
        help="initial weights: those that fit of a checkpoint (.pt), Darknet's .weights or .conv.N, or timm:NAME",
    )  # fmt: skip
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--stop-after", type=int, metavar="N", help="stop after epoch N; --resume continues")


def run_train(args: argparse.Namespace, task: TaskName | None = None) -> int:
    """Train with the arguments of a training command; the exit code is that of the loop.

    Args:
        args: What `add_run_arguments` parsed, with `data` where the command has it.
        task: The expected task; None: that of the config.
    """
    from cspdet.device import select_device
    from cspdet.training.distributed.context import local_device
    from cspdet.training.run.options import TrainOptions
    from cspdet.workflows.train import run_training

    options = TrainOptions(
        args.config, args.output, args.resume, args.weights, local_device(select_device(args.device)), args.stop_after,
        tuple(args.overrides), task, getattr(args, "data", None),
    )  # fmt: skip
    return run_training(options).exit_code
