"""COCO's matching of detections with boxes, for all pictures and classes of a data set side by side.

Best score first, each detection takes the box of its class and picture that it overlaps most and that none has
taken before. Only detections of the same picture and class compete, so the first of all groups are decided at
once, then the second ones, and so on: some hundred steps instead of one for each detection.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cspdet.analysis.arrays import Found, Truth, first_of_equals, rank_in_group
from cspdet.analysis.overlaps import Pairs

IOUS = np.linspace(0.5, 0.95, 10)  # COCO's thresholds


class Match(NamedTuple):
    """What became of D detections at one IoU; those neither correct nor ignored are wrong."""

    truth: np.ndarray  # (D,) int64, the box that the detection is matched with, -1 for none
    correct: np.ndarray  # (D,) bool
    ignored: np.ndarray  # (D,) bool, counted neither as right nor as wrong


class Candidates(NamedTuple):
    """Pairs of equal class, those of a rank side by side, the pair that a detection prefers behind the others."""

    pairs: Pairs
    rank: np.ndarray  # (P,) int64, rising: turn of the detection among those of its picture and class
    ignore: np.ndarray  # (M,) bool, boxes that are no goals: crowds, and sizes outside of the range
    outside: np.ndarray  # (D,) bool, detections that are ignored when they match nothing


def candidates(
    pairs: Pairs, found: Found, truth: Truth, *, area: tuple[float, float] | None = None, closed: bool = True
) -> Candidates:
    """Prepare matching by class. `area` (low, high) judges boxes of such areas only; `high` counts as inside if
    `closed`, as in COCO.

    Among boxes of equal IoU the later one wins, and goals win over boxes to ignore: so it is in pycocotools.
    """
    same = pairs.where(found.class_id[pairs.detection] == truth.class_id[pairs.truth])
    ignore, outside = truth.crowd, np.zeros(len(found), bool)
    if area is not None:
        ignore = ignore | ~_within(truth.area, area, closed)
        outside = ~_within(found.box_xywh[:, 2] * found.box_xywh[:, 3], area, closed)
    rank = _ranks(same, found)
    order = np.lexsort((same.truth, same.iou, ~ignore[same.truth], same.detection, rank))
    return Candidates(same.where(order), rank[order], ignore, outside)


def match_boxes(prepared: Candidates, truth: Truth, iou: float) -> Match:
    """Match at one IoU, which is at least that down to which pairs were collected."""
    near = prepared.pairs.iou >= iou
    pairs, rank = prepared.pairs.where(near), prepared.rank[near]
    matched = assign(pairs, rank, len(prepared.outside), ~truth.crowd)
    hit = matched >= 0
    ignored = np.where(hit, prepared.ignore[matched] if len(truth) else False, prepared.outside)
    return Match(matched, hit & ~ignored, ignored)


def assign(pairs: Pairs, rank: np.ndarray, detections: int, once: np.ndarray) -> np.ndarray:
    """(D,) int64: the truth of each detection, or -1, in the order of the (P,) rising `rank`.

    Of equal rank no two detections may share a truth. A detection takes the last of its pairs whose truth is
    free; the (M,) bool `once` says which truths are free only until taken.
    """
    matched, free = np.full(detections, -1, np.int64), np.ones(len(once), bool)
    bounds = np.flatnonzero(np.diff(rank, prepend=-1, append=-1)) if len(rank) else np.zeros(1, np.int64)
    for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        detection, truth = pairs.detection[start:end], pairs.truth[start:end]
        open_ = free[truth]
        detection, truth = detection[open_], truth[open_]
        last = np.append(detection[1:] != detection[:-1], True)[: len(detection)]
        matched[detection[last]] = truth[last]
        free[truth[last]] = ~once[truth[last]]
    return matched


def _ranks(same: Pairs, found: Found) -> np.ndarray:
    """(P,) the turn of each pair's detection among the detections of its picture and class that have pairs."""
    rank = np.zeros(len(found), np.int64)
    competing = same.detection[first_of_equals(same.detection)]  # by picture, then best score first
    group = found.picture[competing] * (int(found.class_id.max(initial=0)) + 1) + found.class_id[competing]
    order = np.argsort(group, kind="stable")
    rank[competing[order]] = rank_in_group(group[order])
    return rank[same.detection]


def _within(area: np.ndarray, limits: tuple[float, float], closed: bool) -> np.ndarray:
    low, high = limits
    return (area >= low) & ((area <= high) if closed else (area < high))
