"""Tables for terminals. A table that is too wide for the terminal is transposed."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO

from cspdet.io.terminal import escape_text, has_color, terminal_width, wrap_line

GAP = 2  # columns of the terminal between two columns of a table
MIN_TEXT_WIDTH = 16  # columns of text may be wrapped to this width

Rows = Sequence[Sequence[str]]


@dataclass(frozen=True)
class Table:
    """A table of text. The first column has the names of the rows.

    Attributes:
        columns: Names of the columns.
        rows: Cells of each row; a missing value is an empty text.
        num_text: Number of text columns. They come first, are left-aligned, and their cells may be wrapped. The other
            columns have numbers and are right-aligned.
    """

    columns: Sequence[str]
    rows: Rows
    num_text: int = 1


def format_lines(blocks: Iterable[str | Table], stream: IO[str]) -> list[str]:
    """Format lines of text and tables for a stream.

    On a terminal, lines and tables have at most the width of the terminal, and column names are bold. In another
    stream, every line of text and every row of a table is one line. Control characters, and characters that the
    encoding of the stream lacks, are escaped.
    """
    width, encoding = terminal_width(stream), getattr(stream, "encoding", None) or "utf-8"
    lines: list[str] = []
    for block in blocks:
        if isinstance(block, str):
            lines += wrap_line(_escape(block, encoding), width)
        else:
            columns = [_escape(name, encoding) for name in block.columns]
            rows = [[_escape(cell, encoding) for cell in row] for row in block.rows]
            lines += _format_table(Table(columns, rows, block.num_text), width, colored=has_color(stream))
    return lines


def _escape(text: str, encoding: str) -> str:
    return escape_text(text, encoding).replace("\n", "\\n").replace("\t", " ")


def _format_table(table: Table, width: int | None, *, colored: bool) -> list[str]:
    """Return the lines of a table. If it cannot be wrapped to `width`, it is transposed."""
    if width is None or _min_width(table) <= width:
        return _render(table, width, colored=colored)
    parts = list(_turned(table, width))
    lines = [line for part in parts for line in ["", *_render(part, width, colored=colored)]]
    return lines[1:]


def _widths(table: Table) -> list[int]:
    """Return the number of terminal columns that each column of the table needs."""
    from rich.cells import cell_len

    return [max(map(cell_len, column)) for column in zip(table.columns, *table.rows, strict=True)]


def _min_width(table: Table) -> int:
    """Return the width of a table whose text is wrapped as far as possible."""
    widths = _widths(table)
    text = sum(min(width, MIN_TEXT_WIDTH) for width in widths[: table.num_text])
    return text + sum(widths[table.num_text :]) + GAP * (len(widths) - 1)


def _turned(table: Table, width: int) -> Iterator[Table]:
    """Yield the transposed table in parts. A part has as many rows of the table as fit into `width`, at least one."""
    part: list[Sequence[str]] = []
    for row in table.rows:
        if part and _min_width(_turn(table.columns, [*part, row])) > width:
            yield _turn(table.columns, part)
            part = []
        part.append(row)
    yield _turn(table.columns, part)


def _turn(columns: Sequence[str], rows: Rows) -> Table:
    names, *lines = zip(columns, *rows, strict=True)
    filled = [line for line in lines if any(line[1:])]
    return Table(names, filled, num_text=2 if len(rows) == 1 else 1)


def _render(table: Table, width: int | None, *, colored: bool) -> list[str]:
    """Return the lines of a table without transposing it."""
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    grid = RichTable(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="")
    for i, name in enumerate(table.columns):
        is_text = i < table.num_text
        grid.add_column(
            Text.assemble((name, "bold")), justify="left" if is_text else "right", no_wrap=not is_text, overflow="fold"
        )
    for row in table.rows:
        grid.add_row(*map(Text, row))
    natural = sum(_widths(table)) + GAP * (len(table.columns) - 1)
    console = Console(
        file=io.StringIO(), width=natural if width is None else min(natural, width), force_terminal=colored,
        color_system="standard" if colored else None, legacy_windows=False, no_color=False, highlight=False,
    )  # fmt: skip
    with console.capture() as capture:
        console.print(grid)
    return [line.rstrip() for line in capture.get().rstrip("\n").split("\n")]
