"""The boxes of a split and the detections of a run as flat arrays, in the order in which COCO's judge takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cspdet.datasets.formats.coco import CocoDataset
from cspdet.evaluation.records import Records, Result, read_ground_truth, to_records

MAX_DETS = 100  # COCO judges so many detections of a picture and class, best score first


@dataclass(frozen=True, eq=False)
class GroundTruthArrays:
    """M annotated boxes, sorted by picture; within a picture as the file has them."""

    box_xywh: np.ndarray  # (M, 4) float64, pixels of the picture, as the file has them
    area: np.ndarray  # (M,) float64, the file's own where it has one
    class_id: np.ndarray  # (M,) int64, index of the class
    crowd: np.ndarray  # (M,) bool
    image_index: np.ndarray  # (M,) int64, place among the pictures sorted by image id
    start: np.ndarray  # (N + 1,) int64, offsets of each picture's boxes

    def __len__(self) -> int:
        return len(self.area)


@dataclass(frozen=True, eq=False)
class DetectionArrays:
    """D judged detections, sorted by picture, then best score first; equal scores in the order of the results."""

    box_xywh: np.ndarray  # (D, 4) float64
    score: np.ndarray  # (D,) float64
    class_id: np.ndarray  # (D,) int64
    image_index: np.ndarray  # (D,) int64, as in Truth
    start: np.ndarray  # (N + 1,) int64, offsets of each picture's detections
    class_total: np.ndarray  # (C,) int64, detections of each class with those that are not judged

    def __len__(self) -> int:
        return len(self.score)


@dataclass(frozen=True, eq=False)
class SortedImages:
    """The pictures sorted by image id, as COCO's judge takes them, with the way back to the CocoSet."""

    dataset_index: np.ndarray  # (N,) int64, index into the CocoSet
    image_id: np.ndarray  # (N,) int64, rising

    @classmethod
    def from_coco(cls, coco: CocoDataset) -> SortedImages:
        """Those of a set."""
        dataset_index = np.argsort(coco.image_id, kind="stable")
        return cls(dataset_index, coco.image_id[dataset_index])

    def __len__(self) -> int:
        return len(self.dataset_index)

    def index_of(self, image_id: np.ndarray) -> np.ndarray:
        """The place of each image id, all of which are known."""
        return np.searchsorted(self.image_id, image_id)

    def offsets(self, image_index: np.ndarray) -> np.ndarray:
        """(N + 1,) int64, where each picture's rows start among rows sorted by place."""
        return np.searchsorted(image_index, np.arange(len(self) + 1))


def to_ground_truth_arrays(coco: CocoDataset, images: SortedImages) -> GroundTruthArrays:
    """The annotations as the evaluators see them: not cut to the picture, each with the area that its file gives.

    Raises:
        DataError: the annotation file has gone or changed since the set was loaded.
    """
    records = read_ground_truth(coco)
    image_index = images.index_of(records["image_id"])
    order = np.argsort(image_index, kind="stable")
    records, image_index = records[order], image_index[order]
    return GroundTruthArrays(
        box_xywh=np.ascontiguousarray(records["bbox"]),
        area=np.ascontiguousarray(records["area"]),
        class_id=_class_index(coco, records["category_id"]),
        crowd=records["crowd"] > 0,
        image_index=image_index,
        start=images.offsets(image_index),
    )


def to_detection_arrays(
    coco: CocoDataset, images: SortedImages, results: Sequence[Result] | Records
) -> DetectionArrays:
    """Results that `evaluation.results.read_results` has checked, cut to the best 100 of a picture and class."""
    records = results if isinstance(results, np.ndarray) else to_records(results)
    image_index = images.index_of(records["image_id"])
    class_id = _class_index(coco, records["category_id"])
    score = np.ascontiguousarray(records["score"])
    grouped = np.lexsort((-score, class_id, image_index))
    kept = grouped[rank_in_group(image_index[grouped] * max(len(coco.classes), 1) + class_id[grouped]) < MAX_DETS]
    kept.sort()
    order = kept[np.lexsort((-score[kept], image_index[kept]))]
    return DetectionArrays(
        box_xywh=records["bbox"][order],
        score=score[order],
        class_id=class_id[order],
        image_index=image_index[order],
        start=images.offsets(image_index[order]),
        class_total=np.bincount(class_id, minlength=len(coco.classes)),
    )


def rank_in_group(group: np.ndarray) -> np.ndarray:
    """(D,) numbers, equal ones side by side: the place of each within its run of equals, from 0."""
    first = group_starts(group)
    length = np.diff(np.append(first, len(group)))
    return np.arange(len(group)) - np.repeat(first, length)


def group_starts(group: np.ndarray) -> np.ndarray:
    """Where a run of equal numbers starts in (D,) numbers, equal ones side by side."""
    return np.flatnonzero(np.diff(group, prepend=group[:1] - 1))


def _class_index(coco: CocoDataset, category_id: np.ndarray) -> np.ndarray:
    """(N,) int64 index of the class of each category id, all of which are known."""
    ids = np.array(coco.classes.category_ids, np.int64)
    order = np.argsort(ids)
    return order[np.searchsorted(ids[order], category_id)]
