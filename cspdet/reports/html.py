"""The frame of every page: the templates, whose output is escaped, filled with sections."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import jinja2

from cspdet import __version__
from cspdet.io.atomic import write_text
from cspdet.reports.components import CellValue, Column, ReportSection

DASH = "–"


def render(title: str, subtitle: str, sections: Sequence[ReportSection]) -> str:
    """The whole page as text. What the sections hold is shown as it is: `<b>` in a class name is no markup."""
    template = _environment().get_template("page.html")
    return template.render(title=title, subtitle=subtitle, sections=sections, version=__version__)


def write_page(path: Path, title: str, subtitle: str, sections: Sequence[ReportSection]) -> None:
    """Render into `path`, atomically.

    Raises:
        UserError: it cannot be written.
    """
    write_text(path, render(title, subtitle, sections))


def format_cell(value: CellValue, column: Column) -> str:
    """A cell's text: numbers with the column's digits, or four that count; thin spaces between thousands."""
    if value is None:
        return DASH
    if isinstance(value, str):
        return value
    sign = "+" if column.signed else ""
    format_spec = f".{column.digits}f" if column.digits is not None else ".4g" if isinstance(value, float) else ""
    text = f"{value:{sign},{format_spec}}"
    return text.replace(",", "\N{THIN SPACE}").replace("-", "\N{MINUS SIGN}")


def bar_percent(value: CellValue, column: Column) -> float | None:
    """Length of a cell's bar in percent of the cell, None without one."""
    if column.bar_max is None or not column.bar_max or value is None or isinstance(value, str):
        return None
    return round(100 * min(abs(value) / column.bar_max, 1.0), 1)


@cache
def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("cspdet.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["format_cell"] = format_cell
    made.filters["bar_percent"] = bar_percent
    return made
