"""Plot training curves from the `metrics.jsonl` of one or several runs.

One panel per group of metrics (losses, AP, learning rate, speed), one color per run, one line style per metric. A line
without a key is skipped in its curve; null and NaN leave a gap.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from cspdet.errors import ConfigError, DataError, did_you_mean
from cspdet.io.atomic import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes

XAxis = Literal["epoch", "images_seen", "step"]
X_AXES: tuple[XAxis, ...] = ("epoch", "images_seen", "step")
X_AXIS_LABELS = {"epoch": "epoch", "images_seen": "images seen", "step": "optimizer step"}
FORMATS = (".png", ".svg")
# Keys drawn by default, if a run has them.
DEFAULT_KEYS = ("loss", "AP", "AP50", "top1", "top5", "lr", "images_per_second")
LOSS_PARTS = ("loss_box", "loss_objectness", "loss_class")  # drawn by default for a single run
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#999999")  # Okabe and Ito 2008
STYLES = ("-", "--", ":", "-.")
PANEL_INCHES = (5.0, 2.3)  # narrow, to be readable on a phone
DPI = 160
MAX_NAME_LENGTH = 34  # characters of a run name in the legend; longer names are truncated at the start
LARGE_MARKER_MAX_POINTS = 60  # curves with more points have smaller markers
EVAL_METRIC_PREFIXES = ("AP", "AR", "top")  # of keys from evaluations


@dataclass(frozen=True)
class RunMetrics:
    """The lines of a `metrics.jsonl`, with NaN for null and non-finite values."""

    name: str
    path: Path
    lines: tuple[dict[str, float], ...]
    is_truncated: bool  # the last line is incomplete and omitted

    @property
    def keys(self) -> tuple[str, ...]:
        """All keys in file order."""
        return tuple(dict.fromkeys(key for line in self.lines for key in line))

    def curve(self, key: str, x: XAxis) -> tuple[np.ndarray, np.ndarray]:
        """Return (n,) positions and (n,) values of the lines with the key."""
        points = [(line[x], line[key]) for line in self.lines if key in line]
        return np.array([at for at, _ in points]), np.array([value for _, value in points])

    def best(self, key: str) -> dict[str, float] | None:
        """Return the first line with the highest value of a key; None without finite values."""
        measured = [line for line in self.lines if math.isfinite(line.get(key, math.nan))]
        return max(measured, key=lambda line: line[key]) if measured else None


def read_runs(paths: Sequence[Path]) -> list[RunMetrics]:
    """Read the metrics of runs, given as run directories or `metrics.jsonl` files; duplicates are read once.

    Each run is named after its directory, with as many parents as needed to be unique.

    Raises:
        DataError: a missing or empty file, or a line that is not a JSON object of numbers.
    """
    files = list(dict.fromkeys(_metrics_file(path).absolute() for path in paths))
    return [_read_metrics(path, name) for path, name in zip(files, _unique_names(files), strict=True)]


def _metrics_file(path: Path) -> Path:
    file = path / "metrics.jsonl" if path.is_dir() else path
    if file.is_file():
        return file
    if path.is_dir():
        raise DataError(f"{path}: expected a run directory, found no metrics.jsonl in it")
    siblings = [other.name for other in path.parent.glob("*")] if path.parent.is_dir() else []
    raise DataError(
        f"{path}: no such run{did_you_mean(path.name, siblings)}; expected a run directory or its metrics.jsonl"
    )


def _unique_names(files: Sequence[Path]) -> list[str]:
    """The shortest suffixes of the directory paths that are unique."""
    folders = [file.parent.parts if file.name == "metrics.jsonl" else (*file.parent.parts, file.stem) for file in files]
    for length in range(1, max(map(len, folders)) + 1):
        names = ["/".join(parts[-length:]) for parts in folders]
        if len(set(names)) == len(names):
            return names
    return [str(file) for file in files]


def _read_metrics(path: Path, name: str) -> RunMetrics:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
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
    """Return the keys to draw: those requested, or the default ones that some run has.

    Raises:
        ConfigError: a key that no run has.
        DataError: a line without the key `x`.
    """
    for run in runs:
        for line_number, line in enumerate(run.lines, start=1):
            if not math.isfinite(line.get(x, math.nan)):
                raise DataError(f"{run.path}: non-empty line {line_number} has no number {x!r} for the x axis")
    known = [key for key in dict.fromkeys(key for run in runs for key in run.keys) if key not in X_AXES]
    if requested is None:
        default_keys = [key for key in DEFAULT_KEYS if key in known] or known
        return default_keys + [key for key in LOSS_PARTS if key in known and len(runs) == 1]
    unknown = [key for key in requested if key not in known]
    if unknown or not requested:
        actual = f"{unknown[0]!r}{did_you_mean(unknown[0], known)}" if unknown else "none"
        raise ConfigError(f"--keys: expected keys that a run has, found {actual}; available: {', '.join(known)}")
    return list(dict.fromkeys(requested))


def smooth(values: np.ndarray, width: int) -> np.ndarray:
    """Return the (n,) moving average over `width` values, ignoring NaN; NaN stays NaN."""
    known = np.isfinite(values)
    window = np.ones(width)
    reach = (width - 1) // 2, width // 2  # to the left, to the right
    total = np.convolve(np.pad(np.where(known, values, 0.0), reach), window, mode="valid")
    count = np.convolve(np.pad(known.astype(float), reach), window, mode="valid")
    return np.where(known, total / np.maximum(count, 1), np.nan)


# --- plotting ------------------------------------------------------------------------------------


def validate_output_path(path: Path) -> None:
    """Check that `path` can be the file of a plot.

    Raises:
        ConfigError: another suffix than .png and .svg, or a folder.
    """
    if path.suffix.lower() not in FORMATS or path.is_dir():
        raise ConfigError(f"--output: expected a file ending in {' or '.join(FORMATS)}, found {str(path)!r}")


def draw_curves(
    runs: Sequence[RunMetrics],
    keys: Sequence[str],
    path: Path,
    *,
    x: XAxis = "epoch",
    smoothing: int = 1,
    title: str | None = None,
) -> None:
    """Plot keys of runs to a PNG or SVG file; the same values give the same file.

    Args:
        runs: the runs, one color each.
        keys: the keys to draw; see `select_keys`.
        path: the output file.
        x: key of the x axis.
        smoothing: window of the moving average of losses and speed; 1: none. Raw values are drawn lightly.
        title: heading of the figure.

    Raises:
        ConfigError: another suffix.
        UserError: the file cannot be written.
    """
    import matplotlib  # slow import
    from matplotlib.figure import Figure

    validate_output_path(path)
    groups: dict[str, list[str]] = {}
    for key in keys:
        groups.setdefault(panel_name(key), []).append(key)
    height = len(groups) * PANEL_INCHES[1] + (0.4 if title else 0.1) + 0.2 * (len(runs) if len(runs) > 1 else 0)
    figure = Figure(figsize=(PANEL_INCHES[0], height), layout="constrained")
    panels = figure.subplots(len(groups), 1, sharex=True, squeeze=False)[:, 0]
    colors = _colors(len(runs))
    for panel, (name, members) in zip(panels, groups.items(), strict=True):
        _draw_panel(panel, name, members, runs, colors, x, smoothing)
    panels[-1].set_xlabel(X_AXIS_LABELS[x])
    heading = _escape_mathtext(title) if title else None
    if heading and len(runs) == 1:
        figure.suptitle(heading, fontsize=11)
    if len(runs) > 1:
        from matplotlib.lines import Line2D

        metric_key = next((key for key in keys if key.startswith(EVAL_METRIC_PREFIXES)), None)
        handles = [Line2D([], [], color=color) for color in colors]
        # A suptitle would overlap the legend, so the heading is the title of the legend.
        entries = [_legend_label(run, metric_key, x) for run in runs]
        figure.legend(handles, entries, loc="outside upper center", fontsize=8, title=heading, title_fontsize=11)
    file_format = path.suffix.lower()[1:]
    with atomic_write(path) as tmp_path, matplotlib.rc_context({"svg.hashsalt": "cspdet"}):
        figure.savefig(tmp_path, format=file_format, dpi=DPI, metadata={"Date": None} if file_format == "svg" else None)


def panel_name(key: str) -> str:
    """Return the name of the panel in which a key is drawn."""
    if key.startswith("loss"):
        return "loss"
    if key.startswith(EVAL_METRIC_PREFIXES):
        return "accuracy" if key.startswith("top") else key[:2]
    return {"lr": "learning rate", "images_per_second": "images per second"}.get(key, key)


def _draw_panel(
    panel: Axes,
    name: str,
    keys: Sequence[str],
    runs: Sequence[RunMetrics],
    colors: Sequence[str],
    x: XAxis,
    smoothing: int,
) -> None:
    is_eval_metric, bests = keys[0].startswith(EVAL_METRIC_PREFIXES), list[str]()
    smoothing = 1 if is_eval_metric or keys[0] == "lr" else smoothing
    for run, color in zip(runs, colors, strict=True):
        for key_index, key in enumerate(keys):
            at, values = run.curve(key, x)
            if not np.isfinite(values).any():
                continue
            alone = len(values) == 1
            marker = ("o" if len(values) <= LARGE_MARKER_MAX_POINTS else ".") if is_eval_metric or alone else ""
            if smoothing > 1:
                panel.plot(at, values, color=color, linewidth=0.6, alpha=0.3)
                values = smooth(values, smoothing)
            width = 1.0 if key_index else 1.3
            panel.plot(at, values, STYLES[key_index % len(STYLES)], color=color, lw=width, marker=marker, markersize=3)
        best = run.best(keys[0]) if is_eval_metric else None
        if best is not None:
            panel.plot([best[x]], [best[keys[0]]], "*", markersize=9 if len(runs) == 1 else 7, color=color)
            bests.append(_format_best(best, keys[0], x))
    panel.set_ylabel(_escape_mathtext(name))
    panel.grid(alpha=0.3)
    panel.margins(x=0.02)
    panel.ticklabel_format(axis="x", style="plain", useOffset=False)
    if len(keys) > 1 or (bests and len(runs) == 1):  # the legend of the figure has the best values of several runs
        _add_legend(panel, keys if len(keys) > 1 else (), bests if len(runs) == 1 else ())


def _add_legend(panel: Axes, keys: Sequence[str], bests: Sequence[str]) -> None:
    """Add a legend of line styles and, for a single run, best values."""
    from matplotlib.lines import Line2D

    handles = [panel.plot([], [], STYLES[i % len(STYLES)], color="#444444")[0] for i in range(len(keys))]
    handles += [Line2D([], [], linestyle="", marker="*", color=COLORS[0]) for _ in bests]
    panel.legend(handles, [_escape_mathtext(label) for label in (*keys, *bests)], fontsize=7, framealpha=0.7)


def _legend_label(run: RunMetrics, key: str | None, x: XAxis) -> str:
    """Legend entry of one of several runs."""
    name = run.name if len(run.name) <= MAX_NAME_LENGTH else f"...{run.name[3 - MAX_NAME_LENGTH :]}"
    best = None if key is None else run.best(key)
    return _escape_mathtext(name if best is None or key is None else f"{name}: {_format_best(best, key, x)}")


def _format_best(best: dict[str, float], key: str, x: XAxis) -> str:
    where = {"epoch": "at epoch {:.0f}", "images_seen": "after {:.0f} images", "step": "at step {:.0f}"}[x]
    return f"best {key} {best[key]:.4f} {where.format(best[x])}"


def _colors(count: int) -> list[str]:
    """Return distinct colors; up to 8 are distinguishable for color-blind readers."""
    if count <= len(COLORS):
        return list(COLORS[:count])
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colormaps["turbo"](0.05 + 0.9 * i / (count - 1))) for i in range(count)]


def _escape_mathtext(text: str) -> str:
    """Escape `$` (mathtext) and a leading underscore (such entries are hidden in legends)."""
    text = text.replace("$", r"\$")
    return f"./{text}" if text.startswith("_") else text
