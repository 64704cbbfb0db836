"""CSV text: values survive, and no text is a formula."""

from __future__ import annotations

import csv
import io

import pytest

from cspdet.io.csv_text import format_csv


def test_numbers_and_names_are_unchanged():
    text = format_csv(("class", "AP"), [("a, b\n\"c\"", -0.5), ("µ", None), ("x=1", float("nan"))])  # fmt: skip
    assert list(csv.reader(io.StringIO(text, newline=""))) == [
        ["class", "AP"], ["a, b\n\"c\"", "-0.5"], ["µ", ""], ["x=1", ""],
    ]  # fmt: skip


@pytest.mark.parametrize("name", ['=HYPERLINK("http://x")', "+1", "-1+2", "@SUM(A1)", "\t=1", "\n=1"])
def test_a_text_is_no_formula(name):
    ((cell,),) = csv.reader(io.StringIO(format_csv((name,), []), newline=""))
    assert cell == f"'{name}"


def test_control_characters_are_escaped():
    assert format_csv(("a\r=1", "b\x1b"), []) == "a\\u000d=1,b\\u001b\n"
