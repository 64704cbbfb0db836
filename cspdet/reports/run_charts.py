"""Charts of the metrics of a training run over its epochs."""

from __future__ import annotations

import math

import numpy as np

from cspdet.reports.charts import LINE_STYLES, LineSeries, curve_points, line_chart
from cspdet.reports.components import Chart, Charts, LegendEntry, ReportSection
from cspdet.reports.run_metrics import LOSS_PARTS, RunMetrics
from cspdet.reports.scales import round_up_to_tick

# Title, label of the vertical axis, and keys of each chart; keys that a run does not have are omitted.
PANELS = (
    ("Loss", "loss", ("loss", *LOSS_PARTS)),
    ("AP on the val split", "AP", ("AP", "AP50", "AP75")),
    ("Accuracy on the val split", "accuracy", ("top1", "top5")),
    ("AR100 on the val split, by box size", "AR100", ("AR100", "ARs", "ARm", "ARl")),
    ("Learning rate", "learning rate", ("lr",)),
    ("Training speed", "images per second", ("images_per_second",)),
)
MAX_DOTTED_POINTS = 40  # curves with more points have no dots


def curves_section(metrics: RunMetrics) -> ReportSection:
    """Build the section with the curves of the losses, the metrics, the learning rate and the speed."""
    charts = [chart for panel in PANELS if (chart := _panel(metrics, *panel)) is not None]
    lead = "One value per epoch; metrics.jsonl has all values."
    return ReportSection("curves", "Curves", lead, (Charts(tuple(charts)),))


def _panel(metrics: RunMetrics, title: str, y_label: str, keys: tuple[str, ...]) -> Chart | None:
    """Draw one chart; return None if no key has a finite value."""
    curves, highest = list[LineSeries](), 0.0
    for key in keys:
        x, y = metrics.curve(key, "epoch") if key in metrics.keys else (np.empty(0), np.empty(0))
        if not np.isfinite(y).any() or len(curves) == LINE_STYLES:
            continue
        has_dots = len(y) <= MAX_DOTTED_POINTS
        curves.append(LineSeries(key, curve_points(x, y), f"line{len(curves)}", has_dots=has_dots))
        highest = max(highest, float(np.nanmax(y)))
    if not curves:
        return None
    last = max(line["epoch"] for line in metrics.lines if math.isfinite(line.get("epoch", math.nan)))
    top = round_up_to_tick(highest)
    svg = line_chart(curves, "epoch", y_label, x=(0, max(last, 1)), y=(0, top), integer_x=True)
    legend = tuple(LegendEntry(curve.style, curve.name) for curve in curves) if len(curves) > 1 else ()
    return Chart(title, svg, legend, _values_note(metrics, keys[0]))


def _values_note(metrics: RunMetrics, key: str) -> str:
    """Return the last value of a key as a sentence."""
    values = [line[key] for line in metrics.lines if math.isfinite(line.get(key, math.nan))]
    return f"Last {key}: {values[-1]:.4g}." if values else ""
