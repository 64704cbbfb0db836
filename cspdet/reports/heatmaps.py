"""Heatmaps of box positions."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape

from cspdet.reports.charts import svg_element
from cspdet.reports.scales import format_coord, ticks

MAX_TICKS = 5  # of the color scale


SIDE, LEFT, TOP = 240.0, 60.0, 18.0  # of the map, in SVG units
BAR_GAP, BAR_WIDTH, BAR_STEPS = 20.0, 14.0, 24  # of the color scale at the right side of the map


def heatmap(cells: Sequence[Sequence[float]], x_label: str, y_label: str, value_name: str) -> Markup:
    """Draw a square heatmap with the origin at the upper left, and its color scale.

    Args:
        cells: Value of each cell, by row and column; the highest value has the strongest color.
        x_label: Title of the horizontal axis.
        y_label: Title of the vertical axis.
        value_name: Unit of the values, for tooltips and the color scale.
    """
    max_value = max((max(row) for row in cells), default=0) or 1
    middle = LEFT + SIDE / 2
    parts = [
        f'<rect class="frame" x="{LEFT}" y="{TOP}" width="{SIDE}" height="{SIDE}"/>',
        *_cells(cells, max_value, value_name),
        f'<text class="axis" x="{middle}" y="{TOP - 5}" text-anchor="middle">{escape(x_label)}</text>',
        f'<text class="axis" transform="translate({LEFT - 8} {TOP + SIDE / 2}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_label)}</text>",
        *_color_scale(max_value, value_name),
    ]
    return svg_element(parts, f"{value_name} by position", height=round(TOP + SIDE + 8))


def _cells(cells: Sequence[Sequence[float]], max_value: float, value_name: str) -> list[str]:
    width, height = SIDE / len(cells[0]), SIDE / len(cells)
    size = f'width="{format_coord(width)}" height="{format_coord(height)}"'
    parts = ['<g class="cells">']
    for i, row in enumerate(cells):
        for j, value in enumerate(row):
            if value:
                x, y = format_coord(LEFT + j * width), format_coord(TOP + i * height)
                parts.append(
                    f'<rect class="heat" fill-opacity="{_opacity(value / max_value)}" x="{x}" y="{y}" {size}>'
                    f"<title>{value:.4g} {escape(value_name)}</title></rect>"
                )
    return [*parts, "</g>"]


def _color_scale(max_value: float, value_name: str) -> list[str]:
    """Draw the colors from 0 to the maximum, with ticks and the unit."""
    left, bottom = LEFT + SIDE + BAR_GAP, TOP + SIDE
    right, step = left + BAR_WIDTH, SIDE / BAR_STEPS
    parts = [f'<g class="cells scale"><rect class="frame" x="{left}" y="{TOP}" width="{BAR_WIDTH}" height="{SIDE}"/>']
    for i in range(BAR_STEPS):
        upper = format_coord(bottom - (i + 1) * step)
        parts.append(
            f'<rect class="heat" fill-opacity="{_opacity((i + 0.5) / BAR_STEPS)}" x="{left}" y="{upper}"'
            f' width="{BAR_WIDTH}" height="{format_coord(step)}"/>'
        )
    marks = [mark for mark in ticks(0.0, max_value, MAX_TICKS) if mark <= 0.93 * max_value]
    for mark in (*marks, max_value):
        y = bottom - mark / max_value * SIDE
        parts.append(f'<path class="base" d="M{right} {format_coord(y)}h4"/>')
        parts.append(f'<text class="tick" x="{right + 7}" y="{format_coord(y + 4)}">{mark:.3g}</text>')
    at = f"translate({right + 52} {TOP + SIDE / 2}) rotate(-90)"
    return [*parts, f'<text class="axis" transform="{at}" text-anchor="middle">{escape(value_name)}</text></g>']


def _opacity(fraction: float) -> str:
    """Return the fill opacity for a fraction; it is at least 0.06, so that small fractions are visible."""
    return f"{0.06 + 0.94 * fraction:.2f}"
