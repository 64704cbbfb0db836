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
from cspdet.checkpoints.building import build_detector
from cspdet.datasets.descriptor import load_dataset_config
from cspdet.datasets.formats.coco import CocoDataset, check_image_files, load_coco
from cspdet.errors import DataError, truncate_list
from cspdet.evaluation.results import read_results
from cspdet.io.checkpoint import Checkpoint
from cspdet.recipe import DetectionRecipe
from cspdet.training.assigners.assign import validate_assigner
from cspdet.training.batch_size import resolve_batch_size
from cspdet.training.distributed.context import DistributedContext, init_distributed, is_main_process
from cspdet.training.run.run_lock import RunLock
from cspdet.training.run.start import (
    TrainArgs,
    add_run_arguments,
    build_initial_model,
    load_recipe_or_resume,
    lock_run_dir,
    open_run_dir,
    resolve_run_dir,
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
    request = TrainArgs.from_namespace(args)
    with RunLock(active=is_main_process()) as lock:
        lock_run_dir(request, lock)
        recipe, checkpoint = load_recipe_or_resume(request, DetectionRecipe, "configs/csppelee_efm_sam.yaml")
        with init_distributed(request.device, recipe.train.timeout_minutes) as context:
            return _run(request, recipe, checkpoint, context, lock)


def _run(
    request: TrainArgs,
    recipe: DetectionRecipe,
    checkpoint: Checkpoint | None,
    context: DistributedContext,
    lock: RunLock,
) -> int:
    descriptor = load_dataset_config(recipe.data)
    train_set = load_coco(descriptor.split("train"), "train")
    val_set = load_coco(descriptor.split("val"), "val") if descriptor.val else None
    _check_sets(train_set, val_set, recipe.train.on_bad_image)
    if checkpoint is not None and checkpoint.categories != train_set.classes:
        raise DataError(f"{train_set.files.annotations}: its classes are not those of the run that is resumed")

    classes = len(train_set.classes)
    model, transferred = build_initial_model(
        request, checkpoint, recipe.train.seed,
        lambda pretrained: build_detector(recipe, classes, request.config_source, pretrained=pretrained),
    )  # fmt: skip
    validate_assigner(recipe.train.assigner, tuple(model.anchors.scale_x_y.tolist()))
    recipe = resolve_batch_size(recipe, model, request.device, context)
    path = resolve_run_dir(request, context, lock)
    task = DetectionTask(with_cache_folder(recipe, path), train_set, val_set, request.device, context.shard)
    run_dir = open_run_dir(path, recipe, train_set.classes, transferred, context)
    data = f"{descriptor.path.name}: {len(train_set)} pictures, {len(train_set.box_xyxy)} boxes, {classes} classes"
    code = train(model, task, run_dir, request, checkpoint, data, context)
    if code == 0 and val_set is not None and context.is_main_process:
        _log_error_summary(val_set, run_dir.path)
    return code


def _log_error_summary(val_set: CocoDataset, run_dir: Path) -> None:
    """What the AP of the best weights is made of, in a few lines."""
    path = run_dir / "detections.json"
    if path.is_file():
        analysis = analyze_results(val_set, read_results(path, val_set), name="best.pt", gallery=0)
        for line in [*short_summary(analysis), f"all of it, with pictures: cspdet analyze {run_dir}"]:
            log.info("%s", line)


def _check_sets(train_set: CocoDataset, val_set: CocoDataset | None, on_bad_image: str) -> None:
    """Tell what was skipped or clipped; refuse pictures that are missing, unreadable or of another size."""
    sets = [train_set] if val_set is None else [train_set, val_set]
    for coco in sets:
        for note in coco.warnings:
            log.info("%s", note)
    for coco in sets:
        problems = check_image_files(coco)
        if problems and (coco is val_set or on_bad_image == "error"):
            hint = () if coco is val_set else ("train.on_bad_image=skip trains without them",)
            raise DataError(*truncate_list(problems), *hint)
        for problem in truncate_list(problems):
            log.warning("replaced by another picture: %s", problem)
