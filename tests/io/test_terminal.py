"""What is printed and logged: no control codes from names, one line per record, any encoding."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cspdet.errors import UserError
from cspdet.io.terminal import LogFormatter, escape_line, escape_text, escaped_stdout

TEXTS = st.text(st.characters(codec=None, exclude_categories=()), max_size=30)


@given(TEXTS, st.sampled_from(["utf-8", "ascii", "cp1252", "latin-1", "shift_jis"]))
def test_escaped_text_can_be_printed_and_is_the_same_json(text, encoding):
    document = escape_text(json.dumps([text], ensure_ascii=False), encoding)
    document.encode(encoding)
    assert json.loads(document) == [text]
    escaped = escape_text(text, encoding)
    assert not {c for c in escaped if unicodedata.category(c) in ("Cc", "Cs") and c not in "\t\n"}
    assert len(escape_line(text).split("\n")) == 1


def test_plain_text_stays():
    text = "Straße 猫 😀\tµ"
    assert escape_text(text) == text
    assert escape_text(text, "ascii") == "Stra\\u00dfe \\u732b \\ud83d\\ude00\t\\u00b5"


def test_stdout_is_escaped_in_the_encoding_of_the_stream():
    stream = io.TextIOWrapper(io.BytesIO(), "cp1252", newline="\n")
    with escaped_stdout(stream):
        print("café 猫 \x1b]0;title\x07")
    stream.flush()
    assert stream.buffer.getvalue().decode("cp1252") == "café \\u732b \\u001b]0;title\\u0007\n"  # type: ignore[attr-defined]


class FullDisk(io.StringIO):
    """A stream that cannot be flushed."""

    def flush(self) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_an_error_with_a_message():
    with (
        pytest.raises(UserError, match="standard output: cannot be written: No space left"),
        escaped_stdout(FullDisk()),
    ):
        print("text")
    with escaped_stdout(None):
        pass  # a process without stdout


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_log_lines_fit_the_terminal_and_have_colour(monkeypatch):
    for name, value in {"COLUMNS": "40", "TERM": "xterm", "NO_COLOR": "", "FORCE_COLOR": "0"}.items():
        monkeypatch.setenv(name, value)
    formatter = LogFormatter(stream=Terminal())
    message = "error: %s: expected a number, found a word"
    record = logging.LogRecord("cspdet", logging.ERROR, "x.py", 1, message, ("a.yaml",), None)
    assert formatter.format(record) == "\x1b[1;31merror:\x1b[0m a.yaml: expected a number, found\n  a word"
    record = logging.LogRecord("cspdet", logging.WARNING, "x.py", 1, "a warning: b c d e f g h i", (), None)
    assert re.fullmatch(
        r"[\d: -]{15}\x1b\[33mwarning:\x1b\[0m a warning: b c d\n {15}e f g h i", formatter.format(record)
    )


@pytest.mark.parametrize(
    ("level", "pattern"),
    [
        (logging.INFO, r"\d\d-\d\d \d\d:\d\d:\d\d a\\nb\\u001b\.jpg: 3 lines\n of text"),
        (logging.WARNING, r"\d\d-\d\d \d\d:\d\d:\d\d warning: a\\nb\\u001b\.jpg: 3 lines\n of text"),
        (logging.ERROR, r"a\\nb\\u001b\.jpg: 3 lines\n of text"),
    ],
)
def test_log_lines(level, pattern):
    record = logging.LogRecord("cspdet", level, "x.py", 1, "%s: %d lines\n of text", ("a\nb\x1b.jpg", 3), None)
    assert re.fullmatch(pattern, LogFormatter().format(record))
    assert re.fullmatch(pattern.replace("a\\\\n", "rank 1: a\\\\n", 1) if level == logging.ERROR else ".*(\n.*)?",
                        LogFormatter("rank 1: ").format(record))  # fmt: skip
