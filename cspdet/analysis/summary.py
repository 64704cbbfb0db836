"""Text summaries of an analysis, as `analyze` and `eval` print them."""

from __future__ import annotations

from cspdet.analysis.findings import ErrorCost
from cspdet.analysis.structures import Analysis, Comparison, Difference
from cspdet.errors import truncate_list
from cspdet.io.names import count
from cspdet.io.tables import Table

MAX_NAMED_CLASSES = 10

ERROR_DESCRIPTIONS = {
    "classification": "correct box, wrong class",
    "localization": "correct class, IoU too low",
    "both": "wrong class and IoU too low",
    "duplicate": "box already matched by a higher score",
    "background": "no box overlaps",
    "missed": "undetected boxes without localization or classification error; above threshold: all undetected boxes",
}


def full_summary(analysis: Analysis) -> list[str | Table]:
    """Return the lines and the table that `analyze` prints about a run."""
    lines: list[str | Table] = [*_first_lines(analysis), "", *_error_cost_lines(analysis)]
    if analysis.confused_pairs:
        lines += ["", "most confused:"]
        lines += [
            f"  {one.gt_class} detected as {one.detected_class}: {one.count} ({one.fraction:.0%} of its boxes)"
            for one in analysis.confused_pairs[:3]
        ]
    return [*lines, "", _threshold_line(analysis), _label_issues_line(analysis)]


def short_summary(analysis: Analysis) -> list[str]:
    """Return at most 8 lines for the end of a training: metrics, three costliest error types, and best threshold."""
    worst = [one for one in _sorted_by_cost(analysis) if one.ap_cost is not None and one.ap_cost > 0][:3]
    lines = _first_lines(analysis)
    iou = ap_name(analysis.iou)
    for one in worst:
        description = ERROR_DESCRIPTIONS[one.error_type].split(";")[0]
        lines.append(f"  {_format_value(one.ap_cost)} {iou} lost to {one.error_type} ({description}): {one.count}")
    return [*lines, _threshold_line(analysis)]


def comparison_summary(comparison: Comparison) -> list[str]:
    """Return the lines that `analyze` prints about several runs: one comparison of each later run with the first."""
    lines: list[str] = []
    for one in comparison.against_first:
        lines.append(f"{one.other} against {one.first}, {comparison.resamples} bootstrap resamples of the images:")
        lines += [f"  {difference_text(difference)}" for difference in (one.AP, one.AP50)]
    return lines


def difference_text(difference: Difference) -> str:
    """Format the difference of a metric with its confidence interval and its verdict."""
    if difference.difference is None or difference.low is None or difference.high is None or difference.p_value is None:
        return f"{difference.metric}: {difference.verdict}"
    interval = f"95% interval {difference.low:+.4f} to {difference.high:+.4f}, p {difference.p_value:.3f}"
    values = f"{_format_value(difference.first)} to {_format_value(difference.other)}, {difference.difference:+.4f}"
    return f"{difference.metric:<4} {values} ({interval}): {difference.verdict}"


def ap_name(iou: float) -> str:
    """Return the name of the AP at one IoU threshold: AP50 for .5."""
    return f"AP{100 * iou:g}"


def undetected_classes_line(analysis: Analysis) -> str | None:
    """Return a line that lists the classes with boxes but no correct detection; None if there are no such classes."""
    names = [f"{one.name} ({count(one.num_gt, 'box')})" for one in analysis.undetected_classes]
    if not names:
        return None
    return f"never detected at IoU {analysis.iou:g}: {', '.join(truncate_list(names, MAX_NAMED_CLASSES))}"


def _first_lines(analysis: Analysis) -> list[str]:
    undetected = undetected_classes_line(analysis)
    return [_metrics_line(analysis), _counts_line(analysis), *([] if undetected is None else [undetected])]


def _metrics_line(analysis: Analysis) -> str:
    metrics = ", ".join(f"{name} {_format_value(analysis.stats[name])}" for name in ("AP", "AP50", "AP75", "AR100"))
    return f"{analysis.name}: {metrics}"


def _counts_line(analysis: Analysis) -> str:
    errors = analysis.errors
    return (
        f"{count(analysis.images, 'image')}, {count(analysis.num_gt, 'box')} ({errors.detected:,} detected at IoU "
        f"{errors.iou:g}), {count(analysis.detections, 'detection')} ({errors.correct:,} correct), {analysis.evaluator}"
    )


def _error_cost_lines(analysis: Analysis) -> list[str | Table]:
    rows = [
        [
            one.error_type,
            ERROR_DESCRIPTIONS[one.error_type],
            _format_value(one.ap_cost),
            f"{one.count:,}",
            f"{one.kept:,}",
        ]
        for one in _sorted_by_cost(analysis)
    ]
    return [
        f"cost of each error type in {ap_name(analysis.iou)} ({_format_value(analysis.errors.ap)}):",
        Table(("error type", "meaning", "cost", "count", "above threshold"), rows, num_text=2),
    ]


def _sorted_by_cost(analysis: Analysis) -> list[ErrorCost]:
    return sorted(analysis.errors.costs, key=lambda one: -(one.ap_cost or 0.0))


def _threshold_line(analysis: Analysis) -> str:
    at = analysis.at_threshold
    best = "best threshold" if analysis.threshold_is_best else "threshold"
    if at.f1 is None:
        return f"{best}: no ground truth, F1 is undefined"
    if not analysis.detections:
        return "no detections: there is no best threshold"
    if not at.correct:
        return f"{best}: no correct detection with a score of at least {at.threshold:.3f}"
    metrics = f"precision {_format_value(at.precision)}, recall {_format_value(at.recall)}, F1 {_format_value(at.f1)}"
    return f"{best}: {at.threshold:.3f} ({metrics})"


def _label_issues_line(analysis: Analysis) -> str:
    missing, wrong, there = analysis.label_issues.totals
    counts = (count(missing, "missing box"), count(wrong, "wrong class"), count(there, "spurious box"))
    return f"possible label issues: {', '.join(counts)}"


def _format_value(value: float | None) -> str:
    return "--" if value is None else f"{value:.4f}"
