"""Pairs of overlapping boxes of the same image with their IoU, as arrays of pairs instead of a matrix per image.

As in COCO's evaluation, the IoU with a crowd region is the intersection divided by the area of the other box.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from cspdet.analysis.arrays import DetectionArrays, GroundTruthArrays

MAX_PAIRS_PER_CHUNK = 1 << 20  # limits the memory


class IouPairs(NamedTuple):
    """P pairs of a detection and a box of the same image, sorted by detection, then by box."""

    detection_index: np.ndarray  # (P,) int64
    gt_index: np.ndarray  # (P,) int64
    iou: np.ndarray  # (P,) float64

    def select(self, mask: np.ndarray) -> IouPairs:
        """Return the pairs selected by a (P,) bool mask or by an array of indices."""
        return IouPairs(self.detection_index[mask], self.gt_index[mask], self.iou[mask])


def iou_xywh(one: np.ndarray, other: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """Return the (P,) IoU of P pairs of boxes, computed with the same order of operations as in pycocotools.

    If the box in `other` is a crowd region, the intersection is divided by the area of the box in `one`.

    Args:
        one: (P, 4) left, top, width, height.
        other: (P, 4) left, top, width, height.
        crowd: (P,) bool, whether the box in `other` is a crowd region.
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
    """Return all pairs of a detection and a box with an IoU of at least `min_iou`, of any class, including crowds."""
    parts = []
    for detection, other in _same_image_pairs(detections.image_index, ground_truth.start):
        iou = iou_xywh(detections.box_xywh[detection], ground_truth.box_xywh[other], ground_truth.crowd[other])
        parts.append(IouPairs(detection, other, iou).select(iou >= min_iou))
    return _concat(parts)


def ground_truth_pairs(ground_truth: GroundTruthArrays, min_iou: float) -> IouPairs:
    """Return the pairs of ground-truth boxes of an image with an IoU of at least `min_iou`, without crowds.

    Every pair is returned twice: as (a, b) and as (b, a).
    """
    parts = []
    for one, other in _same_image_pairs(ground_truth.image_index, ground_truth.start):
        iou = iou_xywh(ground_truth.box_xywh[one], ground_truth.box_xywh[other], np.zeros(len(one), bool))
        distinct = (one != other) & ~ground_truth.crowd[one] & ~ground_truth.crowd[other]
        parts.append(IouPairs(one, other, iou).select(distinct & (iou >= min_iou)))
    return _concat(parts)


def _same_image_pairs(image_index: np.ndarray, start: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield all pairs of a row and a box of the same image, in chunks: (P,) row indices and (P,) box indices.

    Args:
        image_index: (N,) image of each row; a row is a detection or a box.
        start: Offsets of the boxes of each image.
    """
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
