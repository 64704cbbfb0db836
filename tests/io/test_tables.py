"""Tables: they fit the terminal or are turned, nothing is cut, and only terminals get colour."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from cspdet.io.names import count, plural
from cspdet.io.tables import Table, format_lines
from cspdet.io.terminal import has_color, terminal_width, wrap_line

CODES = re.compile(r"\x1b\[[0-9;]*m")
COSTS = Table(
    ("model", "size", "parameters", "BFLOPs"),
    [("yolov3", "416x416", "61,949,149", "65.86"), ("yolov3_tiny", "416x416", "8,849,182", "5.56")],
)


class Terminal(io.StringIO):
    """A stream that says that it is a terminal; it has no size of its own."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


def lines_at(width: int | None, monkeypatch, *blocks: str | Table) -> list[str]:
    if width is not None:
        monkeypatch.setenv("COLUMNS", str(width))
    return [CODES.sub("", line) for line in format_lines(blocks, io.StringIO() if width is None else Terminal())]


def test_a_table_that_fits_has_one_line_per_row(monkeypatch):
    expected = [
        "model           size  parameters  BFLOPs",
        "yolov3       416x416  61,949,149   65.86",
        "yolov3_tiny  416x416   8,849,182    5.56",
    ]
    assert lines_at(None, monkeypatch, COSTS) == expected
    assert lines_at(40, monkeypatch, COSTS) == expected


def test_a_table_that_does_not_fit_is_turned(monkeypatch):
    assert lines_at(39, monkeypatch, COSTS) == [
        "model           yolov3  yolov3_tiny",
        "size           416x416      416x416",
        "parameters  61,949,149    8,849,182",
        "BFLOPs           65.86         5.56",
    ]
    assert lines_at(25, monkeypatch, COSTS)[:6] == [
        "model       yolov3",
        "size        416x416",
        "parameters  61,949,149",
        "BFLOPs      65.86",
        "",
        "model       yolov3_tiny",
    ]


def test_text_is_wrapped_before_the_table_is_turned(monkeypatch):
    table = Table(("name", "summary", "AP"), [("a", "the small detector of the paper", "26.8")], num_text=2)
    assert lines_at(30, monkeypatch, table) == [
        "name  summary               AP",
        "a     the small detector  26.8",
        "      of the paper",
    ]


CELLS = st.text(st.characters(codec="utf-8"), max_size=30)


@given(st.integers(1, 6), st.data())
def test_no_line_is_wider_than_the_terminal_and_no_character_is_lost(columns, data):
    rows = data.draw(st.lists(st.lists(CELLS, min_size=columns, max_size=columns), max_size=4))
    table = Table([f"c{i}" for i in range(columns)], rows, num_text=data.draw(st.integers(1, columns)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "80")
        lines = [CODES.sub("", line) for line in format_lines([table], Terminal())]
    assert all(cell_len(line) <= 80 for line in lines)
    assert "\x1b" not in "".join(lines)
    for cell in (cell for row in rows for cell in row if cell.isascii() and cell.isalnum() and len(cell) < 10):
        assert cell in "".join(lines)


@pytest.mark.parametrize("width", [20, 80])
def test_lines_are_wrapped_at_spaces_and_words_stay_whole(width, monkeypatch):
    path = "runs/" + "x" * 90
    lines = lines_at(width, monkeypatch, f"  the files are written to {path} and are read from there")
    assert " ".join(" ".join(lines).split()) == f"the files are written to {path} and are read from there"
    assert [line for line in lines if len(line) > width] == [next(line for line in lines if path in line)]
    assert all(line.startswith("    ") for line in lines[1:])
    assert wrap_line("a b c", None) == ["a b c"]


def test_names_cannot_send_control_codes(monkeypatch):
    table = Table(("class", "n"), [("a\x1b[31m\nb\tc [bold]d[/bold] :smile:", "1")])
    assert "a\\u001b[31m\\nb c [bold]d[/bold] :smile:  1" in "\n".join(lines_at(None, monkeypatch, table))


@pytest.mark.parametrize(
    ("environment", "on_terminal", "in_pipe"),
    [
        ({}, True, False),
        ({"NO_COLOR": "1"}, False, False),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, False, False),
        ({"FORCE_COLOR": "1"}, True, True),
        ({"FORCE_COLOR": "0"}, True, False),
        ({"TERM": "dumb"}, False, False),
    ],
)
def test_colour_is_for_terminals_that_show_it(environment, on_terminal, in_pipe, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (has_color(Terminal()), has_color(io.StringIO()), has_color(None)) == (on_terminal, in_pipe, False)
    assert ("\x1b" in "".join(format_lines([COSTS], Terminal()))) is on_terminal


def test_the_width_is_that_of_the_terminal(monkeypatch):
    assert (terminal_width(None), terminal_width(io.StringIO()), terminal_width(Terminal())) == (None, None, 80)
    monkeypatch.setenv("COLUMNS", "100")
    assert terminal_width(Terminal()) == 100
    monkeypatch.setenv("COLUMNS", "3")
    assert terminal_width(Terminal()) == 20


@pytest.mark.parametrize(
    ("noun", "expected"),
    [
        ("car", "cars"), ("bus", "buses"), ("wine glass", "wine glasses"), ("box", "boxes"), ("bench", "benches"),
        ("epoch", "epochs"),
        ("toothbrush", "toothbrushes"), ("berry", "berries"), ("toy", "toys"), ("person", "people"),
        ("computer mouse", "computer mice"), ("sheep", "sheep"), ("scissors", "scissors"), ("Platelets", "Platelets"),
        ("RBC", "RBCs"), ("class_7", "class_7"), ("猫", "猫"), ("", ""),
    ],
)  # fmt: skip
def test_plurals(noun, expected):
    assert plural(noun) == expected
    assert (count(1, noun), count(2000, noun)) == (f"1 {noun}", f"2,000 {expected}")
