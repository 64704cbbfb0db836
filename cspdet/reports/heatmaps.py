"""Heatmaps of box positions."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape

from cspdet.reports.charts import svg_element
from cspdet.reports.scales import format_coord


def heatmap(cells: Sequence[Sequence[float]], x_label: str, y_label: str, value_name: str) -> Markup:
    """Draw a square heatmap with the origin at the upper left.

    Args:
        cells: Value of each cell, by row and column; the highest value has the strongest color.
        x_label: Title of the horizontal axis.
        y_label: Title of the vertical axis.
        value_name: Unit of the values, for tooltips.
    """
    rows, columns = len(cells), len(cells[0])
    side, left, top = 240.0, 90.0, 18.0
    max_value = max((max(row) for row in cells), default=0) or 1
    width, height = side / columns, side / rows
    parts = [f'<rect class="frame" x="{left}" y="{top}" width="{side}" height="{side}"/><g class="cells">']
    size = f'width="{format_coord(width)}" height="{format_coord(height)}"'
    for i, row in enumerate(cells):
        for j, value in enumerate(row):
            if value:
                x, y = format_coord(left + j * width), format_coord(top + i * height)
                parts.append(
                    f'<rect class="heat" fill-opacity="{_opacity(value / max_value)}" x="{x}" y="{y}" {size}>'
                    f"<title>{value:.4g} {escape(value_name)}</title></rect>"
                )
    middle = left + side / 2
    parts += [
        "</g>",
        f'<text class="axis" x="{middle}" y="{top - 5}" text-anchor="middle">{escape(x_label)}</text>',
        f'<text class="axis" transform="translate({left - 8} {top + side / 2}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_label)}</text>",
    ]
    return svg_element(parts, f"{value_name} by position", height=round(top + side + 8))


def _opacity(fraction: float) -> str:
    """Return the fill opacity for a fraction; it is at least 0.06, so that small fractions are visible."""
    return f"{0.06 + 0.94 * fraction:.2f}"
