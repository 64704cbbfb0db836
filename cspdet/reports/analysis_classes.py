"""Report sections about classes: metrics, curves and confusion."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cspdet.analysis.findings import ConfusedPair
from cspdet.analysis.metrics import PrecisionRecall
from cspdet.analysis.structures import Analysis
from cspdet.analysis.summary import ap_name
from cspdet.reports.charts import LineSeries, curve_points, line_chart
from cspdet.reports.components import Chart, Charts, Column, LegendEntry, Matrix, ReportSection, Table

NUM_EXTREME_CLASSES = 2  # number of classes with the lowest and with the highest AP in a chart
MAX_CLASSES_DRAWN = 5  # a chart shows all classes up to this number
MAX_MATRIX_CLASSES = 20  # in a confusion matrix
BACKGROUND = "background"
CLASS_COLUMNS = (
    Column("class"),
    Column("boxes", None, True, tooltip="annotated, without crowds"),
    Column("images", None, True, tooltip="with at least one box of the class"),
    Column("detections", None, True, tooltip="of any score"),
    Column("AP", 3, True, 1.0, tooltip="mean over IoU .50 to .95"),
    Column("AP50", 3, True, 1.0),
    Column("AP75", 3, True, 1.0),
    Column("AR100", 3, True, 1.0, tooltip="recall, mean over IoU .50 to .95"),
    Column("best F1", 3, True, 1.0, tooltip="at the best score threshold of this class"),
    Column("at score", 3, True, tooltip="score threshold with the best F1 of this class"),
    Column("ECE", 3, True, tooltip="expected calibration error"),
)


def classes_section(analysis: Analysis) -> ReportSection:
    """Build the section with a table of metrics, one row per class."""
    rows = tuple(
        (
            *(one.name, one.num_gt, one.images, one.detections, one.AP, one.AP50, one.AP75, one.AR100),
            *(one.best_f1_point.f1, one.best_f1_point.threshold, one.ece),
        )
        for one in sorted(analysis.classes, key=lambda one: (one.AP is None, one.AP or 0.0))
    )
    table = Table("Classes", CLASS_COLUMNS, rows)
    return ReportSection("classes", "Classes", "Sorted by AP, lowest first.", (table,))


def curves_section(analysis: Analysis) -> ReportSection:
    """Build the section with precision-recall curves, and with precision, recall and F1 by score threshold."""
    drawn = _extremes(analysis)
    charts = [_precision_recall(analysis, curve, drawn) for curve in analysis.precision_recall]
    charts += [_all_thresholds(analysis), _class_thresholds(analysis, drawn)]
    lead = "The area under the curve of a class is its AP50 or AP75. curves.csv and thresholds.csv have all points."
    table = _curve_table(analysis.precision_recall)
    return ReportSection("curves", "Curves", lead, (Charts(tuple(charts)), table))


def _extremes(analysis: Analysis) -> list[int]:
    """Return the indices of the classes whose curves are visible by default.

    With more than MAX_CLASSES_DRAWN classes, these are the classes with the lowest and the highest AP50.
    """
    measured = [i for i, one in enumerate(analysis.classes) if one.AP50 is not None]
    if len(measured) <= MAX_CLASSES_DRAWN:
        return measured
    ranked = sorted(measured, key=lambda i: analysis.classes[i].AP50 or 0.0)
    return ranked[:NUM_EXTREME_CLASSES] + ranked[-NUM_EXTREME_CLASSES:]


def _class_curves(
    analysis: Analysis, x: np.ndarray, values: np.ndarray, drawn: list[int], metrics: list[float | None]
) -> tuple[list[LineSeries], list[LegendEntry], tuple[str, ...]]:
    """Create one curve per class from the (K,) positions `x` and the (C, K) `values`.

    The curves of the `drawn` classes have different line styles and legend entries. The curves of the other classes are
    hidden until the reader selects them.

    Returns:
        The curves, the legend entries of the drawn classes, and the labels of the hidden classes.
    """
    names = analysis.class_names
    labels = [name if metric is None else f"{name} {metric:.3f}" for name, metric in zip(names, metrics, strict=True)]
    curves = [LineSeries(labels[i], curve_points(x, values[i]), f"line{1 + k}") for k, i in enumerate(drawn)]
    entries = [LegendEntry(f"line{1 + k}", labels[i]) for k, i in enumerate(drawn)]
    others = sorted(
        (i for i, metric in enumerate(metrics) if i not in drawn and metric is not None), key=lambda i: names[i]
    )
    curves += [LineSeries(labels[i], curve_points(x, values[i]), "line-choice", choice=k) for k, i in enumerate(others)]
    return curves, entries, tuple(labels[i] for i in others)


def _precision_recall(analysis: Analysis, curve: PrecisionRecall, drawn: list[int]) -> Chart:
    measured = ~np.isnan(curve.per_class).all(axis=1)
    metrics = [float(row.mean()) if known else None for row, known in zip(curve.per_class, measured, strict=True)]
    curves, entries, choices = _class_curves(analysis, curve.recall, curve.per_class, drawn, metrics)
    if not measured.any():
        return Chart(
            f"Precision and recall at IoU {curve.iou:g}", line_chart([], "recall", "precision"), note="no ground truth"
        )
    name, metric = f"all classes {curve.mean.mean():.3f}", ap_name(curve.iou)
    svg = line_chart(
        [*curves, LineSeries(name, curve_points(curve.recall, curve.mean), "line0")], "recall", "precision"
    )
    title = f"Precision and recall at IoU {curve.iou:g}"
    legend = (LegendEntry("line0", name), *entries)
    return Chart(title, svg, legend, f"The number after each name is its {metric}.", choices)


def _all_thresholds(analysis: Analysis) -> Chart:
    thresholds = analysis.thresholds
    lines = (
        ("F1", thresholds.f1, "line0"),
        ("precision", thresholds.precision, "line1"),
        ("recall", thresholds.recall, "line2"),
    )
    curves = [LineSeries(name, curve_points(thresholds.threshold, values), style) for name, values, style in lines]
    best = thresholds.best_f1_point
    if best.f1 is not None:
        curves.append(LineSeries("best F1", [(best.threshold, 0.0), (best.threshold, best.f1)], "line-guide"))
    legend = tuple(LegendEntry(style, name) for name, _, style in lines)
    note = "" if best.f1 is None else f"The best F1 is {best.f1:.3f}, at a score threshold of {best.threshold:.3f}."
    svg = line_chart(curves, "score threshold", "fraction")
    return Chart("Precision, recall and F1 by score threshold, all classes", svg, legend, note)


def _class_thresholds(analysis: Analysis, drawn: list[int]) -> Chart:
    thresholds = analysis.thresholds
    best = [one.best_f1_point.f1 if one.num_gt else None for one in analysis.classes]
    curves, entries, choices = _class_curves(analysis, thresholds.threshold, thresholds.class_f1, drawn, best)
    curves.append(LineSeries("all classes", curve_points(thresholds.threshold, thresholds.f1), "line0"))
    svg = line_chart(curves, "score threshold", "F1")
    note = "The number after each name is its best F1. Classes with distant peaks need separate thresholds."
    return Chart("F1 by score threshold, by class", svg, (LegendEntry("line0", "all classes"), *entries), note, choices)


def _curve_table(curves: tuple[PrecisionRecall, ...]) -> Table:
    """Create a table of the mean precision at recall 0, 0.1, ..., 1."""
    precision = (Column(f"precision at IoU {curve.iou:g}", 3, True, 1.0) for curve in curves)
    columns = (Column("recall", 1, True), *precision)
    rows = tuple(
        (k / 10, *(None if np.isnan(curve.mean[10 * k]) else float(curve.mean[10 * k]) for curve in curves))
        for k in range(11)
    )
    return Table("Precision at each tenth of recall, mean over the classes", columns, rows, collapsed=True)


def _confused_pairs_table(pairs: Sequence[ConfusedPair]) -> Table:
    columns = (
        Column("annotated"),
        Column("detected as"),
        Column("boxes", None, True),
        Column("fraction of its boxes", 3, True, 1.0),
    )
    rows = tuple((pair.gt_class, pair.detected_class, pair.count, pair.fraction) for pair in pairs)
    return Table("Most confused pairs", columns, rows)


def confusion_section(analysis: Analysis) -> ReportSection:
    """Build the section with the confusion matrix and the most confused pairs of classes."""
    confusion, num_classes = analysis.confusion, len(analysis.class_names)
    kept = most_confused(confusion.counts, MAX_MATRIX_CLASSES)
    counts = confusion.counts[np.ix_(kept, kept)].tolist()
    chosen = tuple(analysis.class_names[i] for i in kept[:-1])
    caption = "Annotated and detected classes"
    if len(chosen) < num_classes:
        caption += f": the {len(chosen)} most confused of {num_classes} classes; confusion.csv has all"
    totals = tuple(confusion.counts.sum(axis=1)[kept].tolist())
    matrix = Matrix(
        caption, "annotated", "detected", (*chosen, BACKGROUND), (*chosen, "missed"), tuple(map(tuple, counts)), totals
    )
    pairs = (_confused_pairs_table(analysis.confused_pairs),) if analysis.confused_pairs else ()
    lead = (
        f"Every box and every detection with a score of at least {confusion.threshold:.3f} is counted once. They match "
        f"at an IoU of at least {confusion.iou:g}. Colors and percentages are fractions of the row."
    )
    return ReportSection("confusion", "Confusion", lead, (matrix, *pairs))


def most_confused(counts: np.ndarray, max_classes: int) -> list[int]:
    """Return the indices of the most confused classes in ascending order, followed by the index of the background.

    Args:
        counts: (C + 1, C + 1) confusion matrix.
        max_classes: Maximum number of classes without the background.
    """
    among = counts[:-1, :-1].copy()
    np.fill_diagonal(among, 0)
    rank = np.argsort(-(among.sum(axis=0) + among.sum(axis=1)), kind="stable")
    return [*sorted(rank[:max_classes].tolist()), len(counts) - 1]
