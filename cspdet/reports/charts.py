"""Charts as inline SVG.

The style sheet of the page defines the light and the dark colors. Series differ by color and by line style. All
functions return markup with escaped texts. Charts are WIDTH SVG units wide. Their axes have units, and tooltips show
the values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from markupsafe import Markup, escape

from cspdet.reports.scales import (
    HEIGHT,
    WIDTH,
    Scale,
    axes,
    chart_scales,
    downsample,
    format_coord,
    log2_ticks,
    round_up_to_tick,
    ticks,
    x_axis,
    x_axis_label,
)  # fmt: skip

CHAR_WIDTH = 6.6  # mean width of a character in SVG units
LINE_STYLES = 6  # number of line styles in the style sheet


@dataclass(frozen=True)
class LineSeries:
    """Points of a chart, connected by a line.

    Attributes:
        name: Name of the series.
        points: (x, y) of each point.
        style: CSS class of the line.
        choice: Index in `Chart.choices`. The line is hidden until the reader selects it. None: the line is visible.
        has_dots: Mark each point with a dot.
    """

    name: str
    points: Sequence[tuple[float, float]]
    style: str
    choice: int | None = None
    has_dots: bool = False


@dataclass(frozen=True)
class HistogramSeries:
    """Histogram with the height `heights[i]` between `edges[i]` and `edges[i + 1]`."""

    name: str
    edges: Sequence[float]
    heights: Sequence[float]
    style: int  # 0: filled, others: outlines


def _dots(curve: LineSeries, x_scale: Scale, y_scale: Scale) -> list[str]:
    style = curve.style.replace("line", "fill")
    return [
        f'<circle class="{style}" cx="{format_coord(x_scale(a))}" cy="{format_coord(y_scale(b))}" r="4">'
        f"<title>{a:.4g}: {b:.4g}</title></circle>"
        for a, b in curve.points
    ]


def line_chart(
    curves: Sequence[LineSeries],
    x_label: str,
    y_label: str,
    *,
    x: tuple[float, float] = (0, 1),
    y: tuple[float, float] = (0, 1),
    integer_x: bool = False,
) -> Markup:
    """Draw one line per series. A series with more than 101 points is downsampled to 101 points.

    Args:
        curves: The series.
        x_label: Title of the horizontal axis.
        y_label: Title of the vertical axis.
        x: Lowest and highest value of the horizontal axis.
        y: Lowest and highest value of the vertical axis.
        integer_x: Label only integers on the horizontal axis.
    """
    x_scale, y_scale = chart_scales(x, y)
    x_ticks = [mark for mark in ticks(*x) if not integer_x or mark == round(mark)]
    parts = axes(x_scale, y_scale, x_ticks, ticks(*y), x_label, y_label)
    for curve in curves:
        kept = [curve.points[i] for i in downsample([point[0] for point in curve.points])]
        path = " ".join(f"{format_coord(x_scale(a))},{format_coord(y_scale(b))}" for a, b in kept)
        choice = "" if curve.choice is None else f' data-choice="{curve.choice}" hidden=""'
        parts.append(
            f'<polyline class="{curve.style}" points="{path}"{choice}><title>{escape(curve.name)}</title></polyline>'
        )
        parts += _dots(curve, x_scale, y_scale) if curve.has_dots else []
    return svg_element(parts, f"{y_label} over {x_label}")


def curve_points(x: np.ndarray, y: np.ndarray) -> list[tuple[float, float]]:
    """Return the points (x, y) of two (K,) arrays; points whose y is NaN are omitted."""
    known = ~np.isnan(y)
    return list(zip(x[known].tolist(), y[known].tolist(), strict=True))


def histogram(
    series: Sequence[HistogramSeries],
    x_label: str,
    y_label: str,
    *,
    logarithmic: bool = False,
    integer_bins: bool = False,
    digits: int = 0,
) -> Markup:
    """Draw histograms in one chart.

    Args:
        series: The histograms; style 0 is filled, other styles are outlines.
        x_label: Title of the horizontal axis.
        y_label: Title of the vertical axis.
        logarithmic: Use a logarithmic horizontal axis.
        integer_bins: Shift the bins by -0.5, so that bins of width 1 are centered on integers.
        digits: Number of decimals of the heights in tooltips.
    """
    filled = [bars for bars in series if len(bars.heights)]
    if integer_bins:
        filled = [replace(bars, edges=[edge - 0.5 for edge in bars.edges]) for bars in filled]
    if not filled:
        return Markup("")
    low, high = min(bars.edges[0] for bars in filled), max(bars.edges[-1] for bars in filled)
    top = round_up_to_tick(max(max(bars.heights) for bars in filled))
    x_scale, y_scale = chart_scales((low, high), (0, top), logarithmic=logarithmic)
    marks = log2_ticks(low, high) if logarithmic else ticks(low, high)
    parts = axes(x_scale, y_scale, marks, ticks(0, top), x_label, y_label)
    for bars in filled:
        parts += _filled(bars, x_scale, y_scale, digits) if bars.style == 0 else [_outline(bars, x_scale, y_scale)]
    return svg_element(parts, f"{y_label} over {x_label}")


def _filled(bars: HistogramSeries, x_scale: Scale, y_scale: Scale, digits: int) -> list[str]:
    result = []
    for low, high, height in zip(bars.edges, bars.edges[1:], bars.heights, strict=False):
        if height:
            x, y = x_scale(low), y_scale(height)
            width = max(0.5, x_scale(high) - x - 1)
            tooltip = f"{bars.name}: {format_range(low, high)}: {height:.{digits}f}"
            result.append(
                f'<rect class="fill0" x="{format_coord(x + 0.5)}" y="{format_coord(y)}" width="{format_coord(width)}"'
                f' height="{format_coord(y_scale(0) - y)}"><title>{escape(tooltip)}</title></rect>'
            )
    return result


def _outline(bars: HistogramSeries, x_scale: Scale, y_scale: Scale) -> str:
    """Return a path that follows the tops of the bars and starts and ends at height 0."""
    zero = format_coord(y_scale(0))
    steps = [f"M{format_coord(x_scale(bars.edges[0]))} {zero}"]
    for high, height in zip(bars.edges[1:], bars.heights, strict=True):
        steps.append(f"V{format_coord(y_scale(height))}H{format_coord(x_scale(high))}")
    return f'<path class="line{bars.style}" d="{"".join(steps)}V{zero}"><title>{escape(bars.name)}</title></path>'


def format_range(low: float, high: float) -> str:
    """Format a range as `0.5 to 0.7` with three digits; a range of width 1 around an integer becomes this integer."""
    if high - low == 1 and low % 1 == 0.5:
        return f"{low + 0.5:g}"
    return f"{low:.3g} to {high:.3g}"


def bar_chart(rows: Sequence[tuple[str, float, str]], x_label: str, *, digits: int = 3) -> Markup:
    """Draw one horizontal bar per (name, value, tooltip), with the value as text at the end of the bar."""
    step, top, bottom = 28, 6, 40
    height = top + step * len(rows) + bottom
    left = min(150.0, 12 + CHAR_WIDTH * max((len(name) for name, _, _ in rows), default=0))
    low, high = min(0.0, *(v for _, v, _ in rows), 0.0), max(0.0, *(v for _, v, _ in rows), 0.0)
    high = high if high > low else low + 1
    x_scale = Scale(low, high, left + (38 if low < 0 else 0), WIDTH - 48)
    parts = x_axis(x_scale, top, height - bottom)
    for i, (name, value, tooltip) in enumerate(rows):
        y, zero, end = top + i * step, x_scale(0), x_scale(value)
        anchor, beside = ("start", end + 5) if value >= 0 else ("end", end - 5)
        label, start = escape(truncate_text(name, 22)), format_coord(min(zero, end))
        parts += [
            f"<g><title>{escape(tooltip)}</title>",
            f'<text x="{format_coord(left - 6)}" y="{y + 18}" text-anchor="end">{label}</text>',
            f'<rect class="fill0" x="{start}" y="{y + 4}" width="{format_coord(abs(end - zero))}" height="20"/>',
            f'<text x="{format_coord(beside)}" y="{y + 18}" text-anchor="{anchor}">{value:.{digits}f}</text></g>',
        ]
    return svg_element([*parts, x_axis_label(x_scale, height, x_label)], x_label, height=height)


def grouped_bar_chart(
    rows: Sequence[tuple[str, Sequence[float]]], series: Sequence[str], x_label: str, *, digits: int = 1
) -> Markup:
    """Draw a group of horizontal bars per (name, values), with one bar per series in the order of `series`."""
    thick, top, bottom = 18 if len(series) == 1 else 11, 6, 40
    step = thick * len(series) + 8
    height = top + step * len(rows) + bottom
    left = min(160.0, 12 + CHAR_WIDTH * max((len(name) for name, _ in rows), default=0))
    high = max((max(values) for _, values in rows), default=0.0) or 1.0
    x_scale = Scale(0.0, high, left, WIDTH - 14)
    parts = x_axis(x_scale, top, height - bottom)
    for i, (name, values) in enumerate(rows):
        y = top + i * step
        tooltip = ", ".join(f"{one} {value:.{digits}f}" for one, value in zip(series, values, strict=True))
        parts.append(f"<g><title>{escape(f'{name}: {tooltip}')}</title>")
        label_x, label_y = format_coord(left - 6), format_coord(y + step / 2 + 4)
        label = escape(truncate_text(name, 22))
        parts.append(f'<text x="{label_x}" y="{label_y}" text-anchor="end">{label}</text>')
        for k, value in enumerate(values):
            width = format_coord(x_scale(value) - left)
            at = f'x="{format_coord(left)}" y="{y + 4 + k * thick}"'
            parts.append(f'<rect class="fill{k}" {at} width="{width}" height="{thick - 1}"/>')
        parts.append("</g>")
    return svg_element([*parts, x_axis_label(x_scale, height, x_label)], x_label, height=height)


def interval_chart(rows: Sequence[tuple[str, float, float, float, bool]], x_label: str) -> Markup:
    """Draw an interval per (name, value, low, high, significant), with a dot at the value and a vertical line at 0."""
    step, top, bottom = 28, 6, 40
    height = top + step * len(rows) + bottom
    left = min(190.0, 12 + CHAR_WIDTH * max(len(name) for name, *_ in rows))
    low, high = min(0.0, *(row[2] for row in rows), 0.0), max(0.0, *(row[3] for row in rows), 0.0)
    x_scale = Scale(low, high if high > low else low + 1, left + 8, WIDTH - 16)
    parts = x_axis(x_scale, top, height - bottom)
    parts.append(f'<path class="base" d="M{format_coord(x_scale(0))} {top}V{height - bottom}"/>')
    for i, (name, value, interval_low, interval_high, significant) in enumerate(rows):
        y = top + i * step + 14
        tooltip = f"{name}: {value:+.3f}, {interval_low:+.3f} to {interval_high:+.3f}"
        style = "line0" if significant else "line-guide"
        start, end = format_coord(x_scale(interval_low)), format_coord(x_scale(interval_high))
        parts += [
            f"<g><title>{escape(tooltip)}</title>",
            f'<text x="{format_coord(left)}" y="{y + 4}" text-anchor="end">{escape(truncate_text(name, 28))}</text>',
            f'<path class="{style}" d="M{start} {y}H{end}"/>',
            f'<circle class="fill0" cx="{format_coord(x_scale(value))}" cy="{y}" r="5"/></g>',
        ]
    return svg_element([*parts, x_axis_label(x_scale, height, x_label)], x_label, height=height)


def svg_element(parts: Sequence[str], label: str, *, height: int = HEIGHT) -> Markup:
    """Wrap markup in an SVG element with an accessible label."""
    head = f'<svg role="img" aria-label="{escape(label)}" viewBox="0 0 {WIDTH} {height}">'
    return Markup(head + "".join(parts) + "</svg>")


def truncate_text(text: str, max_chars: int) -> str:
    """Truncate text to `max_chars` characters. Truncated text ends with an ellipsis."""
    return text if len(text) <= max_chars else text[: max_chars - 1] + "…"
