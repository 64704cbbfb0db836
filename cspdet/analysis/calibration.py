"""Calibration of the scores: compares the score of detections with the fraction of them that are correct."""

from __future__ import annotations

import numpy as np

from cspdet.analysis.matched_run import MatchedRun
from cspdet.analysis.metrics import Calibration, CalibrationBin

NUM_BINS = 10


def calibrate(run: MatchedRun, threshold: float) -> Calibration:
    """Compute the mean score and the fraction of correct detections in bins of the score, at the IoU `run.iou`.

    Scores below 0 are counted in the first bin, scores above 1 in the last bin. `kept_ece`
    of the result uses only scores of at least `threshold`.
    """
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
    """Return the expected calibration error (Guo et al. 2017); None if there are no detections.

    It is the mean of |mean score - accuracy| over the bins of the score, weighted by the number of detections.

    Args:
        score: (D,) score of each detection.
        correct: (D,) bool, whether the detection is correct.
    """
    if not len(score):
        return None
    _, score_sum, right = _bin_sums(score, correct)
    return float(np.abs(score_sum - right).sum() / len(score))


def _bin_sums(score: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (NUM_BINS,) arrays: number of detections, sum of scores, and number of correct detections in each bin."""
    edges = np.arange(1, NUM_BINS) / NUM_BINS  # division, so that a score of .3 is in the bin that starts at .3
    index = np.searchsorted(edges, score, side="right")
    count = np.bincount(index, minlength=NUM_BINS)
    return count, np.bincount(index, score, NUM_BINS), np.bincount(index[correct], minlength=NUM_BINS)
