"""Progress of long loops, as a bar on a terminal; without a terminal, as a log line every 15 seconds."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

from tqdm import tqdm

from cspdet.io.names import plural
from cspdet.io.terminal import DEFAULT_WIDTH, escape_line, terminal_width

ItemT = TypeVar("ItemT")

LOG_INTERVAL_S, REDRAW_INTERVAL_S = 15.0, 0.1
MIN_BAR_WIDTH = 8  # columns of the terminal

log = logging.getLogger("cspdet")


def is_interactive() -> bool:
    """Return whether progress bars are shown.

    This is the case in the main process, if stderr is a terminal that can move the cursor, and the log is not limited
    to warnings.
    """
    has_terminal = terminal_width(sys.stderr) is not None and os.environ.get("TERM") != "dumb"
    return has_terminal and log.isEnabledFor(logging.INFO) and os.environ.get("RANK", "0") == "0"


class ProgressBar:
    """A progress bar in the last line of the terminal: name, percentage, bar, and as many fields as fit.

    Args:
        name: Name of the operation.
        total: Number of items; None: unknown, there is no bar.
    """

    def __init__(self, name: str, total: int | None):
        self._name, self._total, self._drawn_at = escape_line(name), total, -math.inf
        self._bar: tqdm[Any] = tqdm(total=total, leave=False, file=sys.stderr, bar_format="", ncols=1, nrows=20)

    def show(self, done: int, fields: Callable[[], Sequence[str]]) -> None:
        """Draw the bar, at most ten times per second.

        Args:
            done: Number of finished items.
            fields: Function that returns the texts behind the bar, the most important ones first.
        """
        if time.monotonic() - self._drawn_at < REDRAW_INTERVAL_S:
            return
        self._drawn_at = time.monotonic()
        width = (terminal_width(sys.stderr) or DEFAULT_WIDTH) - 1  # in the last column, terminals begin a new line
        self._bar.set_description_str(fit_text(self._name, width // 3), refresh=False)
        self._bar.n, self._bar.ncols = done, width
        meter = "{desc} " if self._total is None else "{desc} {percentage:3.0f}%|{bar}| "
        room = width - len(self._bar.desc) - 1 - (0 if self._total is None else MIN_BAR_WIDTH + len("100%|| "))
        self._bar.bar_format = meter + join_fields(fields(), room)
        self._bar.refresh()

    def close(self) -> None:
        """Remove the bar from the terminal."""
        self._bar.close()


def fit_text(text: str, width: int) -> str:
    """Return `text`, or its beginning and `...` if it is longer than `width`."""
    return text if len(text) <= width else f"{text[: width - 3]}..."


def join_fields(fields: Sequence[str], width: int) -> str:
    """Join the first fields with commas, as many as fit into `width`; braces are doubled for `str.format`."""
    texts = (", ".join(field for field in fields[:number] if field) for number in range(len(fields), 0, -1))
    return next((text for text in texts if len(text) <= width), "").replace("{", "{{").replace("}", "}}")


def format_seconds(seconds: float) -> str:
    """Format a duration as `0:07`, `12:34` or `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def progress(items: Iterable[ItemT], name: str, unit: str, total: int | None = None) -> Iterator[ItemT]:
    """Yield `items` and report the progress on stderr.

    Args:
        items: The items.
        name: Name of the operation.
        unit: Singular noun for an item, such as `image`.
        total: Number of items, if known.
    """
    started = last_log_time = time.monotonic()
    bar = ProgressBar(name, total) if is_interactive() else None
    try:
        for done, item in enumerate(items):
            if bar is not None:
                bar.show(done, partial(_fields, done, total, unit, started))
            elif time.monotonic() - last_log_time > LOG_INTERVAL_S:
                last_log_time = time.monotonic()
                log.info("%s: %s", name, ", ".join(_fields(done, total, unit, started)))
            yield item
    finally:
        if bar is not None:
            bar.close()


def _fields(done: int, total: int | None, unit: str, started: float) -> list[str]:
    """Return the number of items, the time left, and the rate."""
    seconds, units = time.monotonic() - started, plural(unit)
    if not total or not done:
        return [f"{done} {units}", *([f"{done / seconds:.1f} {units}/s"] if done else [])]
    left = format_seconds(seconds / done * max(0, total - done))
    return [f"{done}/{total} {units}", f"{left} left", f"{done / seconds:.1f} {units}/s"]
