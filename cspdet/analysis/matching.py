"""COCO's greedy matching of detections with ground truth, vectorized over all images and classes.

In the order of descending score, each detection is matched with the unmatched box of its class and image that has the
highest IoU. Only detections of the same image and class compete for boxes. Therefore the first detections of all images
and classes are matched in one step, then all second detections, and so on: about a hundred steps instead of one per
detection.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cspdet.analysis.arrays import DetectionArrays, GroundTruthArrays, group_starts, rank_in_group
from cspdet.analysis.overlaps import IouPairs

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of COCO


class Match(NamedTuple):
    """Matches of D detections at one IoU threshold. Detections that are neither correct nor ignored are wrong."""

    gt_index: np.ndarray  # (D,) int64, the matched box, -1 for none
    correct: np.ndarray  # (D,) bool
    ignored: np.ndarray  # (D,) bool, counted neither as correct nor as wrong


class MatchCandidates(NamedTuple):
    """Pairs of a detection and a box of the same class and image.

    The pairs are sorted by rank, then by detection. Of the pairs of a detection, the last is the preferred one.
    """

    pairs: IouPairs
    rank: np.ndarray  # (P,) int64, ascending: rank of the detection within its image and class
    ignore: np.ndarray  # (M,) bool, ignored boxes: crowds, and sizes outside of the range
    out_of_range: np.ndarray  # (D,) bool, detections that are ignored if unmatched


def build_candidates(
    pairs: IouPairs,
    detections: DetectionArrays,
    ground_truth: GroundTruthArrays,
    *,
    area: tuple[float, float] | None = None,
    closed: bool = True,
) -> MatchCandidates:
    """Select and sort the pairs for matching within classes.

    Pairs of different classes are dropped. A detection prefers a box that is not ignored, then a higher IoU, then a
    later box. This order is that of pycocotools.

    Args:
        pairs: Pairs of detections and boxes with their IoU.
        detections: The detections.
        ground_truth: The boxes.
        area: (low, high) in square pixels. Boxes with other areas are ignored, detections with other areas are marked
            `out_of_range`. None: no limits.
        closed: Whether the range includes `high`, as in COCO.
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
    """Match detections with boxes at one IoU threshold, which must not be below the minimum IoU of the pairs."""
    near = match_candidates.pairs.iou >= iou
    pairs, rank = match_candidates.pairs.select(near), match_candidates.rank[near]
    matched = assign(pairs, rank, len(match_candidates.out_of_range), ~ground_truth.crowd)
    hit = matched >= 0
    ignored = np.where(
        hit, match_candidates.ignore[matched] if len(ground_truth) else False, match_candidates.out_of_range
    )
    return Match(matched, hit & ~ignored, ignored)


def assign(pairs: IouPairs, rank: np.ndarray, num_detections: int, single_match: np.ndarray) -> np.ndarray:
    """Assign at most one box to each detection, step by step in the order of the ranks.

    Each detection gets the box of its last pair whose box is still free.

    Args:
        pairs: P candidate pairs, sorted by rank and detection. Detections of equal rank must not share a box.
        rank: (P,) rank of the detection of each pair, ascending.
        num_detections: Number of detections.
        single_match: (M,) bool, boxes that can be assigned only once; crowds can be assigned any number of times.

    Returns:
        (D,) int64 index of the assigned box, -1 if there is none.
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
    """Rank the detections that have pairs by score, within each image and class.

    Returns:
        (P,) rank of the detection of each pair.
    """
    rank = np.zeros(len(detections), np.int64)
    competing = pairs.detection_index[group_starts(pairs.detection_index)]  # by image, then descending score
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
