"""Train a backbone as a classifier, on a folder of train/CLASS/* and val/CLASS/*, or of train.txt and val.txt.

  cspdet train-classifier configs/classification/csppeleenet.yaml --data imagenet
  cspdet train-classifier configs/classification/cspresnet50.yaml --data mine input.size=128 train.epochs=50
  cspdet train-classifier --resume runs/csppeleenet

Any value of the config can be given as key.path=value, a section as a file: train=configs/train/classifier_paper.yaml
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from cspdet.checkpoints.building import build_classifier
from cspdet.darknet.config import DarknetClassifierConfig
from cspdet.darknet.num_classes import set_num_classes
from cspdet.datasets.classification.dataset import check_images
from cspdet.datasets.classification.image_folder import ImageFolderDataset, has_split, load_image_folder
from cspdet.errors import ConfigError, DataError, truncate_list
from cspdet.io.checkpoint import Checkpoint
from cspdet.recipe import ClassificationRecipe
from cspdet.structures import Categories
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
from cspdet.training.tasks.classification import ClassificationTask

log = logging.getLogger("cspdet")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command line of `train-classifier` takes."""
    add_run_arguments(parser, "classifier")
    parser.add_argument("--data", type=Path, metavar="DIR", help="the pictures; default: `data` of the config")


def run(args: argparse.Namespace) -> int:
    """Train; the exit code is that of the loop."""
    request = TrainArgs.from_namespace(args)
    with RunLock(active=is_main_process()) as lock:
        lock_run_dir(request, lock)
        example = "configs/classification/csppeleenet.yaml"
        recipe, checkpoint = load_recipe_or_resume(request, ClassificationRecipe, example, with_num_classes)
        if args.data is not None:
            recipe = recipe.model_copy(update={"data": args.data.absolute()})
        with init_distributed(request.device, recipe.train.timeout_minutes) as context:
            return _run(request, recipe, checkpoint, context, lock)


def _run(
    request: TrainArgs,
    recipe: ClassificationRecipe,
    checkpoint: Checkpoint | None,
    context: DistributedContext,
    lock: RunLock,
) -> int:
    train_set, val_set = _load_sets(recipe, checkpoint)
    count = len(train_set.classes)
    recipe = _set_num_classes(recipe, count, request.config_source)
    model, transferred = build_initial_model(
        request, checkpoint, recipe.train.seed,
        lambda pretrained: build_classifier(recipe, request.config_source, pretrained=pretrained),
    )  # fmt: skip
    classes = Categories(train_set.classes, tuple(range(count)))
    recipe = resolve_batch_size(recipe, model, request.device, context)
    path = resolve_run_dir(request, context, lock)
    cached = with_cache_folder(recipe, path)
    task = ClassificationTask(cached, classes, train_set, val_set, request.device, context.shard)
    run_dir = open_run_dir(path, recipe, classes, transferred, context)
    validation = "none" if val_set is None else str(len(val_set))
    data = f"{train_set.root}: {len(train_set)} pictures, {validation} for validation, {count} classes"
    return train(model, task, run_dir, request, checkpoint, data, context)


def with_num_classes(recipe: ClassificationRecipe, count: int) -> ClassificationRecipe:
    """The recipe with a network of so many classes."""
    if isinstance(recipe.model, DarknetClassifierConfig):
        change: dict[str, object] = {"cfg": set_num_classes(recipe.model.text, count, "model.cfg")}
    else:
        change = {"num_classes": count}
    return recipe.model_copy(update={"model": recipe.model.model_copy(update=change)})


def _set_num_classes(recipe: ClassificationRecipe, count: int, where: str) -> ClassificationRecipe:
    changed = with_num_classes(recipe, count)
    if changed.model != recipe.model:
        log.info("%s: the network gets %d outputs, the classes of the data, instead of its own number", where, count)
    return changed


def _load_sets(
    recipe: ClassificationRecipe, checkpoint: Checkpoint | None
) -> tuple[ImageFolderDataset, ImageFolderDataset | None]:
    """The train split, and the val split where there is one, both looked through."""
    if recipe.data is None:
        raise ConfigError("train-classifier: expected --data DIR, a folder with train/CLASS/* and val/CLASS/*")
    known = None if checkpoint is None else checkpoint.categories.names
    train_set = load_image_folder(recipe.data, "train")
    if known is not None and known != train_set.classes:
        raise DataError(f"{recipe.data}: its classes are not those of the run that is resumed")
    val_set = load_image_folder(recipe.data, "val", train_set.classes) if has_split(recipe.data, "val") else None
    if val_set is None:
        log.warning("%s: no val split; trains without evaluation, and best.pt will be the last weights", recipe.data)
    for images in (train_set, val_set):
        if images is None:
            continue
        for note in images.warnings:
            log.info("%s", note)
        may_skip = images is train_set and recipe.train.on_bad_image == "skip"
        problems = check_images(images)
        if problems and not may_skip:
            hint = ("train.on_bad_image=skip trains without them",) if images is train_set else ()
            raise DataError(*truncate_list(problems), *hint)
        for problem in truncate_list(problems):
            log.warning("replaced by another picture: %s", problem)
    return train_set, val_set
