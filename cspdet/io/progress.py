"""Progress of long loops, as a bar on a terminal; without a terminal, as a log line every 15 seconds."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from cspdet.io.names import plural
from cspdet.io.terminal import escape_line

ItemT = TypeVar("ItemT")

LOG_INTERVAL_S = 15.0

log = logging.getLogger("cspdet")


def is_interactive() -> bool:
    """Return whether stderr is a terminal, the log is not limited to warnings, and this is the main process."""
    has_terminal = sys.stderr is not None and sys.stderr.isatty()  # None: the process has no stderr
    return has_terminal and log.isEnabledFor(logging.INFO) and os.environ.get("RANK", "0") == "0"


def progress(items: Iterable[ItemT], name: str, unit: str, total: int | None = None) -> Iterator[ItemT]:
    """Yield `items` and report the progress on stderr.

    Args:
        items: The items.
        name: Name of the operation.
        unit: Singular noun for an item, such as `image`.
        total: Number of items, if known.
    """
    if is_interactive():
        yield from tqdm(items, desc=escape_line(name), unit=unit, total=total, file=sys.stderr, leave=False)
        return
    last_log_time = time.monotonic()
    for done, item in enumerate(items):
        if time.monotonic() - last_log_time > LOG_INTERVAL_S:
            last_log_time = time.monotonic()
            log.info("%s: %d%s %s", name, done, f" of {total}" if total else "", plural(unit))
        yield item
