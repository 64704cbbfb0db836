"""JSON Lines logger: `metrics.jsonl` with one line per epoch."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from cspdet.errors import UserError
from cspdet.io.atomic import write_text
from cspdet.training.loggers.base import Logger

log = logging.getLogger("cspdet")

METRICS_FILE = "metrics.jsonl"


class JsonlLogger(Logger):
    """Logger that appends one line per epoch; a resumed run replaces the lines of repeated epochs."""

    def log_metrics(self, metrics: dict[str, Any], step: int) -> None:
        """Append the metrics of an epoch, and remove earlier entries of the same or later epochs."""
        path = self.run_dir / METRICS_FILE
        lines = [old for old in read_metrics(path) if old["epoch"] < metrics["epoch"]] + [metrics]
        write_text(path, "".join(json.dumps(entry) + "\n" for entry in lines))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the entries of `metrics.jsonl`; return an empty list if the file does not exist.

    Invalid lines are skipped with a warning.
    """
    lines: list[dict[str, Any]] = []
    try:
        content = path.read_bytes() if path.is_file() else b""
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    for number, text in enumerate(content.splitlines(), 1):
        try:
            line = json.loads(text.decode("utf-8"))
            line["epoch"] + 0
        except (ValueError, KeyError, TypeError, RecursionError):
            log.warning("%s:%d: invalid line, skipped", path, number)
        else:
            lines.append(line)
    return lines
