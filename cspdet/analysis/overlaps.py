"""Which boxes of a picture overlap, by COCO's IoU: sparse lists of pairs instead of matrices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from cspdet.analysis.arrays import Found, Truth

CHUNK = 1 << 20  # pairs that are looked at together, which bounds the memory


class Pairs(NamedTuple):
    """P pairs of a detection and a truth of the same picture, sorted by detection, then truth."""

    detection: np.ndarray  # (P,) int64
    truth: np.ndarray  # (P,) int64
    iou: np.ndarray  # (P,) float64

    def where(self, mask: np.ndarray) -> Pairs:
        """Those of the pairs."""
        return Pairs(self.detection[mask], self.truth[mask], self.iou[mask])


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
    own = width * height
    whole = np.where(crowd, own, own + other_width * other_height - shared)
    return np.divide(shared, whole, out=np.zeros_like(shared), where=touching)


def detection_pairs(found: Found, truth: Truth, at_least: float) -> Pairs:
    """All pairs, of equal classes or not, with crowds too, whose IoU is `at_least` so high."""
    parts = []
    for detection, other in _candidates(found.picture, truth.start):
        iou = iou_xywh(found.box_xywh[detection], truth.box_xywh[other], truth.crowd[other])
        parts.append(Pairs(detection, other, iou).where(iou >= at_least))
    return _joined(parts)


def truth_pairs(truth: Truth, at_least: float) -> Pairs:
    """Pairs of two different boxes of a picture, each pair both ways round, crowds left out."""
    parts = []
    for one, other in _candidates(truth.picture, truth.start):
        iou = iou_xywh(truth.box_xywh[one], truth.box_xywh[other], np.zeros(len(one), bool))
        apart = (one != other) & ~truth.crowd[one] & ~truth.crowd[other]
        parts.append(Pairs(one, other, iou).where(apart & (iou >= at_least)))
    return _joined(parts)


def _candidates(picture: np.ndarray, start: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """In chunks, each row of `picture` with each of the rows start[p]:start[p + 1] of its picture p."""
    first, count = start[picture], start[picture + 1] - start[picture]
    total = np.concatenate(([0], np.cumsum(count)))
    row = 0
    while row < len(picture):
        end = max(row + 1, int(np.searchsorted(total, total[row] + CHUNK, side="right")) - 1)
        counts = count[row:end]
        one = np.repeat(np.arange(row, end), counts)
        offset = np.arange(len(one)) - np.repeat(total[row:end] - total[row], counts)
        yield one, np.repeat(first[row:end], counts) + offset
        row = end


def _joined(parts: list[Pairs]) -> Pairs:
    if not parts:
        return Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    return Pairs(*(np.concatenate(column) for column in zip(*parts, strict=True)))
