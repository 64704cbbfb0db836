"""Top-1 and top-5 of a classifier over every picture of a set, by class, and what it takes for what."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from cspdet.datasets.classification.crop_loader import crop_batches
from cspdet.datasets.classification.crops import Interpolation
from cspdet.datasets.classification.image_folder import ImageFolderDataset
from cspdet.device import Precision
from cspdet.errors import DataError, truncate_list
from cspdet.inference.classifier import build_image_crop, predict_probabilities
from cspdet.io.progress import progress
from cspdet.models import Classifier
from cspdet.recipe import ClassifierEvalConfig, InputConfig
from cspdet.structures import SINGLE_PROCESS, Shard

log = logging.getLogger("cspdet")

TOP_K = 5  # classes kept of every picture


class ClassMetrics(NamedTuple):
    """Of the pictures of one class; the shares are None where it has none."""

    images: int
    top1: float | None
    top5: float | None


@dataclass(frozen=True, eq=False)
class ClassifierMetrics:
    """Shares in [0, 1]. top5 is None for five classes or fewer, where it could not be missed."""

    top1: float
    top5: float | None
    per_class: dict[str, ClassMetrics]
    images: int
    confusion: np.ndarray  # (C, C) int64, pictures of class [row] that were taken for class [column]
    ranked: np.ndarray  # (N, K) int32, the best classes of every picture, best first; K is BEST, or C if fewer
    scores: np.ndarray  # (N, K) float32, their probabilities


def evaluate_classifier(
    model: Classifier,
    images: ImageFolderDataset,
    input_: InputConfig,
    eval_: ClassifierEvalConfig,
    device: torch.device,
    *,
    precision: Precision = "fp32",
    interpolation: Interpolation = "bilinear",
) -> ClassifierMetrics:
    """Run `model`, which is on `device`, over all pictures; the classes of the set are its own, in its order.

    The model is put into evaluation mode, and back into the mode in which it came.

    Raises:
        DataError: unreadable pictures, the first ones and their count; classes that are not as many as the model's.
        ConfigError: an `eval.resize` below the input's size.
    """
    seen = predict_dataset(model, images, input_, eval_, device, precision=precision, interpolation=interpolation)
    return compute_sharded_metrics(images, [seen])


class DatasetPredictions(NamedTuple):
    """What a classifier says of some pictures of a set."""

    image_index: np.ndarray  # (M,) int64, of the pictures in the set
    ranked: np.ndarray  # (M, K) int32, the best classes of each, best first
    scores: np.ndarray  # (M, K) float32, their probabilities
    errors: list[str]  # pictures that cannot be read


def predict_dataset(
    model: Classifier,
    images: ImageFolderDataset,
    input_: InputConfig,
    eval_: ClassifierEvalConfig,
    device: torch.device,
    *,
    precision: Precision = "fp32",
    interpolation: Interpolation = "bilinear",
    shard: Shard = SINGLE_PROCESS,
) -> DatasetPredictions:
    """The pictures of a set, or those of one process's shard, as `evaluate_classifier` looks at them."""
    if len(images.classes) != model.num_classes:
        raise DataError(f"{images.root}: {len(images.classes)} classes, but the model has {model.num_classes}")
    if not len(images):
        raise DataError(f"{images.root}: no pictures to judge the model on")
    crop = build_image_crop(input_, eval_, interpolation)
    kept = min(TOP_K, model.num_classes)
    image_index = np.arange(shard.rank, len(images), shard.world_size)
    ranked, scores = np.zeros((len(image_index), kept), np.int32), np.zeros((len(image_index), kept), np.float32)
    problems: list[str] = []
    batches = crop_batches(images, crop, eval_.batch_size, eval_.workers, device_type=device.type, shard=shard)
    was_training = model.training
    model.eval()
    try:
        for batch in progress(batches, "evaluating", "batch", total=-(-len(image_index) // eval_.batch_size)):
            problems += batch.problems
            if problems:
                continue  # there will be no result: only look for further ones
            best = predict_probabilities(model, batch.images, device, precision).cpu().topk(kept)
            row = np.searchsorted(image_index, batch.indices)
            ranked[row], scores[row] = best.indices.numpy(), best.values.numpy()
    finally:
        model.train(was_training)
    return DatasetPredictions(image_index, ranked, scores, problems)


def compute_sharded_metrics(images: ImageFolderDataset, shards: Sequence[DatasetPredictions]) -> ClassifierMetrics:
    """The numbers of a set whose every picture is in one of `parts`.

    Raises:
        DataError: unreadable pictures, the first ones and their count.
    """
    problems = [problem for seen in shards for problem in seen.errors]
    if problems:
        heading = (f"{images.root}: {len(problems)} of {len(images)} pictures cannot be read",) if problems[1:] else ()
        raise DataError(*heading, *truncate_list(problems))
    order = np.concatenate([seen.image_index for seen in shards]).argsort()
    ranked, scores = (np.concatenate(rows)[order] for rows in ([s.ranked for s in shards], [s.scores for s in shards]))
    return compute_metrics(images, ranked, scores)


def compute_metrics(images: ImageFolderDataset, ranked: np.ndarray, scores: np.ndarray) -> ClassifierMetrics:
    """The numbers, from the best classes of every picture, (N, K), best first, and their probabilities.

    A picture without any probability above 0 is wrong whatever class stands first; the confusion counts it there.
    """
    label, classes = images.label.astype(np.int64), len(images.classes)
    if not (scores[:, 0] > 0).all():
        log.warning("%s: %d pictures got outputs that are not finite", images.root, int((scores[:, 0] <= 0).sum()))
    hits = (ranked == label[:, None]) & (scores > 0)
    first, among = hits[:, 0], hits.any(axis=1)
    reports_top5 = classes > TOP_K
    total = np.bincount(label, minlength=classes)
    right, near = (np.bincount(label[correct], minlength=classes) for correct in (first, among))
    per_class = {
        name: ClassMetrics(int(n), a / n if n else None, b / n if n and reports_top5 else None)
        for name, n, a, b in zip(images.classes, total.tolist(), right.tolist(), near.tolist(), strict=True)
    }
    confusion = np.bincount(label * classes + ranked[:, 0], minlength=classes**2).reshape(classes, classes)
    return ClassifierMetrics(
        top1=float(first.mean()),
        top5=float(among.mean()) if reports_top5 else None,
        per_class=per_class,
        images=len(images),
        confusion=confusion,
        ranked=ranked,
        scores=scores,
    )


def match_image_classes(images: ImageFolderDataset, names: Sequence[str], where: str) -> ImageFolderDataset:
    """The same pictures with the classes of a model, `names`, of which the set may lack some.

    Classes are told apart by their names. Where either side only numbers them, and both have as many, they are
    matched by their order, which is told.

    Raises:
        DataError: classes of the set (`where`) that the model does not know.
    """
    names = tuple(names)
    if names == images.classes:
        return images
    unknown = [name for name in images.classes if name not in set(names)]
    if not unknown and len(set(names)) == len(names):
        missing = len(names) - len(images.classes)
        if missing:
            log.info("%s: has %d of the model's %d classes", where, len(images.classes), len(names))
        index = {name: i for i, name in enumerate(names)}
        order = np.array([index[name] for name in images.classes], np.int32)
        return replace(images, classes=names, label=order[images.label])
    if len(names) == len(images.classes) and (_are_placeholder_names(names) or _are_placeholder_names(images.classes)):
        log.info("%s: classes are matched by their order: %s is %s, ...", where, images.classes[0], names[0])
        return replace(images, classes=names)
    if not unknown:
        raise DataError(f"{where}: several classes of the model share a name, so that they cannot be found by name")
    raise DataError(
        f"{where}: the classes are not the model's: expected {_format_names(names)}; found {_format_names(images.classes)}",
        *truncate_list([f"{where}: class {name!r} is unknown to the model" for name in unknown]),
    )


def _are_placeholder_names(names: tuple[str, ...]) -> bool:
    """Whether the names only count: those that a model has without a .names file, or 0, 1, 2 ..."""
    return all(re.fullmatch(r"(class )?[0-9]+", name) for name in names)


def _format_names(names: Sequence[str]) -> str:
    return f"{len(names)} ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"
