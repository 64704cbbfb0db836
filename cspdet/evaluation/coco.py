"""COCO metrics of detections: the twelve metrics of COCO's summary, and AP and AP50 per class."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cspdet.datasets.formats.coco import CocoDataset
from cspdet.errors import DataError
from cspdet.evaluation.coco_backends import (
    AP50_INDEX,
    CocoBackend,
    CocoEvalInput,
    CocoEvalResult,
    EvaluatorName,
    empty_result,
    select_backend,
)
from cspdet.evaluation.records import (
    DETECTION_DTYPE,
    Records,
    Result,
    index_in_sorted,
    read_ground_truth,
    to_records,
    to_results,
)
from cspdet.structures import Detections

log = logging.getLogger("cspdet")

# The metrics of COCO's summary, in its order: means over IoU .50:.95 except for AP50 and AP75. s, m, l: small objects
# (area below 32^2), medium (below 96^2) and large ones. AR1, AR10, AR100: at most 1, 10, 100 detections per image and
# class.
METRIC_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


@dataclass(frozen=True)
class Metrics:
    """COCO metrics, overall and per class; undefined metrics are None."""

    stats: dict[str, float | None]  # METRIC_NAMES to value
    per_class: dict[str, dict[str, float | None]]  # class name to AP and AP50
    images: int
    detections: int
    evaluator: str  # name and version of the program that computed them

    def __getitem__(self, name: str) -> float | None:
        return self.stats[name]

    def to_json(self) -> dict[str, Any]:
        """Return the content of metrics.json as a dict."""
        counts = {"images": self.images, "detections": self.detections, "evaluator": self.evaluator}
        return {**self.stats, "per_class": self.per_class, **counts}


class CocoEvaluator:
    """Collects the detections of each image, then computes the metrics.

    Images that were not added count as images without detections. The evaluator needs 56 bytes per detection and 1 byte
    per image.

    Args:
        coco: Images and ground truth.
        evaluator: `auto`, `pycocotools` or `hotcoco`.

    Raises:
        ConfigError: The evaluator is not installed.
    """

    def __init__(self, coco: CocoDataset, evaluator: EvaluatorName = "auto"):
        self._coco = coco
        self._backend = select_backend(evaluator)
        self._added = np.zeros(len(coco.image_id), bool)  # by index in the sorted image ids
        self._image_ids = np.sort(coco.image_id)
        self._category_ids = np.array(coco.classes.category_ids, np.int64)
        self._rows = bytearray()

    @property
    def records(self) -> Records:
        """The detections added so far: (N,) DETECTION_DTYPE, read-only, with the category ids of the annotations."""
        return np.frombuffer(bytes(self._rows), DETECTION_DTYPE)

    @property
    def results(self) -> list[Result]:
        """The detections added so far as COCO results; every call returns a new list."""
        return to_results(self.records)

    def add(self, image_id: int, detections: Detections) -> None:
        """Add the detections of one image.

        Args:
            image_id: The image's id in the annotations.
            detections: Boxes in image pixels; class ids are indices into the dataset's categories.

        Raises:
            ValueError: The image is not in the dataset or was added before, or a box or score is not finite.
        """
        self._mark_added(image_id)
        box = detections.box_xyxy.cpu().double().numpy()
        score = detections.score.cpu().double().numpy()
        if not (np.isfinite(box).all() and np.isfinite(score).all()):
            raise ValueError(f"image id {image_id}: a box or score is not finite")
        rows = np.empty(len(score), DETECTION_DTYPE)
        rows["image_id"] = image_id
        rows["category_id"] = self._category_ids[detections.class_id.cpu().numpy()]
        # Round as in the results file, so that an evaluation of the file has the same metrics.
        rows["bbox"] = np.concatenate((box[:, :2], box[:, 2:] - box[:, :2]), axis=1).round(3)
        rows["score"] = score.round(7)
        self._rows += rows.tobytes()

    def _mark_added(self, image_id: int) -> None:
        index = int(np.searchsorted(self._image_ids, image_id))
        if index == len(self._image_ids) or self._image_ids[index] != image_id:
            raise ValueError(f"image id {image_id}: not in this dataset")
        if self._added[index]:
            raise ValueError(f"image id {image_id}: added twice")
        self._added[index] = True

    def merge(self, others: Sequence[Records]) -> None:
        """Add detections that other processes computed on other images, and sort all detections in dataset order.

        Args:
            others: The `records` of the other processes.

        Raises:
            ValueError: Two processes added the same image.
        """
        for records in others:
            indices = np.unique(np.searchsorted(self._image_ids, records["image_id"]))
            if self._added[indices].any():
                raise ValueError("two processes added the same image")
            self._added[indices] = True
        rows = np.concatenate((self.records, *others))
        by_id = np.argsort(self._coco.image_id)
        order = by_id[np.searchsorted(self._image_ids, rows["image_id"])]
        self._rows = bytearray(rows[np.argsort(order, kind="stable")].tobytes())

    def evaluate(self) -> Metrics:
        """Compute the metrics of the added detections.

        Raises:
            DataError: The annotation file is missing or has changed.
        """
        return _evaluate(self._coco, self.records, self._backend)


def evaluate_results(
    coco: CocoDataset, results: Sequence[Result] | Records, *, evaluator: EvaluatorName = "auto"
) -> Metrics:
    """Compute the metrics of COCO results on all images of a dataset.

    Args:
        coco: Images and ground truth.
        results: COCO results from `read_results`, or (N,) DETECTION_DTYPE. Equal scores are ranked in this order.
        evaluator: `auto`, `pycocotools` or `hotcoco`.

    Raises:
        ConfigError: The evaluator is not installed.
        DataError: An image or category is not in the dataset, or the annotation file is missing or has changed.
    """
    records = results if isinstance(results, np.ndarray) else to_records(results)
    return _evaluate(coco, records, select_backend(evaluator))


def _evaluate(coco: CocoDataset, records: Records, backend: CocoBackend) -> Metrics:
    category_ids = np.array(coco.classes.category_ids, np.int64)
    ground_truth, detections = (
        _with_dense_ids(rows, coco, category_ids) for rows in (read_ground_truth(coco), records)
    )
    eval_input = CocoEvalInput(len(coco.image_id), len(category_ids), ground_truth, detections)
    if len(ground_truth) and not len(detections):
        log.warning("there are no detections to evaluate, so every metric is 0")
    # Without ground truth (a test set) all metrics are undefined; pycocotools would take minutes to compute this.
    result = backend.evaluate(eval_input) if len(ground_truth) else empty_result(eval_input)
    return Metrics(
        stats={name: _none_if_undefined(value) for name, value in zip(METRIC_NAMES, result.stats, strict=True)},
        per_class=_per_class(coco, result, index_in_sorted(category_ids, category_ids)),
        images=len(coco.image_id),
        detections=len(records),
        evaluator=backend.title,
    )


def _with_dense_ids(records: Records, coco: CocoDataset, category_ids: np.ndarray) -> Records:
    """Return a copy of the records with dense ids: each image and category id becomes its index in the sorted ids.

    Raises:
        DataError: An id is not in the dataset.
    """
    remapped = records.copy()
    for key, known in (("image_id", coco.image_id), ("category_id", category_ids)):
        remapped[key] = index_in_sorted(records[key], known)
        (unknown,) = np.nonzero(remapped[key] < 0)
        if len(unknown):
            first = f"result {unknown[0]} has {records[key][unknown[0]]}"
            raise DataError(f"{coco.files.annotations}: unknown {key}: {len(unknown)} such, the first is {first}")
    return remapped


def _none_if_undefined(value: float) -> float | None:
    """Convert -1, which COCO evaluators return for undefined metrics, to None."""
    return None if value == -1 else float(value)


def _per_class(
    coco: CocoDataset, result: CocoEvalResult, class_index: np.ndarray
) -> dict[str, dict[str, float | None]]:
    precision = result.precision[:, :, :, 0, -1]  # (IoU, recall, class) for all object sizes, 100 detections
    return {
        name: {"AP": _mean_defined(precision[:, :, k]), "AP50": _mean_defined(precision[AP50_INDEX, :, k])}
        for name, k in zip(coco.classes.names, class_index, strict=True)
    }


def _mean_defined(precision: np.ndarray) -> float | None:
    measured = precision[precision > -1]
    return float(measured.mean()) if measured.size else None
