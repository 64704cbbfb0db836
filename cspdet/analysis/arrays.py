"""Flat arrays of the ground-truth boxes of a split and of the detections of a run, both sorted by image id."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cspdet.datasets.formats.coco import CocoDataset
from cspdet.evaluation.records import Records, Result, read_ground_truth, to_records

MAX_DETS = 100  # COCO evaluates the 100 highest-scoring detections per image and class


@dataclass(frozen=True, eq=False)
class GroundTruthArrays:
    """Arrays of M ground-truth boxes, sorted by image id; the boxes of an image are in file order."""

    box_xywh: np.ndarray  # (M, 4) float64, image pixels, unclipped
    area: np.ndarray  # (M,) float64, from the file if it has areas
    class_id: np.ndarray  # (M,) int64, class index
    crowd: np.ndarray  # (M,) bool
    image_index: np.ndarray  # (M,) int64, index among the images sorted by image id
    start: np.ndarray  # (N + 1,) int64, offset of the boxes of each image

    def __len__(self) -> int:
        return len(self.area)


@dataclass(frozen=True, eq=False)
class DetectionArrays:
    """Arrays of D evaluated detections, sorted by image, then by descending score.

    Detections of an image with equal scores keep the order of the results file.
    """

    box_xywh: np.ndarray  # (D, 4) float64
    score: np.ndarray  # (D,) float64
    class_id: np.ndarray  # (D,) int64
    image_index: np.ndarray  # (D,) int64, as in GroundTruthArrays
    start: np.ndarray  # (N + 1,) int64, offset of the detections of each image
    class_total: np.ndarray  # (C,) int64, detections of each class before the limit of MAX_DETS

    def __len__(self) -> int:
        return len(self.score)


@dataclass(frozen=True, eq=False)
class SortedImages:
    """The images of a dataset sorted by image id, with their indices in the CocoDataset."""

    dataset_index: np.ndarray  # (N,) int64, index into the CocoDataset
    image_id: np.ndarray  # (N,) int64, ascending

    @classmethod
    def from_coco(cls, coco: CocoDataset) -> SortedImages:
        """Sort the images of a dataset by image id."""
        dataset_index = np.argsort(coco.image_id, kind="stable")
        return cls(dataset_index, coco.image_id[dataset_index])

    def __len__(self) -> int:
        return len(self.dataset_index)

    def index_of(self, image_id: np.ndarray) -> np.ndarray:
        """Return the index of each image id in the sorted images; all ids must exist in the dataset."""
        return np.searchsorted(self.image_id, image_id)

    def offsets(self, image_index: np.ndarray) -> np.ndarray:
        """Return (N + 1,) int64 offsets: the rows of image i are offsets[i] to offsets[i + 1] - 1.

        Args:
            image_index: Image of each row, ascending.
        """
        return np.searchsorted(image_index, np.arange(len(self) + 1))


def to_ground_truth_arrays(coco: CocoDataset, images: SortedImages) -> GroundTruthArrays:
    """Read the ground-truth boxes and their areas from the annotation file; boxes are not clipped to the image.

    Raises:
        DataError: The annotation file is missing or has changed since the split was loaded.
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
    """Convert detections to arrays; `results` must be checked by `evaluation.results.read_results`.

    As in COCO, only the 100 highest-scoring detections per image and class are kept.
    """
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
    """Return (D,) int64: for each value, the number of equal values before it.

    Equal values must be adjacent.
    """
    first = group_starts(group)
    length = np.diff(np.append(first, len(group)))
    return np.arange(len(group)) - np.repeat(first, length)


def group_starts(group: np.ndarray) -> np.ndarray:
    """Return the index where each group of equal values starts; equal values must be adjacent."""
    return np.flatnonzero(np.diff(group, prepend=group[:1] - 1))


def _class_index(coco: CocoDataset, category_id: np.ndarray) -> np.ndarray:
    """Return the (N,) int64 class index of each category id; all ids must exist in the dataset."""
    ids = np.array(coco.classes.category_ids, np.int64)
    order = np.argsort(ids)
    return order[np.searchsorted(ids[order], category_id)]
