"""The classes of a run: their numbers, their curves, and which are taken for which."""

from __future__ import annotations

import numpy as np

from cspdet.analysis.structures import Analysis, PrecisionRecall
from cspdet.reports.charts import Curve, curve_points, line_chart
from cspdet.reports.components import Block, Chart, Charts, Column, Key, Section, Table
from cspdet.reports.heatmaps import matrix

EXTREMES = 2  # classes with the lowest and the highest AP that a chart shows from the start
FEW_CLASSES = 5  # up to so many, a chart shows all of them
MATRIX_CLASSES = 20  # that a confusion matrix shows
BACKGROUND = "background"


def classes_section(analysis: Analysis) -> Section:
    """A row a class."""
    columns = (
        Column("class"),
        Column("boxes", None, True, meaning="annotated, without crowds"),
        Column("pictures", None, True, meaning="with at least one box of the class"),
        Column("detections", None, True, meaning="of any score"),
        Column("AP", 3, True, 1.0, meaning="over the overlaps .50 to .95"),
        Column("AP50", 3, True, 1.0),
        Column("AP75", 3, True, 1.0),
        Column("AR100", 3, True, 1.0, meaning="recall over the overlaps .50 to .95"),
        Column("precision", 3, True, 1.0, meaning=f"at a score of {analysis.threshold:.3f}"),
        Column("recall", 3, True, 1.0, meaning=f"at a score of {analysis.threshold:.3f}"),
        Column("F1", 3, True, 1.0, meaning=f"at a score of {analysis.threshold:.3f}"),
        Column("best F1", 3, True, 1.0, meaning="at the best threshold of this class"),
        Column("at score", 3, True, meaning="the threshold with the class's best F1"),
        Column("ECE", 3, True, meaning="expected calibration error"),
    )
    rows = tuple(
        (
            *(one.name, one.truths, one.pictures, one.detections, one.AP, one.AP50, one.AP75, one.AR100),
            *(one.at_threshold.precision, one.at_threshold.recall, one.at_threshold.f1),
            *(one.best.f1, one.best.threshold, one.ece),
        )
        for one in sorted(analysis.classes, key=lambda one: (one.AP is None, one.AP or 0.0))
    )
    lead = (
        "The lowest AP first. Precision, recall and F1 without a heading of their own are those at the score threshold "
    )
    return Section("classes", "Classes", f"{lead}{analysis.threshold:.3f}.", (Table("Classes", columns, rows),))


def curves_section(analysis: Analysis) -> Section:
    """Precision against recall, and F1 against the score threshold."""
    shown = _extremes(analysis)
    charts = [_precision_recall(analysis, curve, shown) for curve in analysis.precision_recall]
    charts += [_all_thresholds(analysis), _class_thresholds(analysis, shown)]
    lead = (
        "The area under a class's curve is its AP at that overlap. Every point stands in curves.csv and thresholds.csv."
    )
    table = _curve_table(analysis.precision_recall)
    return Section("curves", "Curves", lead, (Charts(tuple(charts)), table))


def _extremes(analysis: Analysis) -> list[int]:
    """The classes that charts show from the start: all when they are few, else the worst and the best."""
    measured = [i for i, one in enumerate(analysis.classes) if one.AP50 is not None]
    if len(measured) <= FEW_CLASSES:
        return measured
    ranked = sorted(measured, key=lambda i: analysis.classes[i].AP50 or 0.0)
    return ranked[:EXTREMES] + ranked[-EXTREMES:]


def _class_curves(
    analysis: Analysis, x: np.ndarray, values: np.ndarray, shown: list[int], numbers: list[float | None]
) -> tuple[list[Curve], list[Key], tuple[str, ...]]:
    """Curves of `values` (C, K): the shown classes in styles of their own, the others to be chosen."""
    names = analysis.class_names
    told = [name if number is None else f"{name} {number:.3f}" for name, number in zip(names, numbers, strict=True)]
    curves = [Curve(told[i], curve_points(x, values[i]), f"line{1 + k}") for k, i in enumerate(shown)]
    keys = [Key(f"line{1 + k}", told[i]) for k, i in enumerate(shown)]
    others = sorted(
        (i for i, number in enumerate(numbers) if i not in shown and number is not None), key=lambda i: names[i]
    )
    curves += [Curve(told[i], curve_points(x, values[i]), "line-choice", choice=k) for k, i in enumerate(others)]
    return curves, keys, tuple(told[i] for i in others)


def _precision_recall(analysis: Analysis, curve: PrecisionRecall, shown: list[int]) -> Chart:
    measured = ~np.isnan(curve.per_class).all(axis=1)
    numbers = [float(row.mean()) if known else None for row, known in zip(curve.per_class, measured, strict=True)]
    curves, keys, choices = _class_curves(analysis, curve.recall, curve.per_class, shown, numbers)
    if not measured.any():
        return Chart(f"Precision and recall at {curve.iou:g}", line_chart([], "recall", "precision"), note="no boxes")
    name = f"all classes {curve.mean.mean():.3f}"
    svg = line_chart([*curves, Curve(name, curve_points(curve.recall, curve.mean), "line0")], "recall", "precision")
    title = f"Precision and recall at an overlap of {curve.iou:g}"
    return Chart(title, svg, (Key("line0", name), *keys), "Beside each name its AP at this overlap.", choices)


def _all_thresholds(analysis: Analysis) -> Chart:
    found = analysis.thresholds
    lines = (("F1", found.f1, "line0"), ("precision", found.precision, "line1"), ("recall", found.recall, "line2"))
    curves = [Curve(name, curve_points(found.threshold, values), style) for name, values, style in lines]
    best = found.best
    if best.f1 is not None:
        curves.append(Curve("the best F1", [(best.threshold, 0.0), (best.threshold, best.f1)], "line-guide"))
    keys = tuple(Key(style, name) for name, _, style in lines)
    note = (
        ""
        if best.f1 is None
        else f"F1 is best, {best.f1:.3f}, when detections below a score of {best.threshold:.3f} are dropped."
    )
    svg = line_chart(curves, "score threshold", "share")
    return Chart("Precision, recall and F1 by score threshold, all classes", svg, keys, note)


def _class_thresholds(analysis: Analysis, shown: list[int]) -> Chart:
    found = analysis.thresholds
    best = [one.best.f1 if one.truths else None for one in analysis.classes]
    curves, keys, choices = _class_curves(analysis, found.threshold, found.class_f1, shown, best)
    curves.append(Curve("all classes", curve_points(found.threshold, found.f1), "line0"))
    svg = line_chart(curves, "score threshold", "F1")
    note = "Beside each name its best F1. Classes whose peaks lie apart want thresholds of their own."
    return Chart("F1 by score threshold, by class", svg, (Key("line0", "all classes"), *keys), note, choices)


def _curve_table(curves: tuple[PrecisionRecall, ...]) -> Table:
    """The mean curves at every tenth of recall."""
    columns = (Column("recall", 1, True), *(Column(f"precision at {curve.iou:g}", 3, True, 1.0) for curve in curves))
    rows = tuple(
        (k / 10, *(None if np.isnan(curve.mean[10 * k]) else float(curve.mean[10 * k]) for curve in curves))
        for k in range(11)
    )
    return Table("Precision at each tenth of recall, mean over the classes", columns, rows, folded=True)


def confusion_section(analysis: Analysis) -> Section:
    """Who is taken for whom."""
    found, names = analysis.confusion, (*analysis.class_names, BACKGROUND)
    kept = most_confused(found.counts, MATRIX_CLASSES)
    counts = found.counts[np.ix_(kept, kept)].tolist()
    chosen = [names[i] for i in kept]
    rows = [*chosen[:-1], "nothing there"]
    totals = found.counts.sum(axis=1)[kept].tolist()
    svg = matrix(rows, counts, totals, "annotated", "detected", columns=[*chosen[:-1], "missed"])
    note = "Colors show the share of each row."
    if len(kept) < len(names):
        note += f" The {len(kept) - 1} most confused of {len(names) - 1} classes; confusion.csv has all."
    blocks: list[Block] = [
        Charts((Chart("Annotated against detected", svg, (Key("heat", "all of the row"),), note, wide=True),))
    ]
    if analysis.confused:
        most = max(pair.share for pair in analysis.confused)
        columns = (
            Column("annotated"),
            Column("detected as"),
            Column("boxes", None, True),
            Column("share of its boxes", 3, True, most),
        )
        pairs = tuple((pair.truth, pair.detection, pair.count, pair.share) for pair in analysis.confused)
        blocks.append(Table("Most confused pairs", columns, pairs))
    lead = (
        f"Every box, and every detection with a score of at least {found.threshold:.3f}, counts once; they belong "
        f"together from an overlap of {found.iou:g} on."
    )
    return Section("confusion", "Confusion", lead, tuple(blocks))


def most_confused(counts: np.ndarray, most: int) -> list[int]:
    """The `most` classes with the most confusions among (C + 1, C + 1) counts, in their order, and the background."""
    among = counts[:-1, :-1].copy()
    np.fill_diagonal(among, 0)
    rank = np.argsort(-(among.sum(axis=0) + among.sum(axis=1)), kind="stable")
    return [*sorted(rank[:most].tolist()), len(counts) - 1]
