"""Report section that compares runs: differences with confidence intervals, classes and curves."""

from __future__ import annotations

from collections.abc import Sequence

from cspdet.analysis.structures import Analysis, Comparison, Difference
from cspdet.reports.charts import LINE_STYLES, LineSeries, curve_points, interval_chart, line_chart
from cspdet.reports.components import Block, Chart, Charts, Column, LegendEntry, Messages, ReportSection, Table

COMPARED_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")


def comparison_section(analyses: Sequence[Analysis], comparison: Comparison) -> ReportSection:
    """Build the section that compares each other run with the first run."""
    differences = [(one.other, metric) for one in comparison.against_first for metric in (one.AP, one.AP50)]
    significant = [_verdict(other, metric) for other, metric in differences if metric.significant]
    open_ = [_verdict(other, metric) for other, metric in differences if not metric.significant]
    blocks: list[Block] = [_metrics_table(analyses)]
    blocks += [Messages("good", tuple(significant))] if significant else []
    blocks += [Messages("note", tuple(open_))] if open_ else []
    blocks += [_differences_table(comparison), _charts(analyses, comparison), _class_table(comparison)]
    lead = (
        f"Differences are relative to the first run, {comparison.runs[0]}, with intervals from a paired bootstrap: "
        f"{comparison.resamples} resamples of the images, the same for both runs."
    )
    return ReportSection("comparison", "Comparison", lead, tuple(blocks))


def _verdict(other: str, metric: Difference) -> str:
    if metric.difference is None or metric.low is None or metric.high is None or metric.p_value is None:
        return f"{other}, {metric.metric}: {metric.verdict}."
    interval = f"95% interval {metric.low:+.3f} to {metric.high:+.3f}, p = {metric.p_value:.3f}"
    return f"{other}, {metric.metric} {metric.difference:+.3f}: {metric.verdict} ({interval})."


def _metrics_table(analyses: Sequence[Analysis]) -> Table:
    columns = (
        Column("run"),
        *(Column(name, 3, True, 1.0) for name in COMPARED_METRICS),
        Column("best F1", 3, True, 1.0),
        Column("at score", 3, True),
        Column("detections", None, True),
    )
    rows = tuple(
        (
            *(one.name, *(one.stats.get(name) for name in COMPARED_METRICS)),
            *(one.thresholds.best_f1_point.f1, one.thresholds.best_f1_point.threshold, one.detections),
        )
        for one in analyses
    )
    return Table("Runs", columns, rows)


def _differences_table(comparison: Comparison) -> Table:
    columns = (
        Column("run"),
        Column("metric"),
        Column("first", 3, True),
        Column("this", 3, True),
        Column("difference", 3, True, signed=True),
        Column("mean of resamples", 3, True, signed=True),
        Column("from", 3, True, signed=True, tooltip="low end of the 95% interval"),
        Column("to", 3, True, signed=True, tooltip="high end of the 95% interval"),
        Column("p", 3, True, tooltip="two-sided p value of the paired bootstrap over images"),
    )
    rows = tuple(
        (one.other, n.metric, n.first, n.other, n.difference, n.mean, n.low, n.high, n.p_value)
        for one in comparison.against_first
        for n in (one.AP, one.AP50)
    )
    return Table("Differences", columns, rows)


def _charts(analyses: Sequence[Analysis], comparison: Comparison) -> Charts:
    drawn = analyses[:LINE_STYLES]
    legend = tuple(LegendEntry(f"line{i}", one.name) for i, one in enumerate(drawn))
    recall = [
        LineSeries(one.name, curve_points(one.precision_recall[0].recall, one.precision_recall[0].mean), f"line{i}")
        for i, one in enumerate(drawn)
    ]
    f1 = [
        LineSeries(one.name, curve_points(one.thresholds.threshold, one.thresholds.f1), f"line{i}")
        for i, one in enumerate(drawn)
    ]
    iou = analyses[0].precision_recall[0].iou
    note = "" if len(drawn) == len(analyses) else f"The first {len(drawn)} of {len(analyses)} runs."
    charts = [
        Chart(f"Mean precision and recall at IoU {iou:g}", line_chart(recall, "recall", "precision"), legend, note),
        Chart("F1 by score threshold", line_chart(f1, "score threshold", "F1"), legend, note),
    ]
    return Charts((*_interval_charts(comparison), *charts))


def _interval_charts(comparison: Comparison) -> list[Chart]:
    """Create the chart of the differences with their intervals; return an empty list if there are no intervals."""
    intervals = [
        (f"{one.other}, {n.metric}", n.difference, n.low, n.high, n.significant)
        for one in comparison.against_first
        for n in (one.AP, one.AP50)
        if n.difference is not None and n.low is not None and n.high is not None
    ]
    if not intervals:
        return []
    svg = interval_chart(intervals, "difference to the first run")
    text = "Lines are 95% intervals; a difference is significant if its interval does not contain 0."
    return [Chart("Differences with intervals", svg, (LegendEntry("fill0", "difference"),), text)]


def _class_table(comparison: Comparison) -> Table:
    one_run = len(comparison.against_first) == 1
    rows = [
        (one.other, c.name, c.num_gt, c.first_AP, c.other_AP, c.difference, c.low, c.high, c.AP50_difference)
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
        Column("from", 3, True, signed=True, tooltip="low end of the 95% interval"),
        Column("to", 3, True, signed=True, tooltip="high end of the 95% interval"),
        Column("AP50 difference", 3, True, signed=True),
    )
    if one_run:
        return Table("Differences by class", columns[1:], tuple(row[1:] for row in rows))
    return Table("Differences by class", columns, tuple(rows))
