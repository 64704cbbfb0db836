"""Progress: a bar that fits the terminal and keeps the first fields, log lines above it, and plain lines elsewhere."""

from __future__ import annotations

import io
import logging
import re
from types import SimpleNamespace

import pytest

from cspdet.io import progress as progress_module
from cspdet.io.progress import ProgressBar, format_seconds, is_interactive, join_fields, progress
from cspdet.io.terminal import LogFormatter, LogHandler

log = logging.getLogger("cspdet")


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch):
    """stderr is a terminal of 80 columns, and cspdet logs to it."""
    stream = Terminal()
    monkeypatch.setattr(progress_module, "sys", SimpleNamespace(stderr=stream))  # pytest sets sys.stderr itself
    monkeypatch.setattr(progress_module, "REDRAW_INTERVAL_S", 0.0)
    for name, value in {"COLUMNS": "80", "TERM": "xterm", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    handler = LogHandler(stream)
    handler.setFormatter(LogFormatter(stream=stream))
    log.addHandler(handler)
    level = log.level
    log.setLevel(logging.INFO)
    yield stream
    log.setLevel(level)
    log.removeHandler(handler)


def test_the_bar_keeps_the_most_important_fields(terminal, monkeypatch):
    bar = ProgressBar("epoch 3/50", 456)
    fields = ["loss 3.210", "0:31 left", "12.3 images/s", "2.1 GiB", "data wait 3%"]
    for columns in ("80", "60", "40"):
        monkeypatch.setenv("COLUMNS", columns)
        bar.show(123, lambda: fields)
    bar.close()
    wide, middle, narrow = [text.rstrip() for text in terminal.getvalue().split("\r") if "epoch" in text]
    assert wide.startswith("epoch 3/50  27%|")
    assert wide.endswith("| loss 3.210, 0:31 left, 12.3 images/s, 2.1 GiB")
    assert (len(wide), len(middle), len(narrow)) == (79, 59, 39)
    assert middle.endswith("| loss 3.210, 0:31 left")
    assert narrow.endswith("| loss 3.210")
    assert terminal.getvalue().split("\r")[-2].strip() == ""  # the bar is removed


def test_a_log_line_is_above_the_bar(terminal):
    for index in progress(range(4), "evaluating {x}", "batch", 4):
        if index == 2:
            log.warning("look")
    drawn = [text.strip() for text in re.split("[\r\n]", terminal.getvalue()) if text.strip()]
    (line,) = [i for i, text in enumerate(drawn) if "look" in text]
    assert drawn[line].endswith("\x1b[33mwarning:\x1b[0m look")
    assert drawn[line - 1] == drawn[line + 1]
    assert drawn[-1].startswith("evaluating {x}  75%|")
    assert "3/4 batches, 0:00 left, " in drawn[-1]


def test_without_total_there_are_counts(terminal):
    assert list(progress(iter("ab"), "camera", "frame")) == ["a", "b"]
    assert "camera 1 frames, " in terminal.getvalue()
    assert "|" not in terminal.getvalue()


@pytest.mark.parametrize(("name", "value"), [("TERM", "dumb"), ("RANK", "1")])
def test_other_processes_and_simple_terminals_have_no_bar(name, value, terminal, monkeypatch):
    assert is_interactive()
    monkeypatch.setenv(name, value)
    assert not is_interactive()


def test_a_file_gets_lines_now_and_then(monkeypatch, caplog):
    monkeypatch.setattr(progress_module, "LOG_INTERVAL_S", -1.0)
    monkeypatch.setattr(log, "propagate", True)
    with caplog.at_level(logging.INFO, "cspdet"):
        assert len(list(progress(range(3), "evaluating", "batch", 3))) == 3
    messages = list(dict.fromkeys(caplog.messages))  # each is captured twice if an earlier command ran
    assert messages[0] == "evaluating: 0 batches"
    assert messages[2].startswith("evaluating: 2/3 batches, 0:00 left, ")


def test_durations_and_fields():
    assert [format_seconds(s) for s in (7.4, 754, 3723)] == ["0:07", "12:34", "1:02:03"]
    assert [join_fields(["abc", "", "d{e"], width) for width in (9, 8, 7, 3, 2)] == [
        "abc, d{{e", "abc, d{{e", "abc", "abc", "",
    ]  # fmt: skip
