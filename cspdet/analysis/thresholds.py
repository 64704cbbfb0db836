"""Precision, recall and F1 against the score from which detections are kept."""

from __future__ import annotations

import numpy as np

from cspdet.analysis.matched_run import Judged
from cspdet.analysis.structures import Operating, ThresholdCurves

STEPS = 101
NO_THRESHOLD = 0.5  # stands for "the best" where no detection is correct


def threshold_curves(judged: Judged) -> ThresholdCurves:
    """The curves at `judged.iou` over the scores from 0 to 1, or over those that there are if they leave this range."""
    found, match = judged.found, judged.match
    counted = ~match.ignored
    grid = np.arange(STEPS) / (STEPS - 1)
    low, high = float(found.score.min(initial=0.0)), float(found.score.max(initial=1.0))
    if low < 0.0 or high > 1.0:
        grid = np.linspace(low, high, STEPS)
    kept = np.zeros((judged.classes, STEPS), np.int64)
    correct = np.zeros((judged.classes, STEPS), np.int64)
    for class_id in range(judged.classes):
        own = counted & (found.class_id == class_id)
        kept[class_id] = _at_least(found.score[own], grid)
        correct[class_id] = _at_least(found.score[own & match.correct], grid)
    together = _rates(correct.sum(axis=0), kept.sum(axis=0), judged.positives.sum())
    by_class = _rates(correct, kept, judged.positives[:, None])
    best = best_operating(found.score[counted], match.correct[counted], int(judged.positives.sum()))
    return ThresholdCurves(grid, *together, *by_class, best=best)


def best_operating(score: np.ndarray, correct: np.ndarray, truths: int) -> Operating:
    """The threshold with the highest F1, of equals the highest one.

    Args:
        score: (D,) of detections that count.
        correct: (D,) bool.
        truths: boxes to be found.
    """
    order = np.argsort(-score, kind="stable")
    last = np.append(np.diff(score[order]) != 0, True)[: len(score)]  # of equal scores all are kept or none
    right = np.cumsum(correct[order])[last]
    kept = np.flatnonzero(last) + 1
    if truths == 0 or not right.any():
        return operating_at(NO_THRESHOLD, score, correct, truths)
    best = int(np.argmax(2 * right / (kept + truths)))
    return _operating(float(score[order][last][best]), int(right[best]), int(kept[best]), truths)


def operating_at(threshold: float, score: np.ndarray, correct: np.ndarray, truths: int) -> Operating:
    """What a given threshold gives; arguments as of `best_operating`."""
    above = score >= threshold
    return _operating(threshold, int(correct[above].sum()), int(above.sum()), truths)


def _operating(threshold: float, correct: int, kept: int, truths: int) -> Operating:
    return Operating(
        threshold=threshold,
        precision=correct / kept if kept else None,
        recall=correct / truths if truths else None,
        f1=2 * correct / (kept + truths) if truths else None,
        correct=correct,
        kept=kept,
    )


def _at_least(score: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """(G,) int64: how many scores reach each of the rising thresholds."""
    return len(score) - np.searchsorted(np.sort(score), grid, side="left")


def _rates(
    correct: np.ndarray, kept: np.ndarray, truths: np.ndarray | int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F1 of counts; NaN where they are not defined."""
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(kept > 0, correct / np.maximum(kept, 1), np.nan)
        recall = np.where(truths > 0, correct / np.maximum(truths, 1), np.nan)
        f1 = np.where(truths > 0, 2 * correct / np.maximum(kept + truths, 1), np.nan)
    return precision, recall, f1
