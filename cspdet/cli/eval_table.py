"""The tables of `cspdet eval` for a detector: the 12 metrics of COCO, and the metrics of each class."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cspdet.io.names import count
from cspdet.io.tables import Table

if TYPE_CHECKING:
    from cspdet.evaluation.voc import VocMetrics
    from cspdet.workflows.evaluate import DetectionEvaluation

MAX_LISTED_CLASSES = 100  # with more classes, only those with the lowest AP are listed
NUM_WORST_CLASSES = 20
METRIC_DESCRIPTIONS = {
    "AP": "average precision, IoU .50 to .95",
    "AP50": "at IoU .50",
    "AP75": "at IoU .75",
    "APs": "small objects, below 32x32 pixels",
    "APm": "medium objects, below 96x96",
    "APl": "large objects",
    "AR1": "average recall, 1 detection per image and class",
    "AR10": "10 detections",
    "AR100": "100 detections",
    "ARs": "100, small objects",
    "ARm": "100, medium objects",
    "ARl": "100, large objects",
}


def format_metrics(evaluation: DetectionEvaluation, voc: VocMetrics | None = None) -> list[str | Table]:
    """Return the lines and tables that `eval` prints. If `voc` is given, they include the AP of Pascal VOC."""
    metrics = evaluation.metrics
    lines: list[str | Table] = [
        f"{count(metrics.images, 'image')}, {count(metrics.detections, 'detection')}, {metrics.evaluator}",
        "",
        *(f"{name:<6} {_format(metrics[name]):>6}  {meaning}" for name, meaning in METRIC_DESCRIPTIONS.items()),
        "",
        *_class_lines(evaluation),
    ]
    return lines if voc is None else [*lines, "", *_voc_lines(voc)]


def _class_lines(evaluation: DetectionEvaluation) -> list[str | Table]:
    """Return the table of the classes, highest AP first, and the notes below the table."""
    from cspdet.analysis.class_metrics import metrics_at_best_f1

    metrics = evaluation.metrics
    point, classes = metrics_at_best_f1(evaluation.dataset, evaluation.results)
    ranked = sorted(classes, key=lambda one: -1.0 if one.AP is None else one.AP, reverse=True)
    rows = [
        [one.name, f"{one.images:,}", f"{one.num_gt:,}",
         *(_format(value, 3) for value in (one.at_threshold.precision, one.at_threshold.recall, one.at_threshold.f1)),
         _format(metrics.per_class[one.name]["AP50"]), _format(one.AP75), _format(metrics.per_class[one.name]["AP"])]
        for one in ranked
    ]  # fmt: skip
    everything = [
        "all", f"{metrics.images:,}", f"{sum(one.num_gt for one in classes):,}",
        *(_format(value, 3) for value in (point.precision, point.recall, point.f1)),
        *(_format(metrics[name]) for name in ("AP50", "AP75", "AP")),
    ]  # fmt: skip
    notes = []
    if len(rows) > MAX_LISTED_CLASSES:
        with_boxes = [row for row, one in zip(rows, ranked, strict=True) if one.num_gt]
        rows = with_boxes[-NUM_WORST_CLASSES:]
        notes.append(f"the {count(len(rows), 'class')} with the lowest AP, of {len(classes):,}; metrics.json has all")
    notes.append(f"P, R, F1: precision, recall and F1 at IoU 0.5 and a score of at least {point.threshold:.3f}, which")
    notes[-1] += " gives the best F1 of all classes together" if point.correct else " no correct detection has"
    return [Table(("class", "images", "instances", "P", "R", "F1", "AP50", "AP75", "AP"), [*rows, everything]), *notes]


def _voc_lines(voc: VocMetrics) -> list[str | Table]:
    eleven, every = voc.mean or (None, None)
    rows = [[name, *(_format(value) for value in ap or (None, None))] for name, ap in voc.per_class.items()]
    return [
        f"VOC AP at IoU {voc.min_iou:g}",
        Table(("class", "11-point", "every-point"), [*rows, ["all", _format(eleven), _format(every)]]),
    ]


def _format(value: float | None, digits: int = 4) -> str:
    return "--" if value is None else f"{value:.{digits}f}"
