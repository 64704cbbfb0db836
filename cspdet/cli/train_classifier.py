"""Train a backbone as a classifier, on an image folder with train/CLASS/* and val/CLASS/*, or train.txt and val.txt.

  cspdet train-classifier classification/csppeleenet --data imagenet
  cspdet train-classifier classification/cspresnet50 --data mine input.size=128 train.epochs=50
  cspdet train-classifier --resume runs/csppeleenet

Override config values with key.path=value, or a section with a file: train=configs/train/classifier_paper.yaml
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cspdet.cli.train import add_run_arguments, run_train


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `train-classifier`."""
    add_run_arguments(parser, "classifier")
    parser.add_argument("--data", type=Path, metavar="DIR", help="image folder (default: `data` of the config)")


def run(args: argparse.Namespace) -> int:
    """Train, and return the exit code of the trainer."""
    return run_train(args, "classification")


if __name__ == "__main__":
    from cspdet.cli.main import run_command

    raise SystemExit(run_command("train-classifier"))
