"""Which boxes of a picture overlap, by COCO's IoU: sparse lists of pairs instead of matrices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from cspdet.analysis.arrays import DetectionArrays, GroundTruthArrays

MAX_PAIRS_PER_CHUNK = 1 << 20  # pairs that are looked at together, which bounds the memory


class IouPairs(NamedTuple):
    """P pairs of a detection and a truth of the same picture, sorted by detection, then truth."""

    detection_index: np.ndarray  # (P,) int64
    gt_index: np.ndarray  # (P,) int64
    iou: np.ndarray  # (P,) float64

    def select(self, mask: np.ndarray) -> IouPairs:
        """Those of the pairs."""
        return IouPairs(self.detection_index[mask], self.gt_index[mask], self.iou[mask])


def iou_xywh(one: np.ndarray, other: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """(P,) IoU of (P, 4) boxes with (P, 4) boxes, in the order of operations of COCO's own code.

    Where the (P,) bool `crowd` holds, `other` is a crowd region: the intersection counts against the area of
    `one` alone.
    """
    x, y, width, height = one.T
    other_x, other_y, other_width, other_height = other.T
    shared_width = np.minimum(x + width, other_x + other_width) - np.maximum(x, other_x)
    shared_height = np.minimum(y + height, other_y + other_height) - np.maximum(y, other_y)
    touching = (shared_width > 0) & (shared_height > 0)
    shared = np.where(touching, shared_width * shared_height, 0.0)
    box_area = width * height
    union = np.where(crowd, box_area, box_area + other_width * other_height - shared)
    return np.divide(shared, union, out=np.zeros_like(shared), where=touching)


def detection_pairs(detections: DetectionArrays, ground_truth: GroundTruthArrays, min_iou: float) -> IouPairs:
    """All pairs, of equal classes or not, with crowds too, whose IoU is `at_least` so high."""
    parts = []
    for detection, other in _same_image_pairs(detections.image_index, ground_truth.start):
        iou = iou_xywh(detections.box_xywh[detection], ground_truth.box_xywh[other], ground_truth.crowd[other])
        parts.append(IouPairs(detection, other, iou).select(iou >= min_iou))
    return _concat(parts)


def ground_truth_pairs(ground_truth: GroundTruthArrays, min_iou: float) -> IouPairs:
    """Pairs of two different boxes of a picture, each pair both ways round, crowds left out."""
    parts = []
    for one, other in _same_image_pairs(ground_truth.image_index, ground_truth.start):
        iou = iou_xywh(ground_truth.box_xywh[one], ground_truth.box_xywh[other], np.zeros(len(one), bool))
        apart = (one != other) & ~ground_truth.crowd[one] & ~ground_truth.crowd[other]
        parts.append(IouPairs(one, other, iou).select(apart & (iou >= min_iou)))
    return _concat(parts)


def _same_image_pairs(image_index: np.ndarray, start: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """In chunks, each row of `picture` with each of the rows start[p]:start[p + 1] of its picture p."""
    first, count = start[image_index], start[image_index + 1] - start[image_index]
    total = np.concatenate(([0], np.cumsum(count)))
    row = 0
    while row < len(image_index):
        end = max(row + 1, int(np.searchsorted(total, total[row] + MAX_PAIRS_PER_CHUNK, side="right")) - 1)
        counts = count[row:end]
        one = np.repeat(np.arange(row, end), counts)
        offset = np.arange(len(one)) - np.repeat(total[row:end] - total[row], counts)
        yield one, np.repeat(first[row:end], counts) + offset
        row = end


def _concat(parts: list[IouPairs]) -> IouPairs:
    if not parts:
        return IouPairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    return IouPairs(*(np.concatenate(column) for column in zip(*parts, strict=True)))
