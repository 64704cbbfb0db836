"""What AP is lost to: kinds of errors, sizes and crowds, and scores that promise too much."""

from __future__ import annotations

from cspdet.analysis.structures import Analysis, ErrorCost, Errors
from cspdet.reports.charts import HistogramSeries, LineSeries, bar_chart, histogram, line_chart
from cspdet.reports.components import Block, Chart, Charts, Column, LegendEntry, Paragraph, ReportSection, Table

# What each kind is, and what usually helps.
ERROR_TYPE_ADVICE = {
    "classification": (
        "in the right place, but of the wrong class",
        "Look at the most confused pairs: merge classes that people confuse too, or add pictures that tell them apart.",
    ),
    "localization": (
        "of the right class, but the box is off",
        "Check how tight the annotated boxes are; then try a larger input, anchors that fit, or longer training.",
    ),
    "both": (
        "the wrong class, and the box is off too",
        "These mostly go away together with classification and localization.",
    ),
    "duplicate": (
        "one more on a box that is already found",
        "Lower --nms-iou in eval and detect; boxes in crowds are what that costs.",
    ),
    "background": (
        "on nothing that is annotated",
        "Look at the suspects below: the annotation may be missing. Else train longer, or add pictures without "
        "objects. A score threshold hides them from users, but AP counts detections of any score.",
    ),
    "missed": (
        "boxes that nothing lies on",
        "See which sizes and classes: a larger input for small boxes, more pictures for rare classes; check that the "
        "boxes are right.",
    ),
}


def errors_section(analysis: Analysis) -> ReportSection:
    """What costs the most, and what to do about it."""
    errors, iou = analysis.errors, f"AP at an overlap of {analysis.errors.iou:.2f}"
    ranked = sorted(errors.costs, key=lambda cost: -(cost.ap_cost or 0.0))
    bars = [(cost.error_type, cost.ap_cost, _tooltip(cost)) for cost in ranked if cost.ap_cost is not None]
    blocks: list[Block] = [Paragraph(_summary(errors, ranked))]
    if bars:
        svg = bar_chart(bars, f"{iou} lost to this kind alone")
        blocks.append(
            Charts((Chart("AP that each kind of error costs", svg, note=f"{iou} is {_format_fraction(errors.ap)}."),))
        )
    columns = (
        Column("kind"),
        Column(
            "AP cost",
            3,
            True,
            max((abs(value) for _, value, _ in bars), default=0.0),
            tooltip=f"{iou} with this kind repaired, minus that as it is",
        ),
        Column("all", None, True, tooltip="among all judged detections, whatever their score"),
        Column("kept", None, True, tooltip=f"among those with a score of at least {analysis.threshold:.3f}"),
        Column("what it is", prose=True),
        Column("what helps", prose=True),
    )
    rows = tuple(
        (cost.error_type, cost.ap_cost, cost.count, cost.kept, *ERROR_TYPE_ADVICE[cost.error_type]) for cost in ranked
    )
    blocks += [Table("Kinds of errors", columns, rows), _totals_table(errors)]
    return ReportSection("errors", "What costs the most", "", tuple(blocks))


def _summary(errors: Errors, ranked: list[ErrorCost]) -> str:
    """The kind to mend first, in a sentence."""
    cost = ranked[0].ap_cost
    if errors.ap is None or cost is None or cost <= 0:
        return "No kind of error costs anything here."
    error_type = ranked[0].error_type
    name = "Missed boxes cost" if error_type == "missed" else f"Errors of the kind “{error_type}” cost"
    mended = f"without them, AP would be {errors.ap + cost:.3f} in place of {errors.ap:.3f}"
    return f"{name} the most: {mended}. {ERROR_TYPE_ADVICE[error_type][1]}"


def _tooltip(cost: ErrorCost) -> str:
    return f"{cost.error_type}: {cost.count}, costing {_format_fraction(cost.ap_cost)}"


def _totals_table(errors: Errors) -> Table:
    """Every judged detection and every box, accounted for."""
    wrong = sum(cost.count for cost in errors.costs if cost.error_type != "missed")
    rows = (
        (
            "judged detections",
            errors.evaluated,
            None,
            f"{errors.correct} correct + {wrong} wrong + {errors.ignored} in crowds",
        ),
        ("wrong detections", wrong, errors.false_positive_cost, "AP cost: AP without any of them, minus AP"),
        ("annotated boxes", errors.num_gt, None, f"{errors.detected} found + {errors.missed} not found"),
        (
            "boxes not found",
            errors.missed,
            errors.false_negative_cost,
            f"{errors.missed_entirely} of them without any detection on them",
        ),
    )
    columns = (Column("what"), Column("count", None, True), Column("AP cost", 3, True), Column("of which", prose=True))
    return Table("Everything accounted for", columns, rows, collapsed=True)


def groups_section(analysis: Analysis) -> ReportSection:
    """By size and by crowding."""
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
            "By boxes in a picture",
            (Column("pictures with"), Column("boxes each"), Column("pictures", None, True), count, *scores),
            images,
        ),
        Table(
            "By overlap of the boxes among themselves",
            (Column("boxes"), count, Column(f"recall at {analysis.iou:g}", 3, True, 1.0), scores[2]),
            overlap,
        ),
    )
    bars = (
        ("AP by the size of boxes", [(row[0], row[3], f"{row[1]} pixels: {row[2]} boxes") for row in sizes]),
        ("AP by boxes in a picture", [(f"{row[0]}, {row[1]}", row[4], f"{row[2]} pictures") for row in images]),
    )
    charts = []
    for title, rows in bars:
        measured = [(name, value, tooltip) for name, value, tooltip in rows if value is not None]
        if measured:
            charts.append(Chart(title, bar_chart(measured, "AP")))
    lead = "Which boxes, and which pictures, AP is lost on."
    return ReportSection("groups", "Sizes and crowds", lead, (Charts(tuple(charts)), *tables))


def calibration_section(analysis: Analysis) -> ReportSection:
    """What scores are worth: of those around .8, are 80% correct?"""
    calibration = analysis.calibration
    filled = [one for one in calibration.bins if one.mean_score is not None and one.accuracy is not None]
    if not filled:
        return ReportSection("calibration", "Scores", "There are no detections whose scores could be judged.", ())
    points = [
        (one.mean_score, one.accuracy) for one in filled if one.mean_score is not None and one.accuracy is not None
    ]
    diagram = line_chart(
        [LineSeries("as promised", [(0.0, 0.0), (1.0, 1.0)], "line-guide"), LineSeries("this run", points, "line0")],
        "mean score",
        "share that is correct",
        dots=True,
    )
    edges = [one.low for one in calibration.bins] + [calibration.bins[-1].high]
    counts = histogram(
        [HistogramSeries("detections", edges, [one.count for one in calibration.bins], 0)], "score", "detections"
    )
    keys = (LegendEntry("line0", "this run"), LegendEntry("line-guide", "scores that tell the truth"))
    columns = (
        Column("scores"),
        Column("detections", None, True),
        Column("mean score", 3, True, 1.0),
        Column("share correct", 3, True, 1.0),
    )
    rows = tuple(
        (f"{one.low:.1f} to {one.high:.1f}", one.count, one.mean_score, one.accuracy) for one in calibration.bins
    )
    return ReportSection(
        "calibration",
        "Scores",
        _calibration_lead(analysis),
        (
            Charts((Chart("Calibration", diagram, keys), Chart("How often which score is given", counts))),
            Table("Calibration", columns, rows),
        ),
    )


def _calibration_lead(analysis: Analysis) -> str:
    calibration = analysis.calibration
    lead = (
        f"Below the diagonal scores promise too much, above it too little. The expected calibration error is "
        f"{_format_fraction(calibration.ece)}, and {_format_fraction(calibration.kept_ece)} for detections with a score of at least "
        f"{analysis.threshold:.3f}."
    )
    return f"{lead} AP does not depend on it; a fixed score threshold does."


def _format_fraction(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3f}"


def _format_count_range(low: int, high: int) -> str:
    return f"{low}" if low == high else f"{low} to {high}"


def _format_side_range(low: float, high: float | None) -> str:
    return f"above {low:.4g}" if high is None else f"below {high:.4g}" if not low else f"{low:.4g} to {high:.4g}"
