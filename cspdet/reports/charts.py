"""Charts as SVG that takes its colors from the page: dark where the page is dark, and told apart without color too.

Every function returns markup in which all texts are escaped. Drawings are WIDTH units wide and shown at the width
of their column; each has axes with their units, and tells its values where the pointer rests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from markupsafe import Markup, escape

from cspdet.reports.scales import Scale, brief, octave_ticks, place, round_up, thinned, ticks

WIDTH, HEIGHT = 420, 270
LEFT, RIGHT, TOP, BOTTOM = 50, 12, 12, 44
LETTER = 6.6  # units that a letter takes in the mean
LINE_STYLES = 6  # that the style sheet tells apart


@dataclass(frozen=True)
class Curve:
    """A line through points, None where it is interrupted. `style` is a class of the style sheet, `choice` the
    place of its name among a chart's choices: drawn on demand."""

    name: str
    points: Sequence[tuple[float, float]]
    style: str
    choice: int | None = None


@dataclass(frozen=True)
class Bars:
    """Bins side by side, or lines of one height over a range: `heights[i]` between `edges[i]` and `edges[i + 1]`."""

    name: str
    edges: Sequence[float]
    heights: Sequence[float]
    style: int  # 0 is filled, others are outlines over it


def line_chart(
    curves: Sequence[Curve],
    x_label: str,
    y_label: str,
    *,
    x: tuple[float, float] = (0, 1),
    y: tuple[float, float] = (0, 1),
    dots: bool = False,
) -> Markup:
    """Curves over each other; long ones are thinned to 101 points. `dots` marks the points of the last one."""
    across, up = _scales(x, y)
    parts = _axes(across, up, ticks(*x), ticks(*y), x_label, y_label)
    for curve in curves:
        kept = [curve.points[i] for i in thinned([point[0] for point in curve.points])]
        path = " ".join(f"{place(across(a))},{place(up(b))}" for a, b in kept)
        choice = "" if curve.choice is None else f' data-choice="{curve.choice}" hidden=""'
        parts.append(
            f'<polyline class="{curve.style}" points="{path}"{choice}><title>{escape(curve.name)}</title></polyline>'
        )
    if dots and curves:
        parts += [
            f'<circle class="fill0" cx="{place(across(a))}" cy="{place(up(b))}" r="4.5">'
            f"<title>{a:.3f}: {b:.3f}</title></circle>"
            for a, b in curves[-1].points
        ]
    return drawing(parts, f"{y_label} over {x_label}")


def curve_points(x: np.ndarray, y: np.ndarray) -> list[tuple[float, float]]:
    """The points of two arrays (K,), without those whose y is NaN."""
    known = ~np.isnan(y)
    return list(zip(x[known].tolist(), y[known].tolist(), strict=True))


def histogram(
    series: Sequence[Bars],
    x_label: str,
    y_label: str,
    *,
    logarithmic: bool = False,
    whole: bool = False,
    digits: int = 0,
) -> Markup:
    """The first of the series filled, the others as outlines over it; bins of `whole` numbers lie around these."""
    filled = [bars for bars in series if len(bars.heights)]
    if whole:
        filled = [replace(bars, edges=[edge - 0.5 for edge in bars.edges]) for bars in filled]
    if not filled:
        return Markup("")
    low, high = min(bars.edges[0] for bars in filled), max(bars.edges[-1] for bars in filled)
    top = round_up(max(max(bars.heights) for bars in filled))
    across, up = _scales((low, high), (0, top), logarithmic=logarithmic)
    marks = octave_ticks(low, high) if logarithmic else ticks(low, high)
    parts = _axes(across, up, marks, ticks(0, top), x_label, y_label)
    for bars in filled:
        parts += _filled(bars, across, up, digits) if bars.style == 0 else [_outline(bars, across, up)]
    return drawing(parts, f"{y_label} over {x_label}")


def _filled(bars: Bars, across: Scale, up: Scale, digits: int) -> list[str]:
    result = []
    for low, high, height in zip(bars.edges, bars.edges[1:], bars.heights, strict=False):
        if height:
            x, y = across(low), up(height)
            width = max(0.5, across(high) - x - 1)
            told = f"{bars.name}: {brief_range(low, high)}: {height:.{digits}f}"
            result.append(
                f'<rect class="fill0" x="{place(x + 0.5)}" y="{place(y)}" width="{place(width)}"'
                f' height="{place(up(0) - y)}"><title>{escape(told)}</title></rect>'
            )
    return result


def _outline(bars: Bars, across: Scale, up: Scale) -> str:
    """Steps that begin and end on the ground."""
    steps = [f"M{place(across(bars.edges[0]))} {place(up(0))}"]
    for high, height in zip(bars.edges[1:], bars.heights, strict=True):
        steps.append(f"V{place(up(height))}H{place(across(high))}")
    return (
        f'<path class="line{bars.style}" d="{"".join(steps)}V{place(up(0))}"><title>{escape(bars.name)}</title></path>'
    )


def brief_range(low: float, high: float) -> str:
    """`0.5 to 0.7`, three digits each; the whole number in the middle of a bin of width 1 around it."""
    if high - low == 1 and low % 1 == 0.5:
        return f"{low + 0.5:g}"
    return f"{low:.3g} to {high:.3g}"


def bar_chart(rows: Sequence[tuple[str, float, str]], x_label: str, *, digits: int = 3) -> Markup:
    """Horizontal bars, (name, value, what the pointer is told) each, with their values at their ends."""
    step, top, bottom = 28, 6, 40
    height = top + step * len(rows) + bottom
    left = min(150.0, 12 + LETTER * max((len(name) for name, _, _ in rows), default=0))
    low, high = min(0.0, *(v for _, v, _ in rows), 0.0), max(0.0, *(v for _, v, _ in rows), 0.0)
    high = high if high > low else low + 1
    across = Scale(low, high, left + (38 if low < 0 else 0), WIDTH - 48)
    parts = _ground(across, top, height - bottom)
    for i, (name, value, told) in enumerate(rows):
        y, zero, end = top + i * step, across(0), across(value)
        anchor, beside = ("start", end + 5) if value >= 0 else ("end", end - 5)
        parts += [
            f"<g><title>{escape(told)}</title>",
            f'<text x="{place(left - 6)}" y="{y + 18}" text-anchor="end">{escape(shortened(name, 22))}</text>',
            f'<rect class="fill0" x="{place(min(zero, end))}" y="{y + 4}" width="{place(abs(end - zero))}"'
            ' height="20"/>',
            f'<text x="{place(beside)}" y="{y + 18}" text-anchor="{anchor}">{value:.{digits}f}</text></g>',
        ]
    return drawing([*parts, _label(across, height, x_label)], x_label, height=height)


def grouped_bar_chart(
    rows: Sequence[tuple[str, Sequence[float]]], series: Sequence[str], x_label: str, *, digits: int = 1
) -> Markup:
    """A group of horizontal bars for each (name, values), one bar a series, in the order of the legend."""
    thick, top, bottom = 18 if len(series) == 1 else 11, 6, 40
    step = thick * len(series) + 8
    height = top + step * len(rows) + bottom
    left = min(160.0, 12 + LETTER * max((len(name) for name, _ in rows), default=0))
    high = max((max(values) for _, values in rows), default=0.0) or 1.0
    across = Scale(0.0, high, left, WIDTH - 14)
    parts = _ground(across, top, height - bottom)
    for i, (name, values) in enumerate(rows):
        y = top + i * step
        told = ", ".join(f"{one} {value:.{digits}f}" for one, value in zip(series, values, strict=True))
        parts.append(f"<g><title>{escape(f'{name}: {told}')}</title>")
        middle = y + step / 2 + 4
        parts.append(
            f'<text x="{place(left - 6)}" y="{place(middle)}" text-anchor="end">{escape(shortened(name, 22))}</text>'
        )
        for k, value in enumerate(values):
            width = place(across(value) - left)
            at = f'x="{place(left)}" y="{y + 4 + k * thick}"'
            parts.append(f'<rect class="fill{k}" {at} width="{width}" height="{thick - 1}"/>')
        parts.append("</g>")
    return drawing([*parts, _label(across, height, x_label)], x_label, height=height)


def interval_chart(rows: Sequence[tuple[str, float, float, float, bool]], x_label: str) -> Markup:
    """(name, value, low, high, whether 0 lies outside): a dot on the line of each interval, and a line at 0."""
    step, top, bottom = 28, 6, 40
    height = top + step * len(rows) + bottom
    left = min(190.0, 12 + LETTER * max(len(name) for name, *_ in rows))
    low, high = min(0.0, *(row[2] for row in rows), 0.0), max(0.0, *(row[3] for row in rows), 0.0)
    across = Scale(low, high if high > low else low + 1, left + 8, WIDTH - 16)
    parts = _ground(across, top, height - bottom)
    parts.append(f'<path class="base" d="M{place(across(0))} {top}V{height - bottom}"/>')
    for i, (name, value, least, most, real) in enumerate(rows):
        y = top + i * step + 14
        told = f"{name}: {value:+.3f}, {least:+.3f} to {most:+.3f}"
        style = "line0" if real else "line-guide"
        parts += [
            f"<g><title>{escape(told)}</title>",
            f'<text x="{place(left)}" y="{y + 4}" text-anchor="end">{escape(shortened(name, 28))}</text>',
            f'<path class="{style}" d="M{place(across(least))} {y}H{place(across(most))}"/>',
            f'<circle class="fill0" cx="{place(across(value))}" cy="{y}" r="5"/></g>',
        ]
    return drawing([*parts, _label(across, height, x_label)], x_label, height=height)


def _ground(across: Scale, top: float, bottom: float) -> list[str]:
    """Lines across at the ticks of a horizontal axis, with their values below."""
    parts = []
    for mark in ticks(across.low, across.high, 5):
        x = place(across(mark))
        parts.append(f'<path class="grid" d="M{x} {top}V{bottom}"/>')
        parts.append(f'<text class="tick" x="{x}" y="{bottom + 16}" text-anchor="middle">{brief(mark)}</text>')
    return parts


def _label(across: Scale, height: float, text: str) -> str:
    x = place((across.start + across.end) / 2)
    return f'<text class="axis" x="{x}" y="{height - 6}" text-anchor="middle">{escape(text)}</text>'


def _scales(x: tuple[float, float], y: tuple[float, float], *, logarithmic: bool = False) -> tuple[Scale, Scale]:
    across = Scale(x[0], x[1], LEFT, WIDTH - RIGHT, logarithmic)
    return across, Scale(y[0], y[1], HEIGHT - BOTTOM, TOP)


def _axes(
    across: Scale, up: Scale, x_ticks: Sequence[float], y_ticks: Sequence[float], x_label: str, y_label: str
) -> list[str]:
    ground, right = place(up.start), place(across.end)
    parts = []
    for mark in y_ticks:
        y = place(up(mark))
        parts.append(f'<path class="grid" d="M{LEFT} {y}H{right}"/>')
        parts.append(
            f'<text class="tick" x="{LEFT - 6}" y="{place(up(mark) + 4)}" text-anchor="end">{brief(mark)}</text>'
        )
    for mark in x_ticks:
        x = place(across(mark))
        parts.append(f'<path class="base" d="M{x} {ground}v4"/>')
        parts.append(f'<text class="tick" x="{x}" y="{place(up.start + 17)}" text-anchor="middle">{brief(mark)}</text>')
    middle_x, middle_y = place((across.start + across.end) / 2), place((up.start + up.end) / 2)
    parts += [
        f'<path class="base" d="M{LEFT} {ground}H{right}"/>',
        f'<text class="axis" x="{middle_x}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>',
        f'<text class="axis" transform="translate(12 {middle_y}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_label)}</text>",
    ]
    return parts


def drawing(
    parts: Sequence[str], label: str, *, width: int = WIDTH, height: int = HEIGHT, fixed: bool = False
) -> Markup:
    """Parts that are markup already, under a label for those who do not see them; `fixed` ones are never shrunk."""
    size = f' width="{width}" height="{height}"' if fixed else ""
    head = f'<svg role="img" aria-label="{escape(label)}" viewBox="0 0 {width} {height}"{size}>'
    return Markup(head + "".join(parts) + "</svg>")


def shortened(text: str, letters: int) -> str:
    """At most so many letters; what is cut off is marked."""
    return text if len(text) <= letters else text[: letters - 1] + "…"
