"""Read the metrics of training runs from `metrics.jsonl`, and select the keys to plot."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from cspdet.errors import ConfigError, DataError, check_all, did_you_mean

XAxis = Literal["epoch", "images_seen", "step"]
METRICS_FILE = "metrics.jsonl"
X_AXES: tuple[XAxis, ...] = ("epoch", "images_seen", "step")
# Keys drawn by default, if a run has them.
DEFAULT_KEYS = ("loss", "AP", "AP50", "top1", "top5", "lr", "images_per_second")
LOSS_PARTS = ("loss_box", "loss_objectness", "loss_class")  # drawn by default for a single run


@dataclass(frozen=True)
class RunMetrics:
    """The lines of a `metrics.jsonl` file as dicts of numbers; null and non-finite values become NaN."""

    name: str
    path: Path
    lines: tuple[dict[str, float], ...]
    is_truncated: bool  # the last line is incomplete and omitted

    @property
    def keys(self) -> tuple[str, ...]:
        """All keys of the file, in the order of their first occurrence."""
        return tuple(dict.fromkeys(key for line in self.lines for key in line))

    def curve(self, key: str, x: XAxis) -> tuple[np.ndarray, np.ndarray]:
        """Return the (n,) x values and the (n,) values of a key, from the lines that contain the key."""
        points = [(line[x], line[key]) for line in self.lines if key in line]
        return np.array([at for at, _ in points]), np.array([value for _, value in points])

    def best(self, key: str) -> dict[str, float] | None:
        """Return the first line with the highest value of a key; None if no value is finite."""
        measured = [line for line in self.lines if math.isfinite(line.get(key, math.nan))]
        return max(measured, key=lambda line: line[key]) if measured else None


def read_runs(paths: Sequence[Path]) -> list[RunMetrics]:
    """Read the metrics of several runs.

    Each run is named after its directory. If names are equal, parent directories are added until they are unique.

    Args:
        paths: Run directories or `metrics.jsonl` files; a file that is given twice is read once.

    Raises:
        DataError: A file is missing or empty, or a line is not a JSON object.
    """
    check_all(*(partial(_metrics_file, path) for path in paths))
    files = list(dict.fromkeys(_metrics_file(path).absolute() for path in paths))
    return [_read_metrics(path, name) for path, name in zip(files, _unique_names(files), strict=True)]


def _metrics_file(path: Path) -> Path:
    file = path / METRICS_FILE if path.is_dir() else path
    if file.is_file():
        return file
    if path.is_dir():
        raise DataError(f"{path}: expected a run directory, found no metrics.jsonl in it")
    siblings = [other.name for other in path.parent.glob("*")] if path.parent.is_dir() else []
    raise DataError(
        f"{path}: no such run{did_you_mean(path.name, siblings)}; expected a run directory or its metrics.jsonl"
    )


def _unique_names(files: Sequence[Path]) -> list[str]:
    """Return a name per file: the end of its directory path, as short as possible so that all names differ."""
    folders = [file.parent.parts if file.name == METRICS_FILE else (*file.parent.parts, file.stem) for file in files]
    for length in range(1, max(map(len, folders)) + 1):
        names = ["/".join(parts[-length:]) for parts in folders]
        if len(set(names)) == len(names):
            return names
    return [str(file) for file in files]


def _read_metrics(path: Path, name: str) -> RunMetrics:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    rows = [(line_number, row) for line_number, row in enumerate(text.split("\n"), start=1) if row.strip()]
    lines, is_truncated = [], False
    for line_number, row in rows:
        try:
            values = json.loads(row)
        except (ValueError, RecursionError):
            if line_number == rows[-1][0]:
                is_truncated = True
                continue
            raise DataError(f"{path}:{line_number}: expected a JSON object, found {row[:40]!r}") from None
        if not isinstance(values, dict):
            raise DataError(f"{path}:{line_number}: expected a JSON object, found {row[:40]!r}")
        lines.append({key: _finite_or_nan(value) for key, value in values.items() if _is_number(value)})
    if not lines:
        raise DataError(
            f"{path}: expected one line per epoch, found {'only an incomplete one' if is_truncated else 'none'}"
        )
    return RunMetrics(name, path, tuple(lines), is_truncated)


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _finite_or_nan(value: float | None) -> float:
    if value is None or abs(value) > 1e300 or not math.isfinite(value):
        return math.nan
    return float(value)


def select_keys(runs: Sequence[RunMetrics], requested: Sequence[str] | None, x: XAxis) -> list[str]:
    """Return the keys to draw: the requested keys, or the default keys that at least one run has.

    Raises:
        ConfigError: No run has a requested key.
        DataError: A line has no value for the x axis.
    """
    for run in runs:
        for line_number, line in enumerate(run.lines, start=1):
            if not math.isfinite(line.get(x, math.nan)):
                raise DataError(f"{run.path}: non-empty line {line_number} has no number {x!r} for the x axis")
    known = [key for key in dict.fromkeys(key for run in runs for key in run.keys) if key not in X_AXES]
    if requested is None:
        if not known:
            raise DataError(
                f"{runs[0].path}: expected numbers to plot over {x!r}, found only {', '.join(runs[0].keys)}"
            )
        default_keys = [key for key in DEFAULT_KEYS if key in known] or known
        return default_keys + [key for key in LOSS_PARTS if key in known and len(runs) == 1]
    unknown = [key for key in requested if key not in known]
    if unknown or not requested:
        actual = f"{unknown[0]!r}{did_you_mean(unknown[0], known)}" if unknown else "none"
        raise ConfigError(f"--keys: expected keys that a run has, found {actual}; available: {', '.join(known)}")
    return list(dict.fromkeys(requested))
