"""Train a detector.

  cspdet train configs/csppelee_efm_sam.yaml data=mine.yaml train.epochs=50
  cspdet train --resume runs/csppelee_efm_sam

Any value of the config can be given as key.path=value, a whole section as a file: train=configs/train/paper.yaml
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from cspdet.analysis.build import analyze_results
from cspdet.analysis.summary import short_summary
from cspdet.checkpoints.loading import build_detector
from cspdet.datasets.descriptor import load_descriptor
from cspdet.datasets.formats.coco import CocoSet, check_pictures, load_coco
from cspdet.errors import DataError, counted
from cspdet.evaluation.results import read_results
from cspdet.io.checkpoint import Checkpoint
from cspdet.recipe import Recipe
from cspdet.training.assigners.assign import check_rule
from cspdet.training.batch_size import with_batch_size
from cspdet.training.distributed.context import World, is_first_process, join
from cspdet.training.run.run_lock import RunLock
from cspdet.training.run.start import (
    Request,
    add_run_arguments,
    first_model,
    lock_named,
    open_folder,
    pick_folder,
    read_request,
    train,
    with_cache_folder,
)  # fmt: skip
from cspdet.training.tasks.detection import DetectionTask

log = logging.getLogger("cspdet")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command line of `train` takes."""
    add_run_arguments(parser, "detector")


def run(args: argparse.Namespace) -> int:
    """Train; the exit code is that of the loop."""
    request = Request.of(args)
    with RunLock(active=is_first_process()) as lock:
        lock_named(request, lock)
        recipe, checkpoint = read_request(request, Recipe, "configs/csppelee_efm_sam.yaml")
        with join(request.device, recipe.train.timeout_minutes) as world:
            return _run(request, recipe, checkpoint, world, lock)


def _run(request: Request, recipe: Recipe, checkpoint: Checkpoint | None, world: World, lock: RunLock) -> int:
    descriptor = load_descriptor(recipe.data)
    train_set = load_coco(descriptor.split("train"), "train")
    val_set = load_coco(descriptor.split("val"), "val") if descriptor.val else None
    _check_sets(train_set, val_set, recipe.train.bad_pictures)
    if checkpoint is not None and checkpoint.classes != train_set.classes:
        raise DataError(f"{train_set.files.annotations}: its classes are not those of the run that is resumed")

    classes = len(train_set.classes)
    model, transferred = first_model(
        request, checkpoint, recipe.train.seed,
        lambda pretrained: build_detector(recipe, classes, request.where, pretrained=pretrained),
    )  # fmt: skip
    check_rule(recipe.train.assign, tuple(model.anchors.scale_x_y.tolist()))
    recipe = with_batch_size(recipe, model, request.device, world)
    path = pick_folder(request, world, lock)
    task = DetectionTask(with_cache_folder(recipe, path), train_set, val_set, request.device, world.shard)
    folder = open_folder(path, recipe, train_set.classes, transferred, world)
    data = f"{descriptor.path.name}: {len(train_set)} pictures, {len(train_set.box_xyxy)} boxes, {classes} classes"
    code = train(model, task, folder, request, checkpoint, data, world)
    if code == 0 and val_set is not None and world.is_first:
        _tell_errors(val_set, folder.path)
    return code


def _tell_errors(val_set: CocoSet, folder: Path) -> None:
    """What the AP of the best weights is made of, in a few lines."""
    path = folder / "detections.json"
    if path.is_file():
        analysis = analyze_results(val_set, read_results(path, val_set), name="best.pt", gallery=0)
        for line in [*short_summary(analysis), f"all of it, with pictures: cspdet analyze {folder}"]:
            log.info("%s", line)


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
