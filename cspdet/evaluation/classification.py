"""Evaluation of a classifier on an image folder: top-1 and top-5 accuracy, overall and per class; confusion matrix."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from cspdet.datasets.classification.crops import ImageCrop
from cspdet.datasets.classification.image_folder import ImageFolderDataset
from cspdet.datasets.classification.loader import crop_batches
from cspdet.errors import DataError, truncate_list
from cspdet.evaluation.predictors import ClassificationPredictor
from cspdet.io.progress import progress
from cspdet.models.config import ClassifierEvalConfig
from cspdet.structures import SINGLE_PROCESS, Shard

log = logging.getLogger("cspdet")

TOP_K = 5  # classes kept per image


class ClassMetrics(NamedTuple):
    """Metrics of one class. The accuracies are None if the dataset has no images of the class."""

    images: int
    top1: float | None
    top5: float | None


@dataclass(frozen=True, eq=False)
class ClassifierMetrics:
    """Metrics of a classifier; accuracies are in [0, 1]. With at most five classes, top5 is None."""

    top1: float
    top5: float | None
    per_class: dict[str, ClassMetrics]
    images: int
    confusion: np.ndarray  # (C, C) int64, images of class [row] predicted as class [column]
    ranked: np.ndarray  # (N, K) int32, the best classes of each image, best first; K is TOP_K, or C if fewer
    scores: np.ndarray  # (N, K) float32, their probabilities


def evaluate_classifier(
    predictor: ClassificationPredictor, images: ImageFolderDataset, crop: ImageCrop, eval_: ClassifierEvalConfig
) -> ClassifierMetrics:
    """Evaluate a classifier on all images of a folder.

    Args:
        predictor: A `NetworkClassifier` with the classes of `images`, in the same order (see `match_image_classes`).
        images: Images and labels.
        crop: Resizing and cropping of the images.
        eval_: Batch size and number of workers.

    Raises:
        DataError: Images cannot be read (the message lists the first of them and their number), there are no images, or
            the dataset and the model have different numbers of classes.
    """
    return compute_sharded_metrics(images, [predict_dataset(predictor, images, crop, eval_)])


class DatasetPredictions(NamedTuple):
    """Predictions of a classifier for M images of a dataset."""

    image_index: np.ndarray  # (M,) int64, index of each image in the dataset
    ranked: np.ndarray  # (M, K) int32, the best classes of each, best first
    scores: np.ndarray  # (M, K) float32, their probabilities
    errors: list[str]  # images that cannot be read


def _check_dataset(images: ImageFolderDataset, num_classes: int) -> None:
    if len(images.classes) != num_classes:
        raise DataError(f"{images.root}: {len(images.classes)} classes, but the model has {num_classes}")
    if not len(images):
        raise DataError(f"{images.root}: no images to evaluate the model on")


def predict_dataset(
    predictor: ClassificationPredictor,
    images: ImageFolderDataset,
    crop: ImageCrop,
    eval_: ClassifierEvalConfig,
    shard: Shard = SINGLE_PROCESS,
) -> DatasetPredictions:
    """Predict the classes of the images in `shard`, the images of one process; see `evaluate_classifier`."""
    _check_dataset(images, predictor.num_classes)
    top_k = min(TOP_K, predictor.num_classes)
    image_index = np.arange(shard.rank, len(images), shard.world_size)
    ranked, scores = np.zeros((len(image_index), top_k), np.int32), np.zeros((len(image_index), top_k), np.float32)
    problems: list[str] = []
    batches = crop_batches(images, crop, eval_, device_type=predictor.device.type, shard=shard)
    for batch in progress(batches, "evaluating", "batch", total=-(-len(image_index) // eval_.batch_size)):
        problems += batch.problems
        if problems:
            continue  # the evaluation will fail: only collect further problems
        best = predictor.probabilities(batch.images).cpu().topk(top_k)
        row = np.searchsorted(image_index, batch.indices)
        ranked[row], scores[row] = best.indices.numpy(), best.values.numpy()
    return DatasetPredictions(image_index, ranked, scores, problems)


def compute_sharded_metrics(images: ImageFolderDataset, shards: Sequence[DatasetPredictions]) -> ClassifierMetrics:
    """Compute the metrics of a dataset from the predictions of all processes; each image must be in one shard.

    Raises:
        DataError: Images cannot be read; the message lists the first of these images and their number.
    """
    problems = [problem for shard in shards for problem in shard.errors]
    if problems:
        heading = (f"{images.root}: {len(problems)} of {len(images)} images cannot be read",) if problems[1:] else ()
        raise DataError(*heading, *truncate_list(problems))
    order = np.concatenate([shard.image_index for shard in shards]).argsort()
    ranked, scores = (np.concatenate(rows)[order] for rows in ([s.ranked for s in shards], [s.scores for s in shards]))
    return compute_metrics(images, ranked, scores)


def compute_metrics(images: ImageFolderDataset, ranked: np.ndarray, scores: np.ndarray) -> ClassifierMetrics:
    """Compute the accuracies and the confusion matrix.

    If the outputs of the network for an image are not finite, all scores of the image are 0. Such an image counts as
    wrong in the accuracies. In the confusion matrix, its prediction is the first class in `ranked`.

    Args:
        images: Images and labels.
        ranked: (N, K) int, the K most probable classes of each image, most probable first.
        scores: (N, K) float32, probabilities of these classes.
    """
    label, num_classes = images.label.astype(np.int64), len(images.classes)
    if not (scores[:, 0] > 0).all():
        log.warning("%s: %d images have outputs that are not finite", images.root, int((scores[:, 0] <= 0).sum()))
    hits = (ranked == label[:, None]) & (scores > 0)
    top1_hit, top5_hit = hits[:, 0], hits.any(axis=1)
    reports_top5 = num_classes > TOP_K
    total = np.bincount(label, minlength=num_classes)
    top1_count, top5_count = (np.bincount(label[hit], minlength=num_classes) for hit in (top1_hit, top5_hit))
    counts = zip(images.classes, total.tolist(), top1_count.tolist(), top5_count.tolist(), strict=True)
    per_class = {
        name: ClassMetrics(int(n), a / n if n else None, b / n if n and reports_top5 else None)
        for name, n, a, b in counts
    }
    confusion = np.bincount(label * num_classes + ranked[:, 0], minlength=num_classes**2)
    return ClassifierMetrics(
        top1=float(top1_hit.mean()),
        top5=float(top5_hit.mean()) if reports_top5 else None,
        per_class=per_class,
        images=len(images),
        confusion=confusion.reshape(num_classes, num_classes),
        ranked=ranked,
        scores=scores,
    )


def match_image_classes(images: ImageFolderDataset, names: Sequence[str], where: str) -> ImageFolderDataset:
    """Convert the labels of a dataset to the class indices of a model. The dataset may lack classes of the model.

    Classes are matched by name. If all names of the dataset or of the model are only numbers, and both have the same
    number of classes, the classes are matched by order, with a log message.

    Args:
        images: The dataset.
        names: Class names of the model.
        where: Name of the dataset, for messages.

    Raises:
        DataError: The model lacks a class of the dataset, or two classes of the model have the same name.
    """
    names = tuple(names)
    if names == images.classes:
        return images
    unknown = [name for name in images.classes if name not in set(names)]
    if not unknown and len(set(names)) == len(names):
        if len(images.classes) < len(names):
            log.info("%s: has %d of the model's %d classes", where, len(images.classes), len(names))
        order = np.array([names.index(name) for name in images.classes], np.int32)
        return replace(images, classes=names, label=order[images.label])
    if len(names) == len(images.classes) and (_are_placeholder_names(names) or _are_placeholder_names(images.classes)):
        log.info("%s: classes are matched by their order: %s is %s, ...", where, images.classes[0], names[0])
        return replace(images, classes=names)
    if not unknown:
        raise DataError(f"{where}: several classes of the model have the same name and cannot be matched by name")
    raise DataError(
        f"{where}: the classes differ from the model's: expected {_format_names(names)}; "
        f"found {_format_names(images.classes)}",
        *truncate_list([f"{where}: class {name!r} is unknown to the model" for name in unknown]),
    )


def _are_placeholder_names(names: tuple[str, ...]) -> bool:
    """Return whether all names are only numbers: "7", or "class 7" as in a model without a .names file."""
    return all(re.fullmatch(r"(class )?[0-9]+", name) for name in names)


def _format_names(names: Sequence[str]) -> str:
    return f"{len(names)} ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"
