"""Whether scores mean what they say: of the detections with a score of .8, are 80% correct?"""

from __future__ import annotations

import numpy as np

from cspdet.analysis.matched_run import MatchedRun
from cspdet.analysis.structures import Calibration, CalibrationBin

NUM_BINS = 10


def calibrate(run: MatchedRun, threshold: float) -> Calibration:
    """The detections that count, by score, correct at `judged.iou`; scores beyond 0 and 1 fall into the end bins."""
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
    """The expected calibration error of (D,) scores and bools: mean distance of score and share, by the bins."""
    if not len(score):
        return None
    _, score_sum, right = _bin_sums(score, correct)
    return float(np.abs(score_sum - right).sum() / len(score))


def _bin_sums(score: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each bin the detections, the sum of their scores, and the correct ones."""
    edges = np.arange(1, NUM_BINS) / NUM_BINS  # quotients, so that a score of .3 is in the bin that starts with .3
    index = np.searchsorted(edges, score, side="right")
    count = np.bincount(index, minlength=NUM_BINS)
    return count, np.bincount(index, score, NUM_BINS), np.bincount(index[correct], minlength=NUM_BINS)
