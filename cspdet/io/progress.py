"""How far a long loop has come: a bar on a terminal, otherwise a line in the log now and then."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

SECONDS_BETWEEN_LINES = 15.0

log = logging.getLogger("cspdet")


def shows_bars() -> bool:
    """Whether stderr is a terminal, and this is the process that speaks for all of a run."""
    return sys.stderr.isatty() and os.environ.get("RANK", "0") == "0"


def progress(items: Iterable[Item], name: str, unit: str, total: int | None = None) -> Iterator[Item]:
    """Hand on `items`, of which there are `total` if that is known, and tell on stderr how many are done."""
    if shows_bars():
        yield from tqdm(items, desc=name, unit=unit, total=total, file=sys.stderr, leave=False)
        return
    told = time.monotonic()
    for done, item in enumerate(items):
        if time.monotonic() - told > SECONDS_BETWEEN_LINES:
            told = time.monotonic()
            log.info("%s: %d%s %s", name, done, f" of {total}" if total else "", f"{unit}s")
        yield item
