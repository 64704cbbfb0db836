"""The error type of each detection, and the AP cost of each type, as in TIDE.

Source: Bolya, Foley, Hays and Hoffman, "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV 2020,
section 2.2. Let t (.5) be the foreground IoU threshold and b (.1) the background IoU threshold. An unmatched detection
has the first of these types whose condition is true:

localization    highest IoU with a box of its class is at least b and below t
classification  IoU of at least t with a box of another class
duplicate       IoU of at least t with a box of its class that is matched by a detection with a higher score
background      IoU below b with every box
both            all other detections: IoU between b and t with a box of another class

The cost of a type is the AP at t after the errors of this type are fixed, minus the actual AP. A localization or
classification error is corrected, unless its box is already matched or is used to correct an error of the same type
with a higher score. All other detections of the type are removed. Missed boxes are removed from the ground truth; in a
class without any correct detection, they count as detected instead. The costs do not add up to 1 - AP, because the
fixes interact.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cspdet.analysis.arrays import group_starts
from cspdet.analysis.average_precision import (
    Ranking,
    collect_hits,
    cumulative_weights,
    interpolated_precision,
    nanmean_or_none,
    rank_by_score,
)
from cspdet.analysis.config import BACKGROUND_IOU
from cspdet.analysis.findings import DETECTION_TYPES, ERROR_TYPES, ErrorCost, Errors
from cspdet.analysis.matched_run import MatchedRun
from cspdet.analysis.overlaps import IouPairs

CORRECT, CLASSIFICATION, LOCALIZATION, BOTH, DUPLICATE, BACKGROUND, IGNORED = range(len(DETECTION_TYPES))


class ErrorTypes(NamedTuple):
    """Error type of each of D detections, and the boxes that are used to correct errors."""

    detection_type: np.ndarray  # (D,) int64, index into DETECTION_TYPES
    intended_gt: np.ndarray  # (D,) int64, box that a localization or classification error overlaps most, else -1
    matched_gt: np.ndarray  # (M,) bool, boxes matched by a correct detection


def classify_errors(run: MatchedRun) -> ErrorTypes:
    """Determine the error type of each detection at the IoU threshold `run.iou`."""
    match, ground_truth, count = run.match, run.ground_truth, len(run.detections)
    pairs = run.pairs.select(~ground_truth.crowd[run.pairs.gt_index])
    same = run.detections.class_id[pairs.detection_index] == ground_truth.class_id[pairs.gt_index]
    same_iou, same_class_gt = best_overlap(pairs.select(same), count)
    other_iou, other_class_gt = best_overlap(pairs.select(~same), count)
    near = (same_iou >= BACKGROUND_IOU) & (same_iou < run.iou)
    conditions = (
        match.correct,
        match.ignored,
        near,
        other_iou >= run.iou,
        same_iou >= run.iou,
        np.maximum(same_iou, other_iou) < BACKGROUND_IOU,
    )
    detection_type = np.select(
        conditions, (CORRECT, IGNORED, LOCALIZATION, CLASSIFICATION, DUPLICATE, BACKGROUND), BOTH
    )
    is_type = [detection_type == LOCALIZATION, detection_type == CLASSIFICATION]
    intended_gt = np.select(is_type, [same_class_gt, other_class_gt], -1)
    matched_gt = np.zeros(len(ground_truth), bool)
    matched_gt[match.gt_index[match.correct]] = True
    return ErrorTypes(detection_type, intended_gt, matched_gt)


def measure_errors(run: MatchedRun, error_types: ErrorTypes, threshold: float) -> Errors:
    """Count the errors of each type and compute the AP cost of each type.

    Errors are counted twice: all of them, and those with scores of at least `threshold`.
    """
    is_target, kept = run.is_target, run.detections.score >= threshold
    reached = np.zeros(len(is_target), bool)
    reached[error_types.intended_gt[error_types.intended_gt >= 0]] = True
    missed = is_target & ~error_types.matched_gt
    entirely = missed & ~reached
    kept_detected = int((run.match.correct & kept).sum())
    all_counts = np.bincount(error_types.detection_type, minlength=len(DETECTION_TYPES))
    kept_counts = np.bincount(error_types.detection_type[kept], minlength=len(DETECTION_TYPES))
    right, skipped = error_types.detection_type == CORRECT, error_types.detection_type == IGNORED
    ap = _mean_ap(run, run.ranking, right, skipped, run.num_gt)

    def cost(repaired: float | None) -> float | None:
        return None if ap is None or repaired is None else repaired - ap

    costs = []
    for name in ERROR_TYPES:
        if name == "missed":
            count, kept_count = int(entirely.sum()), int(is_target.sum()) - kept_detected
            repaired = _ap_without_gt(run, error_types, entirely)
        else:
            index = DETECTION_TYPES.index(name)
            count, kept_count = int(all_counts[index]), int(kept_counts[index])
            repaired = _ap_with_fix(run, error_types, index)
        costs.append(ErrorCost(name, count, kept_count, cost(repaired)))
    return Errors(
        iou=run.iou,
        background_iou=BACKGROUND_IOU,
        ap=ap,
        evaluated=len(run.detections),
        correct=int(all_counts[CORRECT]),
        ignored=int(all_counts[IGNORED]),
        kept_correct=int(kept_counts[CORRECT]),
        kept_ignored=int(kept_counts[IGNORED]),
        num_gt=int(is_target.sum()),
        detected=int(error_types.matched_gt.sum()),
        missed=int(missed.sum()),
        missed_entirely=int(entirely.sum()),
        costs=tuple(costs),
        false_positive_cost=cost(_mean_ap(run, run.ranking, right, ~right, run.num_gt)),
        false_negative_cost=cost(_ap_without_gt(run, error_types, missed)),
    )


def _ap_with_fix(run: MatchedRun, error_types: ErrorTypes, index: int) -> float | None:
    """Compute the AP after fixing one error type: its detections are corrected; those without a free box are removed.

    Args:
        run: The matched run.
        error_types: The type of each detection.
        index: The fixed error type, an index into DETECTION_TYPES.
    """
    chosen = error_types.detection_type == index
    correct, gone = error_types.detection_type == CORRECT, (error_types.detection_type == IGNORED) | chosen
    ranking = run.ranking
    if index in (CLASSIFICATION, LOCALIZATION):
        winner = _best_detection_per_gt(run, error_types, chosen)
        correct, gone = correct | winner, gone & ~winner
        if index == CLASSIFICATION:
            class_id = run.detections.class_id.copy()
            class_id[winner] = run.ground_truth.class_id[error_types.intended_gt[winner]]
            ranking = rank_by_score(class_id, run.detections.score, run.num_classes)
    return _mean_ap(run, ranking, correct, gone, run.num_gt)


def _best_detection_per_gt(run: MatchedRun, error_types: ErrorTypes, chosen: np.ndarray) -> np.ndarray:
    """Return a (D,) mask: for each unmatched box, the highest-scoring chosen detection with this `intended_gt`."""
    (claiming,) = np.nonzero(chosen)
    claiming = claiming[~error_types.matched_gt[error_types.intended_gt[claiming]]]
    intended_gt = error_types.intended_gt[claiming]
    order = np.lexsort((-run.detections.score[claiming], intended_gt))
    first = order[np.flatnonzero(np.diff(intended_gt[order], prepend=-1))]
    winner = np.zeros(len(chosen), bool)
    winner[claiming[first]] = True
    return winner


def _ap_without_gt(run: MatchedRun, error_types: ErrorTypes, removed: np.ndarray) -> float | None:
    """Compute the AP without the boxes of the (M,) mask `removed`; a class without remaining boxes has an AP of 1.

    A class without any correct detection would have an AP of 0 until its last box is removed. Instead, its AP is the
    fraction of its boxes that are removed.
    """
    right, ignored = error_types.detection_type == CORRECT, error_types.detection_type == IGNORED
    num_removed = run.count_gt_per_class(removed)
    ap = _ap_per_class(run, run.ranking, right, ignored, run.num_gt - num_removed)
    is_found = run.count_detections_per_class(right) > 0
    ap = np.where(is_found, ap, num_removed / np.maximum(run.num_gt, 1))
    return nanmean_or_none(np.where(run.num_gt > 0, ap, np.nan))


def _mean_ap(
    run: MatchedRun, ranking: Ranking, correct: np.ndarray, removed: np.ndarray, num_gt: np.ndarray
) -> float | None:
    """Compute the mean AP over the classes that have ground truth in the split.

    Args:
        run: The matched run.
        ranking: Ranking of the detections.
        correct: (D,) bool, detections that count as correct.
        removed: (D,) bool, detections that are not counted.
        num_gt: (C,) number of ground-truth boxes.
    """
    ap = _ap_per_class(run, ranking, correct, removed, num_gt)
    return nanmean_or_none(np.where(run.num_gt > 0, ap, np.nan))


def _ap_per_class(
    run: MatchedRun, ranking: Ranking, correct: np.ndarray, removed: np.ndarray, num_gt: np.ndarray
) -> np.ndarray:
    """Compute the (C,) AP; 1 for a class without boxes in `num_gt`."""
    weight = np.ones(len(run.detections))
    curves = interpolated_precision(
        collect_hits(ranking, correct, removed), cumulative_weights(ranking, weight), weight, num_gt
    )
    return np.where(np.isnan(curves[:, 0]), 1.0, curves.mean(axis=1))


def best_overlap(pairs: IouPairs, num_detections: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the box with the highest IoU for each detection.

    Returns:
        Two (D,) arrays: the highest IoU of each detection, 0 without overlap; and the index of the box with this IoU,
        -1 without overlap. If several boxes have the same IoU, the first of them is returned.
    """
    best_iou, best_gt = np.zeros(num_detections), np.full(num_detections, -1, np.int64)
    start = group_starts(pairs.detection_index)
    if len(start):
        best = np.maximum.reduceat(pairs.iou, start)
        highest = np.flatnonzero(pairs.iou == np.repeat(best, np.diff(np.append(start, len(pairs.iou)))))
        highest = highest[group_starts(pairs.detection_index[highest])]
        best_iou[pairs.detection_index[highest]] = best
        best_gt[pairs.detection_index[highest]] = pairs.gt_index[highest]
    return best_iou, best_gt
