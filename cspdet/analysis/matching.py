"""COCO's matching of detections with boxes, for all pictures and classes of a data set side by side.

Best score first, each detection takes the box of its class and picture that it overlaps most and that none has
taken before. Only detections of the same picture and class compete, so the first of all groups are decided at
once, then the second ones, and so on: some hundred steps instead of one for each detection.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cspdet.analysis.arrays import DetectionArrays, GroundTruthArrays, group_starts, rank_in_group
from cspdet.analysis.overlaps import IouPairs

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)  # COCO's thresholds


class Match(NamedTuple):
    """What became of D detections at one IoU; those neither correct nor ignored are wrong."""

    gt_index: np.ndarray  # (D,) int64, the box that the detection is matched with, -1 for none
    correct: np.ndarray  # (D,) bool
    ignored: np.ndarray  # (D,) bool, counted neither as right nor as wrong


class MatchCandidates(NamedTuple):
    """Pairs of equal class, those of a rank side by side, the pair that a detection prefers behind the others."""

    pairs: IouPairs
    rank: np.ndarray  # (P,) int64, rising: turn of the detection among those of its picture and class
    ignore: np.ndarray  # (M,) bool, boxes that are no goals: crowds, and sizes outside of the range
    out_of_range: np.ndarray  # (D,) bool, detections that are ignored when they match nothing


def build_candidates(
    pairs: IouPairs,
    detections: DetectionArrays,
    ground_truth: GroundTruthArrays,
    *,
    area: tuple[float, float] | None = None,
    closed: bool = True,
) -> MatchCandidates:
    """Prepare matching by class. `area` (low, high) judges boxes of such areas only; `high` counts as inside if
    `closed`, as in COCO.

    Among boxes of equal IoU the later one wins, and goals win over boxes to ignore: so it is in pycocotools.
    """
    same = pairs.select(detections.class_id[pairs.detection_index] == ground_truth.class_id[pairs.gt_index])
    ignore, outside = ground_truth.crowd, np.zeros(len(detections), bool)
    if area is not None:
        ignore = ignore | ~_in_area_range(ground_truth.area, area, closed)
        outside = ~_in_area_range(detections.box_xywh[:, 2] * detections.box_xywh[:, 3], area, closed)
    rank = _rank_in_image_and_class(same, detections)
    order = np.lexsort((same.gt_index, same.iou, ~ignore[same.gt_index], same.detection_index, rank))
    return MatchCandidates(same.select(order), rank[order], ignore, outside)


def match_boxes(match_candidates: MatchCandidates, ground_truth: GroundTruthArrays, iou: float) -> Match:
    """Match at one IoU, which is at least that down to which pairs were collected."""
    near = match_candidates.pairs.iou >= iou
    pairs, rank = match_candidates.pairs.select(near), match_candidates.rank[near]
    matched = assign(pairs, rank, len(match_candidates.out_of_range), ~ground_truth.crowd)
    hit = matched >= 0
    ignored = np.where(
        hit, match_candidates.ignore[matched] if len(ground_truth) else False, match_candidates.out_of_range
    )
    return Match(matched, hit & ~ignored, ignored)


def assign(pairs: IouPairs, rank: np.ndarray, num_detections: int, single_match: np.ndarray) -> np.ndarray:
    """(D,) int64: the truth of each detection, or -1, in the order of the (P,) rising `rank`.

    Of equal rank no two detections may share a truth. A detection takes the last of its pairs whose truth is
    free; the (M,) bool `once` says which truths are free only until taken.
    """
    matched, free = np.full(num_detections, -1, np.int64), np.ones(len(single_match), bool)
    bounds = np.flatnonzero(np.diff(rank, prepend=-1, append=-1)) if len(rank) else np.zeros(1, np.int64)
    for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        detection, gt_index = pairs.detection_index[start:end], pairs.gt_index[start:end]
        open_ = free[gt_index]
        detection, gt_index = detection[open_], gt_index[open_]
        last = np.append(detection[1:] != detection[:-1], True)[: len(detection)]
        matched[detection[last]] = gt_index[last]
        free[gt_index[last]] = ~single_match[gt_index[last]]
    return matched


def _rank_in_image_and_class(pairs: IouPairs, detections: DetectionArrays) -> np.ndarray:
    """(P,) the turn of each pair's detection among the detections of its picture and class that have pairs."""
    rank = np.zeros(len(detections), np.int64)
    competing = pairs.detection_index[group_starts(pairs.detection_index)]  # by picture, then best score first
    group = (
        detections.image_index[competing] * (int(detections.class_id.max(initial=0)) + 1)
        + detections.class_id[competing]
    )
    order = np.argsort(group, kind="stable")
    rank[competing[order]] = rank_in_group(group[order])
    return rank[pairs.detection_index]


def _in_area_range(area: np.ndarray, limits: tuple[float, float], closed: bool) -> np.ndarray:
    low, high = limits
    return (area >= low) & ((area <= high) if closed else (area < high))
