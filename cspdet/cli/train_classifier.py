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

from cspdet.checkpoints.loading import build_classifier
from cspdet.darknet.model import DarknetClassifierConfig
from cspdet.darknet.num_classes import text_for_classes
from cspdet.datasets.classification.image_folder import ImageSet, has_split, load_image_set
from cspdet.datasets.classification.loader import check_images
from cspdet.errors import ConfigError, DataError, counted
from cspdet.io.checkpoint import Checkpoint
from cspdet.recipe import ClassifierRecipe
from cspdet.structures import Classes
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
from cspdet.training.tasks.classification import ClassificationTask

log = logging.getLogger("cspdet")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command line of `train-classifier` takes."""
    add_run_arguments(parser, "classifier")
    parser.add_argument("--data", type=Path, metavar="DIR", help="the pictures; default: `data` of the config")


def run(args: argparse.Namespace) -> int:
    """Train; the exit code is that of the loop."""
    request = Request.of(args)
    with RunLock(active=is_first_process()) as lock:
        lock_named(request, lock)
        example = "configs/classification/csppeleenet.yaml"
        recipe, checkpoint = read_request(request, ClassifierRecipe, example, for_classes)
        if args.data is not None:
            recipe = recipe.model_copy(update={"data": args.data.absolute()})
        with join(request.device, recipe.train.timeout_minutes) as world:
            return _run(request, recipe, checkpoint, world, lock)


def _run(request: Request, recipe: ClassifierRecipe, checkpoint: Checkpoint | None, world: World, lock: RunLock) -> int:
    train_set, val_set = _load_sets(recipe, checkpoint)
    count = len(train_set.classes)
    recipe = _told_for_classes(recipe, count, request.where)
    model, transferred = first_model(
        request, checkpoint, recipe.train.seed,
        lambda pretrained: build_classifier(recipe, request.where, pretrained=pretrained),
    )  # fmt: skip
    classes = Classes(train_set.classes, tuple(range(count)))
    recipe = with_batch_size(recipe, model, request.device, world)
    path = pick_folder(request, world, lock)
    cached = with_cache_folder(recipe, path)
    task = ClassificationTask(cached, classes, train_set, val_set, request.device, world.shard)
    folder = open_folder(path, recipe, classes, transferred, world)
    validation = "none" if val_set is None else str(len(val_set))
    data = f"{train_set.root}: {len(train_set)} pictures, {validation} for validation, {count} classes"
    return train(model, task, folder, request, checkpoint, data, world)


def for_classes(recipe: ClassifierRecipe, count: int) -> ClassifierRecipe:
    """The recipe with a network of so many classes."""
    if isinstance(recipe.model, DarknetClassifierConfig):
        change: dict[str, object] = {"cfg": text_for_classes(recipe.model.text, count, "model.cfg")}
    else:
        change = {"classes": count}
    return recipe.model_copy(update={"model": recipe.model.model_copy(update=change)})


def _told_for_classes(recipe: ClassifierRecipe, count: int, where: str) -> ClassifierRecipe:
    changed = for_classes(recipe, count)
    if changed.model != recipe.model:
        log.info("%s: the network gets %d outputs, the classes of the data, instead of its own number", where, count)
    return changed


def _load_sets(recipe: ClassifierRecipe, checkpoint: Checkpoint | None) -> tuple[ImageSet, ImageSet | None]:
    """The train split, and the val split where there is one, both looked through."""
    if recipe.data is None:
        raise ConfigError("train-classifier: expected --data DIR, a folder with train/CLASS/* and val/CLASS/*")
    known = None if checkpoint is None else checkpoint.classes.names
    train_set = load_image_set(recipe.data, "train")
    if known is not None and known != train_set.classes:
        raise DataError(f"{recipe.data}: its classes are not those of the run that is resumed")
    val_set = load_image_set(recipe.data, "val", train_set.classes) if has_split(recipe.data, "val") else None
    if val_set is None:
        log.warning("%s: no val split; trains without evaluation, and best.pt will be the last weights", recipe.data)
    for images in (train_set, val_set):
        if images is None:
            continue
        for note in images.notes:
            log.info("%s", note)
        may_skip = images is train_set and recipe.train.bad_pictures == "skip"
        problems = check_images(images)
        if problems and not may_skip:
            way_on = ("train.bad_pictures=skip trains without them",) if images is train_set else ()
            raise DataError(*counted(problems), *way_on)
        for problem in counted(problems):
            log.warning("replaced by another picture: %s", problem)
    return train_set, val_set
