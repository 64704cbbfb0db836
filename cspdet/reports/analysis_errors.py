"""What AP is lost to: kinds of errors, sizes and crowds, and scores that promise too much."""

from __future__ import annotations

from cspdet.analysis.structures import Analysis, ErrorCost, Errors
from cspdet.reports.charts import Bars, Curve, bar_chart, histogram, line_chart
from cspdet.reports.components import Block, Chart, Charts, Column, Key, Paragraph, Section, Table

# What each kind is, and what usually helps.
KINDS = {
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
        "Lower --max-iou in eval and detect; boxes in crowds are what that costs.",
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


def errors_section(analysis: Analysis) -> Section:
    """What costs the most, and what to do about it."""
    errors, iou = analysis.errors, f"AP at an overlap of {analysis.errors.iou:.2f}"
    ranked = sorted(errors.kinds, key=lambda kind: -(kind.ap_cost or 0.0))
    bars = [(kind.kind, kind.ap_cost, _told(kind)) for kind in ranked if kind.ap_cost is not None]
    blocks: list[Block] = [Paragraph(_summary(errors, ranked))]
    if bars:
        svg = bar_chart(bars, f"{iou} lost to this kind alone")
        blocks.append(Charts((Chart("AP that each kind of error costs", svg, note=f"{iou} is {_share(errors.ap)}."),)))
    columns = (
        Column("kind"),
        Column(
            "AP cost",
            3,
            True,
            max((abs(value) for _, value, _ in bars), default=0.0),
            meaning=f"{iou} with this kind repaired, minus that as it is",
        ),
        Column("all", None, True, meaning="among all judged detections, whatever their score"),
        Column("kept", None, True, meaning=f"among those with a score of at least {analysis.threshold:.3f}"),
        Column("what it is", prose=True),
        Column("what helps", prose=True),
    )
    rows = tuple((kind.kind, kind.ap_cost, kind.count, kind.kept, *KINDS[kind.kind]) for kind in ranked)
    blocks += [Table("Kinds of errors", columns, rows), _sums(errors)]
    return Section("errors", "What costs the most", "", tuple(blocks))


def _summary(errors: Errors, ranked: list[ErrorCost]) -> str:
    """The kind to mend first, in a sentence."""
    cost = ranked[0].ap_cost
    if errors.ap is None or cost is None or cost <= 0:
        return "No kind of error costs anything here."
    kind = ranked[0].kind
    name = "Missed boxes cost" if kind == "missed" else f"Errors of the kind “{kind}” cost"
    mended = f"without them, AP would be {errors.ap + cost:.3f} in place of {errors.ap:.3f}"
    return f"{name} the most: {mended}. {KINDS[kind][1]}"


def _told(kind: ErrorCost) -> str:
    return f"{kind.kind}: {kind.count}, costing {_share(kind.ap_cost)}"


def _sums(errors: Errors) -> Table:
    """Every judged detection and every box, accounted for."""
    wrong = sum(kind.count for kind in errors.kinds if kind.kind != "missed")
    rows = (
        (
            "judged detections",
            errors.judged,
            None,
            f"{errors.correct} correct + {wrong} wrong + {errors.ignored} in crowds",
        ),
        ("wrong detections", wrong, errors.false_positive_cost, "AP cost: AP without any of them, minus AP"),
        ("annotated boxes", errors.truths, None, f"{errors.found} found + {errors.missed} not found"),
        (
            "boxes not found",
            errors.missed,
            errors.false_negative_cost,
            f"{errors.missed_entirely} of them without any detection on them",
        ),
    )
    columns = (Column("what"), Column("count", None, True), Column("AP cost", 3, True), Column("of which", prose=True))
    return Table("Everything accounted for", columns, rows, folded=True)


def groups_section(analysis: Analysis) -> Section:
    """By size and by crowding."""
    parts = analysis.breakdown
    sizes = tuple(
        (one.name, _side(one.low, one.high), one.truths, one.AP, one.AP50, one.AR100)
        for one in (*parts.sizes, *parts.quarters)
    )
    pictures = tuple(
        (one.name, _counts(one.low, one.high), one.pictures, one.truths, one.AP, one.AP50, one.AR100)
        for one in parts.pictures
    )
    overlap = tuple((one.name, one.truths, one.recall, one.AR100) for one in parts.overlap)
    scores = tuple(Column(name, 3, True, 1.0) for name in ("AP", "AP50", "AR100"))
    count = Column("boxes", None, True)
    tables = (
        Table(
            "By size",
            (Column("size"), Column("side, pixels", meaning="square root of the area"), count, *scores),
            sizes,
        ),
        Table(
            "By boxes in a picture",
            (Column("pictures with"), Column("boxes each"), Column("pictures", None, True), count, *scores),
            pictures,
        ),
        Table(
            "By overlap of the boxes among themselves",
            (Column("boxes"), count, Column(f"recall at {analysis.iou:g}", 3, True, 1.0), scores[2]),
            overlap,
        ),
    )
    bars = (
        ("AP by the size of boxes", [(row[0], row[3], f"{row[1]} pixels: {row[2]} boxes") for row in sizes]),
        ("AP by boxes in a picture", [(f"{row[0]}, {row[1]}", row[4], f"{row[2]} pictures") for row in pictures]),
    )
    charts = []
    for title, rows in bars:
        measured = [(name, value, told) for name, value, told in rows if value is not None]
        if measured:
            charts.append(Chart(title, bar_chart(measured, "AP")))
    lead = "Which boxes, and which pictures, AP is lost on."
    return Section("groups", "Sizes and crowds", lead, (Charts(tuple(charts)), *tables))


def calibration_section(analysis: Analysis) -> Section:
    """What scores are worth: of those around .8, are 80% correct?"""
    found = analysis.calibration
    filled = [one for one in found.bins if one.mean_score is not None and one.correct is not None]
    if not filled:
        return Section("calibration", "Scores", "There are no detections whose scores could be judged.", ())
    points = [(one.mean_score, one.correct) for one in filled if one.mean_score is not None and one.correct is not None]
    diagram = line_chart(
        [Curve("as promised", [(0.0, 0.0), (1.0, 1.0)], "line-guide"), Curve("this run", points, "line0")],
        "mean score",
        "share that is correct",
        dots=True,
    )
    edges = [one.low for one in found.bins] + [found.bins[-1].high]
    counts = histogram([Bars("detections", edges, [one.count for one in found.bins], 0)], "score", "detections")
    keys = (Key("line0", "this run"), Key("line-guide", "scores that tell the truth"))
    columns = (
        Column("scores"),
        Column("detections", None, True),
        Column("mean score", 3, True, 1.0),
        Column("share correct", 3, True, 1.0),
    )
    rows = tuple((f"{one.low:.1f} to {one.high:.1f}", one.count, one.mean_score, one.correct) for one in found.bins)
    return Section(
        "calibration",
        "Scores",
        _calibration_lead(analysis),
        (
            Charts((Chart("Calibration", diagram, keys), Chart("How often which score is given", counts))),
            Table("Calibration", columns, rows),
        ),
    )


def _calibration_lead(analysis: Analysis) -> str:
    found = analysis.calibration
    lead = (
        f"Below the diagonal scores promise too much, above it too little. The expected calibration error is "
        f"{_share(found.ece)}, and {_share(found.kept_ece)} for detections with a score of at least "
        f"{analysis.threshold:.3f}."
    )
    return f"{lead} AP does not depend on it; a fixed score threshold does."


def _share(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3f}"


def _counts(low: int, high: int) -> str:
    return f"{low}" if low == high else f"{low} to {high}"


def _side(low: float, high: float | None) -> str:
    return f"above {low:.4g}" if high is None else f"below {high:.4g}" if not low else f"{low:.4g} to {high:.4g}"
