"""All parts of an analysis put together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cspdet.analysis.arrays import first_of_equals
from cspdet.analysis.average_precision import RECALLS
from cspdet.analysis.breakdown import break_down
from cspdet.analysis.calibration import calibrate, calibration_error
from cspdet.analysis.confusion import confused_pairs, confusion_matrix
from cspdet.analysis.error_types import kinds_of, measure_errors
from cspdet.analysis.label_issues import find_suspects
from cspdet.analysis.matched_run import ClassScores, Judged, judge
from cspdet.analysis.matching import IOUS
from cspdet.analysis.structures import Analysis, ClassNumbers, PrecisionRecall
from cspdet.analysis.thresholds import best_operating, operating_at, threshold_curves
from cspdet.analysis.worst import worst_pictures
from cspdet.datasets.formats.coco import CocoSet
from cspdet.evaluation.coco import Metrics, evaluate_results
from cspdet.evaluation.records import Records, Result

AP50_INDEX, AP75_INDEX = 0, 5  # in IOUS
GALLERY = 24  # pictures


def analyze_results(
    coco: CocoSet,
    results: Sequence[Result] | Records,
    *,
    name: str,
    source: str = "",
    iou: float = 0.5,
    min_score: float | None = None,
    gallery: int = GALLERY,
) -> Analysis:
    """Judge and analyze results that `evaluation.results.read_results` has checked; arguments as of `analyze`."""
    metrics = evaluate_results(coco, results)
    return analyze(
        judge(coco, results, iou=iou), metrics, name=name, source=source, min_score=min_score, gallery=gallery
    )


def analyze(
    judged: Judged, metrics: Metrics, *, name: str, source: str, min_score: float | None, gallery: int
) -> Analysis:
    """Everything about a run.

    Args:
        judged: its detections, matched with the boxes.
        metrics: the evaluator's judgment of the same detections.
        name: of the run.
        source: the results file.
        min_score: detections from here on are kept in all that looks at kept ones; None: the best F1's threshold.
        gallery: the most pictures to list as worst.
    """
    scores = ClassScores(judged, judged.matches, judged.positives, None)
    curves = threshold_curves(judged)
    threshold = curves.best.threshold if min_score is None else min_score
    counted = ~judged.match.ignored
    score, correct = judged.found.score[counted], judged.match.correct[counted]
    kinds = kinds_of(judged)
    confusion = confusion_matrix(judged, threshold)
    return Analysis(
        name=name,
        source=source,
        evaluator=metrics.evaluator,
        images=len(judged.coco),
        truths=int(judged.positives.sum()),
        crowds=int(judged.truth.crowd.sum()),
        detections=metrics.detections,
        numbers=dict(metrics.numbers),
        iou=judged.iou,
        threshold=threshold,
        threshold_is_best=min_score is None,
        at_threshold=operating_at(threshold, score, correct, int(judged.positives.sum())),
        classes=_class_numbers(judged, scores, threshold),
        precision_recall=tuple(_precision_recall(scores, index) for index in (AP50_INDEX, AP75_INDEX)),
        thresholds=curves,
        confusion=confusion,
        confused=confused_pairs(judged, confusion),
        errors=measure_errors(judged, kinds, threshold),
        breakdown=break_down(judged),
        calibration=calibrate(judged, threshold),
        suspects=find_suspects(judged, threshold),
        worst=worst_pictures(judged, kinds, threshold, gallery),
    )


def _precision_recall(scores: ClassScores, index: int) -> PrecisionRecall:
    per_class = scores.precision[index]
    known = per_class[~np.isnan(per_class[:, 0])]
    mean = known.mean(axis=0) if len(known) else np.full(len(RECALLS), np.nan)
    return PrecisionRecall(round(float(IOUS[index]), 2), RECALLS.copy(), per_class, mean)


def _class_numbers(judged: Judged, scores: ClassScores, threshold: float) -> tuple[ClassNumbers, ...]:
    found, truth, match = judged.found, judged.truth, judged.match
    positives, crowds = judged.positives, judged.count_truths(truth.crowd)
    ap, ap50, ap75, ar = scores.AP, scores.AP_at(AP50_INDEX), scores.AP_at(AP75_INDEX), scores.AR
    numbers = []
    for class_id in range(judged.classes):
        own = (found.class_id == class_id) & ~match.ignored
        score, correct, truths = found.score[own], match.correct[own], int(positives[class_id])
        numbers.append(
            ClassNumbers(
                name=judged.class_name(class_id),
                truths=truths,
                crowds=int(crowds[class_id]),
                pictures=len(first_of_equals(truth.picture[judged.goals & (truth.class_id == class_id)])),
                detections=int(found.class_total[class_id]),
                AP=_known(ap[class_id]),
                AP50=_known(ap50[class_id]),
                AP75=_known(ap75[class_id]),
                AR100=_known(ar[class_id]),
                best=best_operating(score, correct, truths),
                at_threshold=operating_at(threshold, score, correct, truths),
                ece=calibration_error(score, correct),
            )
        )
    return tuple(numbers)


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
