"""Runs side by side: is the difference real, on which classes, and where on the curves."""

from __future__ import annotations

from collections.abc import Sequence

from cspdet.analysis.structures import Analysis, Comparison, Difference
from cspdet.reports.charts import LINE_STYLES, Curve, curve_points, interval_chart, line_chart
from cspdet.reports.components import Block, Chart, Charts, Column, Findings, Key, Section, Table

NUMBERS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")


def comparison_section(analyses: Sequence[Analysis], comparison: Comparison) -> Section:
    """Every further run against the first."""
    differences = [(one.other, number) for one in comparison.against_first for number in (one.AP, one.AP50)]
    real = [_verdict(other, number) for other, number in differences if number.real]
    open_ = [_verdict(other, number) for other, number in differences if not number.real]
    blocks: list[Block] = [_numbers(analyses)]
    blocks += [Findings("good", tuple(real))] if real else []
    blocks += [Findings("note", tuple(open_))] if open_ else []
    blocks += [_differences(comparison), _charts(analyses, comparison), _classes(comparison)]
    lead = (
        f"Differences are to the first run, {comparison.runs[0]}. What chance could do is told by "
        f"{comparison.resamples} resamples of the pictures, the same for both runs."
    )
    return Section("comparison", "Runs side by side", lead, tuple(blocks))


def _verdict(other: str, number: Difference) -> str:
    if number.difference is None or number.low is None or number.high is None or number.p is None:
        return f"{other}, {number.number}: {number.verdict}."
    between = f"95% interval {number.low:+.3f} to {number.high:+.3f}, p = {number.p:.3f}"
    return f"{other}, {number.number} {number.difference:+.3f}: {number.verdict} ({between})."


def _numbers(analyses: Sequence[Analysis]) -> Table:
    columns = (
        Column("run"),
        *(Column(name, 3, True, 1.0) for name in NUMBERS),
        Column("best F1", 3, True, 1.0),
        Column("at score", 3, True),
        Column("detections", None, True),
    )
    rows = tuple(
        (
            *(one.name, *(one.numbers.get(name) for name in NUMBERS)),
            *(one.thresholds.best.f1, one.thresholds.best.threshold, one.detections),
        )
        for one in analyses
    )
    return Table("Runs", columns, rows)


def _differences(comparison: Comparison) -> Table:
    columns = (
        Column("run"),
        Column("number"),
        Column("first", 3, True),
        Column("this", 3, True),
        Column("difference", 3, True, signed=True),
        Column("mean of resamples", 3, True, signed=True),
        Column("from", 3, True, signed=True, meaning="low end of the 95% interval"),
        Column("to", 3, True, signed=True, meaning="high end of the 95% interval"),
        Column("p", 3, True, meaning="how likely so clear a sign is by the choice of pictures alone"),
    )
    rows = tuple(
        (one.other, n.number, n.first, n.other, n.difference, n.mean, n.low, n.high, n.p)
        for one in comparison.against_first
        for n in (one.AP, one.AP50)
    )
    return Table("Differences", columns, rows)


def _charts(analyses: Sequence[Analysis], comparison: Comparison) -> Charts:
    shown = analyses[:LINE_STYLES]
    keys = tuple(Key(f"line{i}", one.name) for i, one in enumerate(shown))
    recall = [
        Curve(one.name, curve_points(one.precision_recall[0].recall, one.precision_recall[0].mean), f"line{i}")
        for i, one in enumerate(shown)
    ]
    f1 = [
        Curve(one.name, curve_points(one.thresholds.threshold, one.thresholds.f1), f"line{i}")
        for i, one in enumerate(shown)
    ]
    iou = analyses[0].precision_recall[0].iou
    note = "" if len(shown) == len(analyses) else f"The first {len(shown)} of {len(analyses)} runs."
    intervals = [
        (f"{one.other}, {n.number}", n.difference, n.low, n.high, n.real)
        for one in comparison.against_first
        for n in (one.AP, one.AP50)
        if n.difference is not None and n.low is not None and n.high is not None
    ]
    charts = [
        Chart(f"Mean precision and recall at {iou:g}", line_chart(recall, "recall", "precision"), keys, note),
        Chart("F1 by score threshold", line_chart(f1, "score threshold", "F1"), keys, note),
    ]
    if intervals:
        svg = interval_chart(intervals, "difference to the first run")
        text = "Lines are 95% intervals; one that leaves out 0 is a difference that is real."
        charts.insert(0, Chart("Differences and what chance could do", svg, (Key("fill0", "difference"),), text))
    return Charts(tuple(charts))


def _classes(comparison: Comparison) -> Table:
    one_run = len(comparison.against_first) == 1
    rows = [
        (one.other, c.name, c.truths, c.first_AP, c.other_AP, c.difference, c.low, c.high, c.AP50_difference)
        for one in comparison.against_first
        for c in sorted(one.classes, key=lambda c: (c.difference is None, c.difference or 0.0))
    ]
    full = max((abs(row[5]) for row in rows if row[5] is not None), default=0.0)
    columns = (
        Column("run"),
        Column("class"),
        Column("boxes", None, True),
        Column("first AP", 3, True),
        Column("this AP", 3, True),
        Column("difference", 3, True, full, signed=True),
        Column("from", 3, True, signed=True, meaning="low end of the 95% interval"),
        Column("to", 3, True, signed=True, meaning="high end of the 95% interval"),
        Column("AP50 difference", 3, True, signed=True),
    )
    if one_run:
        return Table("Differences by class", columns[1:], tuple(row[1:] for row in rows))
    return Table("Differences by class", columns, tuple(rows))
