"""An analysis in a few lines of text."""

from __future__ import annotations

from cspdet.analysis.structures import Analysis, Comparison, Difference, ErrorCost

ERROR_DESCRIPTIONS = {
    "classification": "right place, wrong class",
    "localization": "right class, box too far off",
    "both": "wrong class and box too far off",
    "duplicate": "a box that is found already",
    "background": "on nothing",
    "missed": "boxes that nothing comes near; above the threshold, all that are not found",
}


def full_summary(analysis: Analysis) -> list[str]:
    """What `analyze` prints about a run."""
    lines = [_metrics_line(analysis), _counts_line(analysis), "", *_error_cost_lines(analysis)]
    if analysis.confused_pairs:
        lines += ["", "most confused:"]
        lines += [
            f"  {one.gt_class} taken for {one.detected_class}: {one.count} ({one.fraction:.0%} of its boxes)"
            for one in analysis.confused_pairs[:3]
        ]
    return [*lines, "", _threshold_line(analysis), _label_issues_line(analysis)]


def short_summary(analysis: Analysis) -> list[str]:
    """At most 8 lines for the end of a training: the numbers, the three costliest errors, the best threshold."""
    worst = [one for one in _sorted_by_cost(analysis) if one.ap_cost is not None and one.ap_cost > 0][:3]
    lines = [_metrics_line(analysis), _counts_line(analysis)]
    iou = f"AP{100 * analysis.iou:g}"
    lines += [
        f"  {_format_value(one.ap_cost)} {iou} lost to {one.error_type} ({ERROR_DESCRIPTIONS[one.error_type].split(';')[0]}): {one.count}"
        for one in worst
    ]
    return [*lines, _threshold_line(analysis)]


def comparison_summary(comparison: Comparison) -> list[str]:
    """What `analyze` prints about several runs: each against the first."""
    lines: list[str] = []
    for one in comparison.against_first:
        lines.append(f"{one.other} against {one.first}, {comparison.resamples} resamples of the pictures:")
        lines += [f"  {difference_text(difference)}" for difference in (one.AP, one.AP50)]
    return lines


def difference_text(difference: Difference) -> str:
    """One difference with its interval and its verdict."""
    if difference.difference is None or difference.low is None or difference.high is None or difference.p_value is None:
        return f"{difference.metric}: {difference.verdict}"
    interval = f"95% of resamples {difference.low:+.4f} to {difference.high:+.4f}, p {difference.p_value:.3f}"
    values = f"{_format_value(difference.first)} to {_format_value(difference.other)}, {difference.difference:+.4f}"
    return f"{difference.metric:<4} {values} ({interval}): {difference.verdict}"


def _metrics_line(analysis: Analysis) -> str:
    shown = ", ".join(f"{name} {_format_value(analysis.stats[name])}" for name in ("AP", "AP50", "AP75", "AR100"))
    return f"{analysis.name}: {shown}"


def _counts_line(analysis: Analysis) -> str:
    errors = analysis.errors
    return (
        f"{analysis.images} pictures, {analysis.num_gt} boxes ({errors.detected} found at IoU {errors.iou:g}), "
        f"{analysis.detections} detections ({errors.correct} correct), {analysis.evaluator}"
    )


def _error_cost_lines(analysis: Analysis) -> list[str]:
    iou = f"AP{100 * analysis.iou:g}"
    lines = [f"what costs the most of {iou} {_format_value(analysis.errors.ap)}:", "   cost   count  above threshold"]
    for one in _sorted_by_cost(analysis):
        lines.append(
            f"{_format_value(one.ap_cost)} {one.count:7} {one.kept:16}  {one.error_type}: {ERROR_DESCRIPTIONS[one.error_type]}"
        )
    return lines


def _sorted_by_cost(analysis: Analysis) -> list[ErrorCost]:
    return sorted(analysis.errors.costs, key=lambda one: -(one.ap_cost or 0.0))


def _threshold_line(analysis: Analysis) -> str:
    at = analysis.at_threshold
    best = "best threshold" if analysis.threshold_is_best else "threshold"
    if at.f1 is None:
        return f"{best}: no boxes, so that no F1"
    if not at.correct:
        return f"{best}: nothing is correct at a score of {at.threshold:.3f} or more"
    shown = f"precision {_format_value(at.precision)}, recall {_format_value(at.recall)}, F1 {_format_value(at.f1)}"
    return f"{best}: {at.threshold:.3f} ({shown})"


def _label_issues_line(analysis: Analysis) -> str:
    missing, wrong, there = analysis.label_issues.totals
    return f"labels to look at: {missing} boxes missing?, {wrong} classes wrong?, {there} boxes on nothing?"


def _format_value(value: float | None) -> str:
    return "    --" if value is None else f"{value:.4f}"
