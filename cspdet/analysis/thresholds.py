"""Precision, recall and F1 as functions of the score threshold."""

from __future__ import annotations

import numpy as np

from cspdet.analysis.matched_run import MatchedRun
from cspdet.analysis.metrics import OperatingPoint, ThresholdCurves

NUM_THRESHOLDS = 101
FALLBACK_THRESHOLD = 0.5  # used if no detection is correct


def threshold_curves(run: MatchedRun) -> ThresholdCurves:
    """Compute the curves at the IoU threshold `run.iou`, for 101 score thresholds.

    The thresholds cover [0, 1], and are extended to the range of the scores if some scores are outside [0, 1].
    """
    detections, match = run.detections, run.match
    counted = ~match.ignored
    grid = np.arange(NUM_THRESHOLDS) / (NUM_THRESHOLDS - 1)
    low, high = float(detections.score.min(initial=0.0)), float(detections.score.max(initial=1.0))
    if low < 0.0 or high > 1.0:
        grid = np.linspace(low, high, NUM_THRESHOLDS)
    kept = np.zeros((run.num_classes, NUM_THRESHOLDS), np.int64)
    correct = np.zeros((run.num_classes, NUM_THRESHOLDS), np.int64)
    for class_id in range(run.num_classes):
        in_class = counted & (detections.class_id == class_id)
        kept[class_id] = _count_above(detections.score[in_class], grid)
        correct[class_id] = _count_above(detections.score[in_class & match.correct], grid)
    together = _precision_recall_f1(correct.sum(axis=0), kept.sum(axis=0), run.num_gt.sum())
    by_class = _precision_recall_f1(correct, kept, run.num_gt[:, None])
    best = best_operating_point(detections.score[counted], match.correct[counted], int(run.num_gt.sum()))
    return ThresholdCurves(grid, *together, *by_class, best_f1_point=best)


def best_operating_point(score: np.ndarray, correct: np.ndarray, num_gt: int) -> OperatingPoint:
    """Return the operating point with the highest F1.

    If several thresholds have the same F1, the highest of them is used. If no detection is correct, the threshold is
    FALLBACK_THRESHOLD.

    Args:
        score: (D,) scores of the detections that are not ignored.
        correct: (D,) bool, whether the detection is correct.
        num_gt: Number of ground-truth boxes.
    """
    order = np.argsort(-score, kind="stable")
    last = np.append(np.diff(score[order]) != 0, True)[: len(score)]  # detections with equal scores are kept together
    right = np.cumsum(correct[order])[last]
    kept = np.flatnonzero(last) + 1
    if num_gt == 0 or not right.any():
        return operating_point_at(FALLBACK_THRESHOLD, score, correct, num_gt)
    best = int(np.argmax(2 * right / (kept + num_gt)))
    return _operating_point(float(score[order][last][best]), int(right[best]), int(kept[best]), num_gt)


def operating_point_at(threshold: float, score: np.ndarray, correct: np.ndarray, num_gt: int) -> OperatingPoint:
    """Compute the operating point at a score threshold. Other arguments: see `best_operating_point`."""
    above = score >= threshold
    return _operating_point(threshold, int(correct[above].sum()), int(above.sum()), num_gt)


def _operating_point(threshold: float, correct: int, kept: int, num_gt: int) -> OperatingPoint:
    return OperatingPoint(
        threshold=threshold,
        precision=correct / kept if kept else None,
        recall=correct / num_gt if num_gt else None,
        f1=2 * correct / (kept + num_gt) if num_gt else None,
        correct=correct,
        kept=kept,
    )


def _count_above(score: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Count the scores at or above each of the G ascending thresholds; return (G,) int64."""
    return len(score) - np.searchsorted(np.sort(score), grid, side="left")


def _precision_recall_f1(
    correct: np.ndarray, kept: np.ndarray, num_gt: np.ndarray | int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute precision, recall and F1 from counts; undefined values are NaN."""
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(kept > 0, correct / np.maximum(kept, 1), np.nan)
        recall = np.where(num_gt > 0, correct / np.maximum(num_gt, 1), np.nan)
        f1 = np.where(num_gt > 0, 2 * correct / np.maximum(kept + num_gt, 1), np.nan)
    return precision, recall, f1
