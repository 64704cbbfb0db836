"""Train a detector.

  cspdet train configs/csppelee_efm_sam.yaml data=mine.yaml train.epochs=50
  cspdet train --resume runs/csppelee_efm_sam

Any value of the config can be given as key.path=value, a whole section as a file: train=configs/train/paper.yaml
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch

from cspdet.checkpoint import Checkpoint, load_checkpoint
from cspdet.config import parse_config
from cspdet.datasets.coco import CocoSet, check_pictures, load_coco
from cspdet.datasets.descriptor import load_descriptor
from cspdet.errors import CheckpointError, ConfigError, DataError, counted
from cspdet.folders import free_folder
from cspdet.model_file import build_detector
from cspdet.precision import pick_device
from cspdet.recipe import Recipe, load_recipe, recipe_to_plain
from cspdet.training.loop import Trainer, report_folder
from cspdet.training.run_folder import RunFolder
from cspdet.training.transfer import transfer

log = logging.getLogger("cspdet")

# What may change between the parts of one run: nothing that the numbers of the steps already made depend on.
MAY_CHANGE = ("data", "eval", "train.epochs", "train.workers", "train.cache", "train.evaluate_every",
              "train.save_every_minutes", "train.bad_pictures")  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command line of `train` takes."""
    parser.add_argument("config", nargs="?", type=Path, metavar="CONFIG", help="a detector's config file")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: runs/<config name>, -2, -3 ... when taken")
    parser.add_argument("--resume", type=Path, metavar="DIR", help="go on where the run in this folder stopped")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="start from what fits of this checkpoint")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--stop-after", type=int, metavar="N", help="stop after epoch N; --resume goes on")


def run(args: argparse.Namespace) -> int:
    """Train; the exit code is that of the loop."""
    device = pick_device(args.device)
    if args.stop_after is not None and args.stop_after < 1:
        raise ConfigError(f"--stop-after: expected 1 or more, found {args.stop_after}")
    if args.resume is not None:
        recipe, checkpoint = _resumed(args)
    elif args.config is None:
        raise ConfigError("train: expected a CONFIG, such as configs/csppelee_efm_sam.yaml, or --resume DIR")
    else:
        recipe, checkpoint = load_recipe(args.config, args.overrides), None

    descriptor = load_descriptor(recipe.data)
    train_set = load_coco(descriptor.split("train"), "train")
    val_set = load_coco(descriptor.split("val"), "val") if descriptor.val else None
    _check_sets(train_set, val_set, recipe.train.bad_pictures)
    if checkpoint is not None and checkpoint.classes != train_set.classes:
        raise DataError(f"{train_set.files.annotations}: its classes are not those of the run that is resumed")

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.train.seed)
        where = str(args.config or args.resume)
        model = build_detector(recipe, len(train_set.classes), where, pretrained=checkpoint is None)
    if args.weights is not None and checkpoint is None:
        transfer(model, load_checkpoint(args.weights).weights, str(args.weights))
    path = args.resume or args.output or free_folder(Path("runs") / args.config.stem)
    if checkpoint is None and (path / "last.pt").exists():
        raise ConfigError(f"{path}: holds a run already; go on with --resume {path}, or choose another --output")
    folder = RunFolder(path, recipe, train_set.classes)
    folder.start()
    trainer = Trainer(model, recipe, train_set, val_set, folder, device)
    if checkpoint is not None:
        trainer.resume(checkpoint)
    log.info(
        "%s: %d pictures, %d boxes, %d classes; %s, %s; into %s",
        descriptor.path.name, len(train_set), len(train_set.box_xyxy), len(train_set.classes), device,
        trainer.precision, path,
    )  # fmt: skip
    code = trainer.run(args.stop_after)
    if code == 0:
        log.info("%s", report_folder(path))
    return code


def _check_sets(train_set: CocoSet, val_set: CocoSet | None, bad_pictures: str) -> None:
    """Tell what was skipped or clipped; refuse pictures that are missing, unreadable or of another size."""
    sets = [train_set] if val_set is None else [train_set, val_set]
    for coco in sets:
        for note in coco.notes:
            log.info("%s", note)
    for coco in sets:
        problems = check_pictures(coco)
        if problems and (coco is val_set or bad_pictures == "error"):
            way_on = () if coco is val_set else ("train.bad_pictures=skip trains without them",)
            raise DataError(*counted(problems), *way_on)
        for problem in counted(problems):
            log.warning("replaced by another picture: %s", problem)


def _resumed(args: argparse.Namespace) -> tuple[Recipe, Checkpoint]:
    """The recipe and checkpoint of the run to go on with; overrides may only touch what is harmless."""
    if args.weights is not None or args.output is not None:
        raise ConfigError("--resume goes on in its own folder with its own weights; leave out --weights and --output")
    path = args.resume / "last.pt"
    checkpoint = load_checkpoint(path)
    if checkpoint.training is None:
        raise CheckpointError(f"{path}: holds no training state to resume from")
    if args.config is not None and load_recipe(args.config).model != checkpoint.recipe.model:
        raise ConfigError(f"{args.config}: describes another network than the run in {args.resume}")
    for word in args.overrides:
        key = word.split("=")[0]
        if not any(key == free or key.startswith(f"{free}.") for free in MAY_CHANGE):
            raise ConfigError(f"override {word!r}: cannot change on --resume; what can: {', '.join(MAY_CHANGE)}")
    plain = recipe_to_plain(checkpoint.recipe)
    return parse_config(plain, Recipe, str(path), args.overrides), checkpoint
