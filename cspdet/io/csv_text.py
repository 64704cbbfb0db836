"""CSV text for spreadsheets and data frames: names from files cannot become formulas."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from cspdet.io.terminal import escape_text

Cell: TypeAlias = "str | int | float | None"
CsvRow: TypeAlias = "Sequence[Cell]"

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\n")


def format_csv(header: CsvRow, rows: Iterable[CsvRow]) -> str:
    """Return CSV text with one line per row.

    Spreadsheets evaluate text that starts with `=`, `+`, `-` or `@`. An apostrophe is put before such text (CWE-1236).
    Control characters are escaped. Numbers are written unchanged; None and NaN become an empty cell.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([_format_cell(cell) for cell in header])
    for row in rows:
        writer.writerow([_format_cell(cell) for cell in row])
    return text.getvalue()


def _format_cell(cell: Cell) -> Cell:
    if isinstance(cell, str):
        text = escape_text(cell)
        return f"'{text}" if text.startswith(FORMULA_STARTS) else text
    return "" if cell is None or cell != cell else cell
