"""Calibration of the scores: whether 80% of the detections with a score of .8 are correct."""

from __future__ import annotations

import numpy as np

from cspdet.analysis.matched_run import MatchedRun
from cspdet.analysis.metrics import Calibration, CalibrationBin

NUM_BINS = 10


def calibrate(run: MatchedRun, threshold: float) -> Calibration:
    """Compare mean score and accuracy in score bins, at `run.iou`; the outer bins include scores outside [0, 1]."""
    counted = ~run.match.ignored
    score, correct = run.detections.score[counted], run.match.correct[counted]
    count, score_sum, right = _bin_sums(score, correct)
    bins = tuple(
        CalibrationBin(
            low=i / NUM_BINS,
            high=(i + 1) / NUM_BINS,
            count=int(count[i]),
            mean_score=float(score_sum[i] / count[i]) if count[i] else None,
            accuracy=float(right[i] / count[i]) if count[i] else None,
        )
        for i in range(NUM_BINS)
    )
    kept = score >= threshold
    return Calibration(bins, calibration_error(score, correct), calibration_error(score[kept], correct[kept]))


def calibration_error(score: np.ndarray, correct: np.ndarray) -> float | None:
    """Return the expected calibration error of (D,) scores and (D,) bool `correct`; None without detections.

    It is the mean |mean score - accuracy| over the bins, weighted by the number of detections (Guo et al. 2017).
    """
    if not len(score):
        return None
    _, score_sum, right = _bin_sums(score, correct)
    return float(np.abs(score_sum - right).sum() / len(score))


def _bin_sums(score: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the number of detections, the sum of scores, and the number of correct detections of each bin."""
    # Edges by division are the nearest floats to .1, .2, ..., so that a score of .3 is in the bin that starts at .3.
    edges = np.arange(1, NUM_BINS) / NUM_BINS
    index = np.searchsorted(edges, score, side="right")
    count = np.bincount(index, minlength=NUM_BINS)
    return count, np.bincount(index, score, NUM_BINS), np.bincount(index[correct], minlength=NUM_BINS)
