"""The classes of a run: their numbers, their curves, and which are taken for which."""

from __future__ import annotations

import numpy as np

from cspdet.analysis.structures import Analysis, PrecisionRecall
from cspdet.reports.charts import LineSeries, curve_points, line_chart
from cspdet.reports.components import Block, Chart, Charts, Column, LegendEntry, ReportSection, Table
from cspdet.reports.heatmaps import matrix_chart

NUM_EXTREME_CLASSES = 2  # classes with the lowest and the highest AP that a chart shows from the start
MAX_CLASSES_DRAWN = 5  # up to so many, a chart shows all of them
MAX_MATRIX_CLASSES = 20  # that a confusion matrix shows
BACKGROUND = "background"


def classes_section(analysis: Analysis) -> ReportSection:
    """A row a class."""
    columns = (
        Column("class"),
        Column("boxes", None, True, tooltip="annotated, without crowds"),
        Column("pictures", None, True, tooltip="with at least one box of the class"),
        Column("detections", None, True, tooltip="of any score"),
        Column("AP", 3, True, 1.0, tooltip="over the overlaps .50 to .95"),
        Column("AP50", 3, True, 1.0),
        Column("AP75", 3, True, 1.0),
        Column("AR100", 3, True, 1.0, tooltip="recall over the overlaps .50 to .95"),
        Column("precision", 3, True, 1.0, tooltip=f"at a score of {analysis.threshold:.3f}"),
        Column("recall", 3, True, 1.0, tooltip=f"at a score of {analysis.threshold:.3f}"),
        Column("F1", 3, True, 1.0, tooltip=f"at a score of {analysis.threshold:.3f}"),
        Column("best F1", 3, True, 1.0, tooltip="at the best threshold of this class"),
        Column("at score", 3, True, tooltip="the threshold with the class's best F1"),
        Column("ECE", 3, True, tooltip="expected calibration error"),
    )
    rows = tuple(
        (
            *(one.name, one.num_gt, one.images, one.detections, one.AP, one.AP50, one.AP75, one.AR100),
            *(one.at_threshold.precision, one.at_threshold.recall, one.at_threshold.f1),
            *(one.best_f1_point.f1, one.best_f1_point.threshold, one.ece),
        )
        for one in sorted(analysis.classes, key=lambda one: (one.AP is None, one.AP or 0.0))
    )
    lead = (
        "The lowest AP first. Precision, recall and F1 without a heading of their own are those at the score threshold "
    )
    return ReportSection("classes", "Classes", f"{lead}{analysis.threshold:.3f}.", (Table("Classes", columns, rows),))


def curves_section(analysis: Analysis) -> ReportSection:
    """Precision against recall, and F1 against the score threshold."""
    shown = _extremes(analysis)
    charts = [_precision_recall(analysis, curve, shown) for curve in analysis.precision_recall]
    charts += [_all_thresholds(analysis), _class_thresholds(analysis, shown)]
    lead = (
        "The area under a class's curve is its AP at that overlap. Every point stands in curves.csv and thresholds.csv."
    )
    table = _curve_table(analysis.precision_recall)
    return ReportSection("curves", "Curves", lead, (Charts(tuple(charts)), table))


def _extremes(analysis: Analysis) -> list[int]:
    """The classes that charts show from the start: all when they are few, else the worst and the best."""
    measured = [i for i, one in enumerate(analysis.classes) if one.AP50 is not None]
    if len(measured) <= MAX_CLASSES_DRAWN:
        return measured
    ranked = sorted(measured, key=lambda i: analysis.classes[i].AP50 or 0.0)
    return ranked[:NUM_EXTREME_CLASSES] + ranked[-NUM_EXTREME_CLASSES:]


def _class_curves(
    analysis: Analysis, x: np.ndarray, values: np.ndarray, shown: list[int], metrics: list[float | None]
) -> tuple[list[LineSeries], list[LegendEntry], tuple[str, ...]]:
    """Curves of `values` (C, K): the shown classes in styles of their own, the others to be chosen."""
    names = analysis.class_names
    labels = [name if metric is None else f"{name} {metric:.3f}" for name, metric in zip(names, metrics, strict=True)]
    curves = [LineSeries(labels[i], curve_points(x, values[i]), f"line{1 + k}") for k, i in enumerate(shown)]
    keys = [LegendEntry(f"line{1 + k}", labels[i]) for k, i in enumerate(shown)]
    others = sorted(
        (i for i, metric in enumerate(metrics) if i not in shown and metric is not None), key=lambda i: names[i]
    )
    curves += [LineSeries(labels[i], curve_points(x, values[i]), "line-choice", choice=k) for k, i in enumerate(others)]
    return curves, keys, tuple(labels[i] for i in others)


def _precision_recall(analysis: Analysis, curve: PrecisionRecall, shown: list[int]) -> Chart:
    measured = ~np.isnan(curve.per_class).all(axis=1)
    metrics = [float(row.mean()) if known else None for row, known in zip(curve.per_class, measured, strict=True)]
    curves, keys, choices = _class_curves(analysis, curve.recall, curve.per_class, shown, metrics)
    if not measured.any():
        return Chart(f"Precision and recall at {curve.iou:g}", line_chart([], "recall", "precision"), note="no boxes")
    name = f"all classes {curve.mean.mean():.3f}"
    svg = line_chart(
        [*curves, LineSeries(name, curve_points(curve.recall, curve.mean), "line0")], "recall", "precision"
    )
    title = f"Precision and recall at an overlap of {curve.iou:g}"
    return Chart(title, svg, (LegendEntry("line0", name), *keys), "Beside each name its AP at this overlap.", choices)


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
        curves.append(LineSeries("the best F1", [(best.threshold, 0.0), (best.threshold, best.f1)], "line-guide"))
    keys = tuple(LegendEntry(style, name) for name, _, style in lines)
    note = (
        ""
        if best.f1 is None
        else f"F1 is best, {best.f1:.3f}, when detections below a score of {best.threshold:.3f} are dropped."
    )
    svg = line_chart(curves, "score threshold", "share")
    return Chart("Precision, recall and F1 by score threshold, all classes", svg, keys, note)


def _class_thresholds(analysis: Analysis, shown: list[int]) -> Chart:
    thresholds = analysis.thresholds
    best = [one.best_f1_point.f1 if one.num_gt else None for one in analysis.classes]
    curves, keys, choices = _class_curves(analysis, thresholds.threshold, thresholds.class_f1, shown, best)
    curves.append(LineSeries("all classes", curve_points(thresholds.threshold, thresholds.f1), "line0"))
    svg = line_chart(curves, "score threshold", "F1")
    note = "Beside each name its best F1. Classes whose peaks lie apart want thresholds of their own."
    return Chart("F1 by score threshold, by class", svg, (LegendEntry("line0", "all classes"), *keys), note, choices)


def _curve_table(curves: tuple[PrecisionRecall, ...]) -> Table:
    """The mean curves at every tenth of recall."""
    columns = (Column("recall", 1, True), *(Column(f"precision at {curve.iou:g}", 3, True, 1.0) for curve in curves))
    rows = tuple(
        (k / 10, *(None if np.isnan(curve.mean[10 * k]) else float(curve.mean[10 * k]) for curve in curves))
        for k in range(11)
    )
    return Table("Precision at each tenth of recall, mean over the classes", columns, rows, collapsed=True)


def confusion_section(analysis: Analysis) -> ReportSection:
    """Who is taken for whom."""
    confusion, names = analysis.confusion, (*analysis.class_names, BACKGROUND)
    kept = most_confused(confusion.counts, MAX_MATRIX_CLASSES)
    counts = confusion.counts[np.ix_(kept, kept)].tolist()
    chosen = [names[i] for i in kept]
    rows = [*chosen[:-1], "nothing there"]
    totals = confusion.counts.sum(axis=1)[kept].tolist()
    svg = matrix_chart(rows, counts, totals, "annotated", "detected", columns=[*chosen[:-1], "missed"])
    note = "Colors show the share of each row."
    if len(kept) < len(names):
        note += f" The {len(kept) - 1} most confused of {len(names) - 1} classes; confusion.csv has all."
    blocks: list[Block] = [
        Charts((Chart("Annotated against detected", svg, (LegendEntry("heat", "all of the row"),), note, wide=True),))
    ]
    if analysis.confused_pairs:
        max_fraction = max(pair.fraction for pair in analysis.confused_pairs)
        columns = (
            Column("annotated"),
            Column("detected as"),
            Column("boxes", None, True),
            Column("share of its boxes", 3, True, max_fraction),
        )
        pairs = tuple(
            (pair.gt_class, pair.detected_class, pair.count, pair.fraction) for pair in analysis.confused_pairs
        )
        blocks.append(Table("Most confused pairs", columns, pairs))
    lead = (
        f"Every box, and every detection with a score of at least {confusion.threshold:.3f}, counts once; they belong "
        f"together from an overlap of {confusion.iou:g} on."
    )
    return ReportSection("confusion", "Confusion", lead, tuple(blocks))


def most_confused(counts: np.ndarray, max_classes: int) -> list[int]:
    """The `most` classes with the most confusions among (C + 1, C + 1) counts, in their order, and the background."""
    among = counts[:-1, :-1].copy()
    np.fill_diagonal(among, 0)
    rank = np.argsort(-(among.sum(axis=0) + among.sum(axis=1)), kind="stable")
    return [*sorted(rank[:max_classes].tolist()), len(counts) - 1]
