"""Render report sections to one HTML page with Jinja templates; all values are escaped."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import jinja2

from cspdet import __version__
from cspdet.inference import palette
from cspdet.io.atomic import write_text
from cspdet.reports.components import CellValue, Column, ReportSection
from cspdet.reports.facts import Facts, page_facts

DASH = "–"


def render(title: str, subtitle: str, sections: Sequence[ReportSection], facts: Facts = ()) -> str:
    """Return the HTML of a page. All values are escaped: `<b>` in a class name is shown as text.

    Args:
        title: Title of the page.
        subtitle: A line below the title.
        sections: The content.
        facts: Labels and values in the head of the page, such as model and date.
    """
    template = _environment().get_template("page.html")
    return template.render(
        title=title, subtitle=subtitle, sections=sections, facts=facts, palette=palette, version=__version__
    )


def write_page(
    path: Path, title: str, subtitle: str, sections: Sequence[ReportSection], facts: Facts | None = None
) -> None:
    """Render a page and write it to `path` atomically; see `render`.

    Without `facts`, the head has the date, the command and the versions.

    Raises:
        UserError: The file cannot be written.
    """
    write_text(path, render(title, subtitle, sections, page_facts() if facts is None else facts))


def format_cell(value: CellValue, column: Column) -> str:
    """Format the value of a table cell.

    Numbers have `column.digits` decimals. If `column.digits` is None, floats have four significant digits. Thin spaces
    separate thousands.
    """
    if value is None:
        return DASH
    if isinstance(value, str):
        return value
    sign = "+" if column.signed else ""
    format_spec = f".{column.digits}f" if column.digits is not None else ".4g" if isinstance(value, float) else ""
    text = f"{value:{sign},{format_spec}}"
    return text.replace(",", "\N{THIN SPACE}").replace("-", "\N{MINUS SIGN}")


def format_live(value: CellValue) -> str:
    """Format a count, or a fraction with three decimals. The script of the page uses the same format."""
    return format_cell(value, Column("", 3 if isinstance(value, float) else None, True))


def bar_percent(value: CellValue, column: Column) -> float | None:
    """Return the length of the bar in a cell as a percentage of the cell width, or None if the cell has no bar."""
    if column.bar_max is None or not column.bar_max or value is None or isinstance(value, str):
        return None
    return round(100 * min(abs(value) / column.bar_max, 1.0), 1)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cspdet.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["format_cell"] = format_cell
    environment.filters["bar_percent"] = bar_percent
    environment.filters["format_live"] = format_live
    return environment
