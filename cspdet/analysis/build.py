"""Analysis of a run: computes all parts of an `Analysis`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cspdet.analysis.average_precision import RECALL_THRESHOLDS
from cspdet.analysis.breakdown import compute_breakdown
from cspdet.analysis.calibration import calibrate
from cspdet.analysis.class_metrics import AP50_INDEX, AP75_INDEX, class_metrics
from cspdet.analysis.config import AnalysisConfig
from cspdet.analysis.confusion import confused_pairs, confusion_matrix
from cspdet.analysis.error_types import classify_errors, measure_errors
from cspdet.analysis.label_issues import find_label_issues
from cspdet.analysis.matched_run import ClassScores, MatchedRun, match_results
from cspdet.analysis.matching import IOU_THRESHOLDS
from cspdet.analysis.metrics import PrecisionRecall
from cspdet.analysis.structures import Analysis
from cspdet.analysis.threshold_counts import count_by_threshold
from cspdet.analysis.thresholds import operating_point_at, threshold_curves
from cspdet.analysis.worst import worst_images
from cspdet.datasets.formats.coco import CocoDataset
from cspdet.evaluation.coco import Metrics, evaluate_results
from cspdet.evaluation.records import Records, Result


def analyze_results(
    coco: CocoDataset,
    results: Sequence[Result] | Records,
    *,
    name: str,
    source: str = "",
    iou: float = 0.5,
    min_score: float | None = None,
    gallery: int = AnalysisConfig.gallery,
) -> Analysis:
    """Evaluate and analyze the detections of a run on the split `coco`.

    Args:
        results: Detections in COCO's results format, checked by `evaluation.results.read_results`.
        name, source: Name of the run, and path of its results file, for the report.
        iou: IoU threshold at which a detection matches a box.
        min_score: Score threshold of kept detections; None: the threshold with the highest F1.
        gallery: Maximum number of worst images.

    Raises:
        DataError: The annotation file is missing or has changed since the split was loaded.
    """
    metrics, run = evaluate_results(coco, results), match_results(coco, results, iou=iou)
    return analyze(run, metrics, name=name, source=source, min_score=min_score, gallery=gallery)


def analyze(
    run: MatchedRun, metrics: Metrics, *, name: str, source: str, min_score: float | None, gallery: int
) -> Analysis:
    """Analyze a run whose detections are already matched with the boxes.

    Args:
        run: The run with its matches.
        metrics: COCO metrics of the same detections.
        name: Name of the run.
        source: Path of the results file.
        min_score: Score threshold of kept detections; None: the threshold with the highest F1.
        gallery: Maximum number of worst images.
    """
    scores = ClassScores(run, run.matches, run.num_gt, None)
    curves = threshold_curves(run)
    threshold = curves.best_f1_point.threshold if min_score is None else min_score
    counted = ~run.match.ignored
    score, correct = run.detections.score[counted], run.match.correct[counted]
    error_types = classify_errors(run)
    confusion = confusion_matrix(run, threshold)
    return Analysis(
        name=name,
        source=source,
        evaluator=metrics.evaluator,
        images=len(run.coco),
        num_gt=int(run.num_gt.sum()),
        crowds=int(run.ground_truth.crowd.sum()),
        detections=metrics.detections,
        stats=dict(metrics.stats),
        iou=run.iou,
        threshold=threshold,
        threshold_is_best=min_score is None,
        at_threshold=operating_point_at(threshold, score, correct, int(run.num_gt.sum())),
        classes=class_metrics(run, scores, threshold),
        precision_recall=tuple(_precision_recall(scores, index) for index in (AP50_INDEX, AP75_INDEX)),
        thresholds=curves,
        threshold_counts=count_by_threshold(
            run, error_types, np.append(curves.threshold, [threshold, curves.best_f1_point.threshold])
        ),
        confusion=confusion,
        confused_pairs=confused_pairs(run, confusion),
        errors=measure_errors(run, error_types, threshold),
        breakdown=compute_breakdown(run),
        calibration=calibrate(run, threshold),
        label_issues=find_label_issues(run, threshold),
        worst_images=worst_images(run, error_types, threshold, gallery),
    )


def _precision_recall(scores: ClassScores, index: int) -> PrecisionRecall:
    per_class = scores.precision[index]
    known = per_class[~np.isnan(per_class[:, 0])]
    mean = known.mean(axis=0) if len(known) else np.full(len(RECALL_THRESHOLDS), np.nan)
    return PrecisionRecall(round(float(IOU_THRESHOLDS[index]), 2), RECALL_THRESHOLDS.copy(), per_class, mean)
