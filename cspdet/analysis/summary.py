"""An analysis in a few lines of text."""

from __future__ import annotations

from cspdet.analysis.structures import Analysis, Comparison, Difference, ErrorCost

MEANING = {
    "classification": "right place, wrong class",
    "localization": "right class, box too far off",
    "both": "wrong class and box too far off",
    "duplicate": "a box that is found already",
    "background": "on nothing",
    "missed": "boxes that nothing comes near; above the threshold, all that are not found",
}


def full_summary(analysis: Analysis) -> list[str]:
    """What `analyze` prints about a run."""
    lines = [_numbers(analysis), _counts(analysis), "", *_costs(analysis)]
    if analysis.confused:
        lines += ["", "most confused:"]
        lines += [
            f"  {one.truth} taken for {one.detection}: {one.count} ({one.share:.0%} of its boxes)"
            for one in analysis.confused[:3]
        ]
    return [*lines, "", _threshold(analysis), _suspects(analysis)]


def short_summary(analysis: Analysis) -> list[str]:
    """At most 8 lines for the end of a training: the numbers, the three costliest errors, the best threshold."""
    worst = [one for one in _by_cost(analysis) if one.ap_cost is not None and one.ap_cost > 0][:3]
    lines = [_numbers(analysis), _counts(analysis)]
    iou = f"AP{100 * analysis.iou:g}"
    lines += [
        f"  {_shown(one.ap_cost)} {iou} lost to {one.kind} ({MEANING[one.kind].split(';')[0]}): {one.count}"
        for one in worst
    ]
    return [*lines, _threshold(analysis)]


def comparison_summary(comparison: Comparison) -> list[str]:
    """What `analyze` prints about several runs: each against the first."""
    lines: list[str] = []
    for one in comparison.against_first:
        lines.append(f"{one.other} against {one.first}, {comparison.resamples} resamples of the pictures:")
        lines += [f"  {difference_text(difference)}" for difference in (one.AP, one.AP50)]
    return lines


def difference_text(difference: Difference) -> str:
    """One difference with its interval and its verdict."""
    if difference.difference is None or difference.low is None or difference.high is None or difference.p is None:
        return f"{difference.number}: {difference.verdict}"
    interval = f"95% of resamples {difference.low:+.4f} to {difference.high:+.4f}, p {difference.p:.3f}"
    values = f"{_shown(difference.first)} to {_shown(difference.other)}, {difference.difference:+.4f}"
    return f"{difference.number:<4} {values} ({interval}): {difference.verdict}"


def _numbers(analysis: Analysis) -> str:
    shown = ", ".join(f"{name} {_shown(analysis.numbers[name])}" for name in ("AP", "AP50", "AP75", "AR100"))
    return f"{analysis.name}: {shown}"


def _counts(analysis: Analysis) -> str:
    errors = analysis.errors
    return (
        f"{analysis.images} pictures, {analysis.truths} boxes ({errors.found} found at IoU {errors.iou:g}), "
        f"{analysis.detections} detections ({errors.correct} correct), {analysis.evaluator}"
    )


def _costs(analysis: Analysis) -> list[str]:
    iou = f"AP{100 * analysis.iou:g}"
    lines = [f"what costs the most of {iou} {_shown(analysis.errors.ap)}:", "   cost   count  above threshold"]
    for one in _by_cost(analysis):
        lines.append(f"{_shown(one.ap_cost)} {one.count:7} {one.kept:16}  {one.kind}: {MEANING[one.kind]}")
    return lines


def _by_cost(analysis: Analysis) -> list[ErrorCost]:
    return sorted(analysis.errors.kinds, key=lambda one: -(one.ap_cost or 0.0))


def _threshold(analysis: Analysis) -> str:
    at = analysis.at_threshold
    best = "best threshold" if analysis.threshold_is_best else "threshold"
    if at.f1 is None:
        return f"{best}: no boxes, so that no F1"
    if not at.correct:
        return f"{best}: nothing is correct at a score of {at.threshold:.3f} or more"
    shown = f"precision {_shown(at.precision)}, recall {_shown(at.recall)}, F1 {_shown(at.f1)}"
    return f"{best}: {at.threshold:.3f} ({shown})"


def _suspects(analysis: Analysis) -> str:
    missing, wrong, there = analysis.suspects.totals
    return f"labels to look at: {missing} boxes missing?, {wrong} classes wrong?, {there} boxes on nothing?"


def _shown(number: float | None) -> str:
    return "    --" if number is None else f"{number:.4f}"
