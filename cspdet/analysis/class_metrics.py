"""Metrics of each class: AP, AR, and precision, recall and F1 at a score threshold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cspdet.analysis.arrays import group_starts
from cspdet.analysis.calibration import calibration_error
from cspdet.analysis.matched_run import ClassScores, MatchedRun, match_results
from cspdet.analysis.metrics import ClassDetectionMetrics, OperatingPoint
from cspdet.analysis.thresholds import best_operating_point, operating_point_at
from cspdet.datasets.formats.coco import CocoDataset
from cspdet.evaluation.records import Records, Result

AP50_INDEX, AP75_INDEX = 0, 5  # in IOU_THRESHOLDS


def metrics_at_best_f1(
    coco: CocoDataset, results: Sequence[Result] | Records
) -> tuple[OperatingPoint, tuple[ClassDetectionMetrics, ...]]:
    """Compute the metrics of each class at the score threshold that has the best F1 for all classes together.

    A detection is correct if its IoU with a box of its class is at least 0.5.

    Args:
        coco: The split with its annotations.
        results: Detections in COCO's results format, checked by `evaluation.results.read_results`.

    Returns:
        The operating point of all classes together, and the metrics of each class at the same score threshold.

    Raises:
        DataError: The annotation file is missing or has changed since the split was loaded.
    """
    run = match_results(coco, results)
    counted = ~run.match.ignored
    point = best_operating_point(run.detections.score[counted], run.match.correct[counted], int(run.num_gt.sum()))
    return point, class_metrics(run, ClassScores(run, run.matches, run.num_gt, None), point.threshold)


def class_metrics(run: MatchedRun, scores: ClassScores, threshold: float) -> tuple[ClassDetectionMetrics, ...]:
    """Return the metrics of each class.

    Args:
        run: The detections, matched with the boxes.
        scores: Precision and recall of each class at the IoU thresholds of COCO.
        threshold: Score threshold of `ClassDetectionMetrics.at_threshold`.
    """
    detections, ground_truth, match = run.detections, run.ground_truth, run.match
    positives, crowds = run.num_gt, run.count_gt_per_class(ground_truth.crowd)
    ap, ap50, ap75, ar = scores.AP, scores.AP_at(AP50_INDEX), scores.AP_at(AP75_INDEX), scores.AR
    metrics = []
    for class_id in range(run.num_classes):
        in_class = (detections.class_id == class_id) & ~match.ignored
        score, correct, num_gt = detections.score[in_class], match.correct[in_class], int(positives[class_id])
        metrics.append(
            ClassDetectionMetrics(
                name=run.class_name(class_id),
                num_gt=num_gt,
                crowds=int(crowds[class_id]),
                images=len(group_starts(ground_truth.image_index[run.is_target & (ground_truth.class_id == class_id)])),
                detections=int(detections.class_total[class_id]),
                AP=_nan_to_none(ap[class_id]),
                AP50=_nan_to_none(ap50[class_id]),
                AP75=_nan_to_none(ap75[class_id]),
                AR100=_nan_to_none(ar[class_id]),
                best_f1_point=best_operating_point(score, correct, num_gt),
                at_threshold=operating_point_at(threshold, score, correct, num_gt),
                ece=calibration_error(score, correct),
            )
        )
    return tuple(metrics)


def _nan_to_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
