"""Heatmaps of box positions and of confusion matrices."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape

from cspdet.reports.charts import CHAR_WIDTH, svg_element, truncate_text
from cspdet.reports.scales import format_coord, format_tick


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


def matrix_chart(
    names: Sequence[str],
    counts: Sequence[Sequence[int]],
    totals: Sequence[int],
    row_label: str,
    column_label: str,
    *,
    columns: Sequence[str],
) -> Markup:
    """Draw a matrix of counts; the color of a cell shows its fraction of the row total.

    Args:
        names: Names of the rows.
        counts: Count of each cell, by row and column; cells with 0 are blank.
        totals: Total of each row, including columns that are not drawn.
        row_label: Title of the rows.
        column_label: Title of the columns.
        columns: Names of the columns.
    """
    cell = 34.0
    left = 34 + min(140.0, CHAR_WIDTH * max(map(len, names), default=0))
    top = 34 + min(110.0, CHAR_WIDTH * max(map(len, columns), default=0))
    parts = [
        f'<text class="axis" x="{format_coord(left)}" y="12">{escape(column_label)}</text>',
        f'<text class="axis" transform="translate(12 {format_coord(top + cell * len(names) / 2)}) rotate(-90)"'
        f' text-anchor="middle">{escape(row_label)}</text>',
    ]
    for j, name in enumerate(columns):
        at = f"translate({format_coord(left + (j + 0.6) * cell)} {format_coord(top - 6)}) rotate(-60)"
        parts.append(f'<text transform="{at}">{escape(truncate_text(name, 20))}<title>{escape(name)}</title></text>')
    for i, (name, row) in enumerate(zip(names, counts, strict=True)):
        y, total = top + i * cell, totals[i]
        text = escape(truncate_text(name, 20))
        parts.append(
            f'<text x="{format_coord(left - 6)}" y="{format_coord(y + 21)}" text-anchor="end">{text}'
            f"<title>{escape(name)}</title></text>"
        )
        for j, count in enumerate(row):
            parts += _matrix_cell(left + j * cell, y, cell, count, total, f"{name} as {columns[j]}")
    width, height = left + cell * len(columns) + 40, top + cell * len(names) + 8
    return svg_element(
        parts, f"{row_label} by {column_label}", width=round(width), height=round(height), fixed_size=True
    )


def _matrix_cell(x: float, y: float, cell: float, count: int, total: int, name: str) -> list[str]:
    fraction = count / total if total else 0.0
    box = f'x="{format_coord(x)}" y="{format_coord(y)}" width="{format_coord(cell)}" height="{format_coord(cell)}"'
    tooltip = escape(f"{name}: {count} of {total} ({fraction:.0%})")
    parts = [f'<g><title>{tooltip}</title><rect class="frame" {box}/>']
    if count:
        style = ' class="on-heat"' if fraction > 0.5 else ""
        parts.append(f'<rect class="heat" fill-opacity="{_opacity(fraction)}" {box}/>')
        middle = f'x="{format_coord(x + cell / 2)}" y="{format_coord(y + cell / 2 + 4)}"'
        parts.append(f'<text {middle} text-anchor="middle"{style}>{format_tick(float(count))}</text>')
    return [*parts, "</g>"]


def _opacity(fraction: float) -> str:
    """Return the fill opacity for a fraction; it is at least 0.06, so that small fractions are visible."""
    return f"{0.06 + 0.94 * fraction:.2f}"
