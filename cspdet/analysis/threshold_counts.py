"""Count the detections of each error type and class at a series of score thresholds."""

from __future__ import annotations

import numpy as np

from cspdet.analysis.error_types import ErrorTypes
from cspdet.analysis.findings import DETECTION_TYPES
from cspdet.analysis.matched_run import MatchedRun
from cspdet.analysis.metrics import ThresholdCounts


def count_by_threshold(run: MatchedRun, error_types: ErrorTypes, thresholds: np.ndarray) -> ThresholdCounts:
    """Count the evaluated detections whose score is at least each threshold, by error type and class.

    Args:
        run: The matched run.
        error_types: The type of each detection.
        thresholds: (K,) score thresholds; the result has them in ascending order, each once.
    """
    grid = np.unique(thresholds)
    counts = np.zeros((len(DETECTION_TYPES), run.num_classes, len(grid)), np.int64)
    detections, types = run.detections, error_types.detection_type
    reached = np.searchsorted(grid, detections.score, side="right")  # number of thresholds that the score reaches
    np.add.at(counts, (types[reached > 0], detections.class_id[reached > 0], reached[reached > 0] - 1), 1)
    counts = counts[..., ::-1].cumsum(axis=2)[..., ::-1]
    return ThresholdCounts(grid, dict(zip(DETECTION_TYPES, counts, strict=True)), run.num_gt)
