"""Report sections about errors: error types and their AP cost, box sizes and crowding, and calibration."""

from __future__ import annotations

from collections.abc import Sequence

from cspdet.analysis.findings import ErrorCost, Errors
from cspdet.analysis.structures import Analysis
from cspdet.analysis.summary import ap_name
from cspdet.reports.charts import HistogramSeries, LineSeries, bar_chart, histogram, line_chart
from cspdet.reports.components import Block, Chart, Charts, Column, LegendEntry, Paragraph, ReportSection, Table

# Description of each error type, and advice.
ERROR_TYPE_ADVICE = {
    "classification": (
        "correct position, wrong class",
        "See the most confused pairs: merge classes that annotators confuse too, or add images of both classes.",
    ),
    "localization": (
        "correct class, but the IoU is too low",
        "Check how tight the annotated boxes are; then try a larger input, better anchors, or longer training.",
    ),
    "both": (
        "wrong class, and the IoU is too low",
        "These usually decrease together with classification and localization errors.",
    ),
    "duplicate": (
        "another detection of a box that is already matched",
        "Lower --nms-iou in eval and detect; this loses boxes in crowds.",
    ),
    "background": (
        "no annotated box overlaps",
        "See the possible label issues: the annotation may be missing. Otherwise train longer, or add images without "
        "objects. A score threshold hides them from users, but AP counts detections of any score.",
    ),
    "missed": (
        "boxes without any detection on them",
        "See which sizes and classes: a larger input for small boxes, more images for rare classes; check that the "
        "boxes are correct.",
    ),
}


def errors_section(analysis: Analysis) -> ReportSection:
    """Build the section with the AP cost of each error type, and with advice on how to reduce the errors."""
    errors, metric = analysis.errors, ap_name(analysis.errors.iou)
    ranked = sorted(errors.costs, key=lambda cost: -(cost.ap_cost or 0.0))
    bars = [(cost.error_type, cost.ap_cost, _tooltip(cost)) for cost in ranked if cost.ap_cost is not None]
    blocks: list[Block] = [Paragraph(_summary(errors, ranked))]
    if bars:
        svg, note = bar_chart(bars, f"cost in {metric}"), f"{metric} is {_format_fraction(errors.ap)}."
        blocks.append(Charts((Chart(f"{metric} cost of each error type", svg, note=note),)))
    blocks += [_error_types_table(ranked, metric), _totals_table(errors, metric)]
    return ReportSection("errors", "Errors", "", tuple(blocks))


def _error_types_table(costs: Sequence[ErrorCost], metric: str) -> Table:
    max_cost = max((abs(cost.ap_cost) for cost in costs if cost.ap_cost is not None), default=0.0)
    columns = (
        Column("type"),
        Column(f"{metric} cost", 3, True, max_cost, tooltip=f"{metric} with this type fixed, minus {metric}"),
        Column("count", None, True, tooltip="among all evaluated detections of any score"),
        Column("description", prose=True),
        Column("advice", prose=True),
    )
    rows = tuple((cost.error_type, cost.ap_cost, cost.count, *ERROR_TYPE_ADVICE[cost.error_type]) for cost in costs)
    return Table("Error types, detections of any score", columns, rows)


def _summary(errors: Errors, ranked: list[ErrorCost]) -> str:
    """Return a sentence about the error type with the highest AP cost."""
    cost, metric = ranked[0].ap_cost, ap_name(errors.iou)
    if errors.ap is None or cost is None or cost <= 0:
        return f"No error type has a cost in {metric}."
    error_type = ranked[0].error_type
    name = "Missed boxes cost" if error_type == "missed" else f"{error_type.capitalize()} errors cost"
    gain = f"without them, {metric} would be {errors.ap + cost:.3f} instead of {errors.ap:.3f}"
    return f"{name} the most: {gain}. {ERROR_TYPE_ADVICE[error_type][1]}"


def _tooltip(cost: ErrorCost) -> str:
    return f"{cost.error_type}: {cost.count}, cost {_format_fraction(cost.ap_cost)}"


def _totals_table(errors: Errors, metric: str) -> Table:
    """Create a table with the totals of all evaluated detections and all ground-truth boxes."""
    wrong = sum(cost.count for cost in errors.costs if cost.error_type != "missed")
    rows = (
        (
            "evaluated detections",
            errors.evaluated,
            None,
            f"{errors.correct} correct + {wrong} wrong + {errors.ignored} in crowds",
        ),
        ("wrong detections", wrong, errors.false_positive_cost, f"cost: {metric} without any of them, minus {metric}"),
        ("annotated boxes", errors.num_gt, None, f"{errors.detected} detected + {errors.missed} undetected"),
        (
            "undetected boxes",
            errors.missed,
            errors.false_negative_cost,
            f"{errors.missed_entirely} of them without any detection on them",
        ),
    )
    cost = Column(f"{metric} cost", 3, True)
    columns = (Column("total"), Column("count", None, True), cost, Column("parts", prose=True))
    return Table("Totals", columns, rows, collapsed=True)


def groups_section(analysis: Analysis) -> ReportSection:
    """Build the section with metrics by box size, by number of boxes per image, and by overlap between boxes."""
    parts = analysis.breakdown
    sizes = tuple(
        (one.name, _format_side_range(one.low, one.high), one.num_gt, one.AP, one.AP50, one.AR100)
        for one in (*parts.sizes, *parts.quartiles)
    )
    images = tuple(
        (one.name, _format_count_range(one.low, one.high), one.images, one.num_gt, one.AP, one.AP50, one.AR100)
        for one in parts.image_groups
    )
    overlap = tuple((one.name, one.num_gt, one.recall, one.AR100) for one in parts.overlap_groups)
    scores = tuple(Column(name, 3, True, 1.0) for name in ("AP", "AP50", "AR100"))
    count = Column("boxes", None, True)
    tables = (
        Table(
            "By size",
            (Column("size"), Column("side, pixels", tooltip="square root of the area"), count, *scores),
            sizes,
        ),
        Table(
            "By boxes per image",
            (Column("group"), Column("boxes per image"), Column("images", None, True), count, *scores),
            images,
        ),
        Table(
            "By overlap between boxes",
            (Column("boxes"), count, Column(f"recall at {analysis.iou:g}", 3, True, 1.0), scores[2]),
            overlap,
        ),
    )
    bars = (
        ("AP by box size", [(row[0], row[3], f"{row[1]} pixels: {row[2]} boxes") for row in sizes]),
        ("AP by boxes per image", [(f"{row[0]}, {row[1]}", row[4], f"{row[2]} images") for row in images]),
    )
    charts = []
    for title, rows in bars:
        measured = [(name, value, tooltip) for name, value, tooltip in rows if value is not None]
        if measured:
            charts.append(Chart(title, bar_chart(measured, "AP")))
    lead = "Metrics of groups of boxes and of images."
    return ReportSection("groups", "Sizes and crowding", lead, (Charts(tuple(charts)), *tables))


def calibration_section(analysis: Analysis) -> ReportSection:
    """Build the section about the calibration of the scores: reliability diagram, score distribution and table."""
    calibration = analysis.calibration
    filled = [one for one in calibration.bins if one.mean_score is not None and one.accuracy is not None]
    if not filled:
        return ReportSection("calibration", "Calibration", "There are no detections to calibrate.", ())
    points = [
        (one.mean_score, one.accuracy) for one in filled if one.mean_score is not None and one.accuracy is not None
    ]
    diagram = line_chart(
        [
            LineSeries("perfect calibration", [(0.0, 0.0), (1.0, 1.0)], "line-guide"),
            LineSeries("this run", points, "line0", has_dots=True),
        ],
        "mean score",
        "fraction correct",
    )
    edges = [one.low for one in calibration.bins] + [calibration.bins[-1].high]
    counts = histogram(
        [HistogramSeries("detections", edges, [one.count for one in calibration.bins], 0)], "score", "detections"
    )
    legend = (LegendEntry("line0", "this run"), LegendEntry("line-guide", "perfect calibration"))
    columns = (
        Column("scores"),
        Column("detections", None, True),
        Column("mean score", 3, True, 1.0),
        Column("fraction correct", 3, True, 1.0),
    )
    rows = tuple(
        (f"{one.low:.1f} to {one.high:.1f}", one.count, one.mean_score, one.accuracy) for one in calibration.bins
    )
    return ReportSection(
        "calibration",
        "Calibration",
        _calibration_lead(analysis),
        (
            Charts((Chart("Calibration", diagram, legend), Chart("Distribution of scores", counts))),
            Table("Calibration", columns, rows),
        ),
    )


def _calibration_lead(analysis: Analysis) -> str:
    calibration = analysis.calibration
    ece, kept_ece = _format_fraction(calibration.ece), _format_fraction(calibration.kept_ece)
    return (
        f"Below the diagonal the scores are overconfident, above it underconfident. The expected calibration error is "
        f"{ece}, and {kept_ece} for detections with a score of at least {analysis.threshold:.3f}. AP does not depend "
        "on calibration; a fixed score threshold does."
    )


def _format_fraction(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3f}"


def _format_count_range(low: int, high: int) -> str:
    return f"{low}" if low == high else f"{low} to {high}"


def _format_side_range(low: float, high: float | None) -> str:
    return f"above {low:.4g}" if high is None else f"below {high:.4g}" if not low else f"{low:.4g} to {high:.4g}"
