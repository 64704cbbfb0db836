"""Plot training curves from the `metrics.jsonl` of one or several runs.

Each group of metrics (losses, AP, learning rate, speed) has a panel. For a single run, each metric has its own color
and line style. For several runs, each run has its own color and each metric its own line style. The curve of a key
skips the lines of the file without this key, and has a gap at null and NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cspdet.errors import ConfigError
from cspdet.reports.figure_text import fonts_for, plain_text
from cspdet.reports.figures import check_plot, save_figure
from cspdet.reports.plot_style import MUTED, format_ticks, line_colors, plot_style
from cspdet.reports.run_metrics import METRICS_FILE, RunMetrics, XAxis, read_runs, select_keys

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

X_AXIS_LABELS = {"epoch": "epoch", "images_seen": "images seen", "step": "optimizer step"}
FORMATS = (".png", ".svg")
CURVES_FILE = "curves.png"  # in the run folder
STYLES: tuple[Literal["-", "--", ":", "-."], ...] = ("-", "--", ":", "-.")
PANEL_INCHES = (5.0, 2.3)  # narrow, to be readable on a phone
DPI = 160
LEGEND_COLUMNS = 4
MAX_NAME_LENGTH = 34  # characters of a run name in the legend; longer names are truncated at the start
LARGE_MARKER_MAX_POINTS = 60  # curves with more points have smaller markers
EVAL_METRIC_PREFIXES = ("AP", "AR", "top")  # prefixes of the keys of evaluations


def smooth(values: np.ndarray, width: int) -> np.ndarray:
    """Compute the (n,) moving average over `width` values. NaN values are ignored in the average and stay NaN."""
    known = np.isfinite(values)
    window = np.ones(width)
    reach = (width - 1) // 2, width // 2  # to the left, to the right
    total = np.convolve(np.pad(np.where(known, values, 0.0), reach), window, mode="valid")
    count = np.convolve(np.pad(known.astype(float), reach), window, mode="valid")
    return np.where(known, total / np.maximum(count, 1), np.nan)


def validate_output_path(path: Path) -> None:
    """Check that `path` can be the file of a plot.

    Raises:
        ConfigError: The suffix is not .png or .svg, or `path` is a folder.
        UserError: `path` is a file, but not a plot.
    """
    if path.suffix.lower() not in FORMATS or path.is_dir():
        raise ConfigError(f"--output: expected a file ending in {' or '.join(FORMATS)}, found {str(path)!r}")
    check_plot(path)


def draw_curves(
    runs: Sequence[RunMetrics],
    keys: Sequence[str],
    path: Path,
    *,
    x: XAxis = "epoch",
    smoothing: int = 1,
    title: str | None = None,
) -> None:
    """Plot curves of several runs to a PNG or SVG file; equal values produce identical files.

    Args:
        runs: The runs; each run has its own color.
        keys: The keys to draw; see `select_keys`.
        path: The output file.
        x: Key of the x axis.
        smoothing: Window of the moving average of losses and speed; 1: none. Raw values are drawn as thin lines.
        title: Heading of the figure.

    Raises:
        ConfigError: The suffix is not .png or .svg.
        UserError: The file cannot be written.
    """
    validate_output_path(path)
    with plot_style(), fonts_for([title or "", *(run.name for run in runs)]):
        _draw_figure(runs, keys, path, x, smoothing, title)


def draw_run_curves(run_dir: Path) -> Path | None:
    """Plot the curves of a run to `curves.png` in its folder.

    Returns:
        The file; None if `metrics.jsonl` is missing or contains no epoch.

    Raises:
        UserError: A file cannot be read or written.
    """
    metrics_file = run_dir / METRICS_FILE
    if not metrics_file.is_file() or metrics_file.stat().st_size == 0:
        return None
    runs = read_runs([run_dir])
    path = run_dir / CURVES_FILE
    draw_curves(runs, select_keys(runs, None, "epoch"), path, title=runs[0].name)
    return path


def _draw_figure(
    runs: Sequence[RunMetrics], keys: Sequence[str], path: Path, x: XAxis, smoothing: int, title: str | None
) -> None:
    from matplotlib.figure import Figure  # slow import

    groups: dict[str, list[str]] = {}
    for key in keys:
        groups.setdefault(panel_name(key), []).append(key)
    height = len(groups) * PANEL_INCHES[1] + (0.4 if title else 0.1) + 0.2 * (len(runs) if len(runs) > 1 else 0)
    figure = Figure(figsize=(PANEL_INCHES[0], height), layout="constrained")
    panels = figure.subplots(len(groups), 1, sharex=True, squeeze=False)[:, 0]
    for panel, (name, members) in zip(panels, groups.items(), strict=True):
        _draw_panel(panel, name, members, runs, x, smoothing)
    panels[-1].set_xlabel(X_AXIS_LABELS[x])
    figure.align_ylabels()
    if len(runs) > 1:
        _add_runs_legend(figure, runs, keys, x, title)
    elif title:
        figure.suptitle(plain_text(title), fontsize=11)
    save_figure(figure, path, DPI)


def _add_runs_legend(
    figure: Figure, runs: Sequence[RunMetrics], keys: Sequence[str], x: XAxis, title: str | None
) -> None:
    """Add a legend of the runs with their best values. The title of the figure is the title of the legend."""
    from matplotlib.lines import Line2D

    metric_key = next((key for key in keys if key.startswith(EVAL_METRIC_PREFIXES)), None)
    handles = [Line2D([], [], color=color) for color in line_colors(len(runs))]
    entries = [_legend_label(run, metric_key, x) for run in runs]
    heading = plain_text(title) if title else None
    figure.legend(handles, entries, loc="outside upper center", fontsize=8, title=heading, title_fontsize=11)


def panel_name(key: str) -> str:
    """Return the name of the panel in which a key is drawn."""
    if key.startswith("loss"):
        return "loss"
    if key.startswith(EVAL_METRIC_PREFIXES):
        return "accuracy" if key.startswith("top") else key[:2]
    return {"lr": "learning rate", "images_per_second": "images per second"}.get(key, key)


def _draw_panel(
    panel: Axes, name: str, keys: Sequence[str], runs: Sequence[RunMetrics], x: XAxis, smoothing: int
) -> None:
    is_eval_metric, bests = keys[0].startswith(EVAL_METRIC_PREFIXES), list[str]()
    smoothing = 1 if is_eval_metric or keys[0] == "lr" else smoothing
    key_colors = line_colors(len(keys))
    for run, run_color in zip(runs, line_colors(len(runs)), strict=True):
        for i, key in enumerate(keys):
            color = run_color if len(runs) > 1 else key_colors[i]
            _draw_curve(panel, *run.curve(key, x), STYLES[i % len(STYLES)], color, smoothing, dots=is_eval_metric)
        best = run.best(keys[0]) if is_eval_metric else None
        if best is not None:
            panel.plot([best[x]], [best[keys[0]]], "*", markersize=9 if len(runs) == 1 else 7, color=run_color)
            bests.append(_format_best(best, keys[0], x))
    panel.set_ylabel(plain_text(name))
    panel.margins(x=0.02)
    if keys[0] == "images_per_second":
        panel.set_ylim(bottom=0)
    format_ticks(panel, integer_x=True)
    if len(keys) > 1 or (bests and len(runs) == 1):  # the legend of the figure has the best values of several runs
        line_style_colors = [MUTED] * len(keys) if len(runs) > 1 else key_colors
        _add_legend(panel, keys if len(keys) > 1 else (), line_style_colors, bests if len(runs) == 1 else ())


def _draw_curve(
    panel: Axes, at: np.ndarray, values: np.ndarray, style: str, color: str, smoothing: int, *, dots: bool
) -> None:
    """Draw a curve; without finite values nothing is drawn. A curve of one point, or with `dots`, has markers."""
    if not np.isfinite(values).any():
        return
    marker = "o" if len(values) <= LARGE_MARKER_MAX_POINTS else "."
    if smoothing > 1:
        panel.plot(at, values, color=color, linewidth=0.6, alpha=0.35)
        values = smooth(values, smoothing)
    panel.plot(at, values, style, color=color, lw=1.5, marker=marker if dots or len(values) == 1 else "", markersize=3)


def _add_legend(panel: Axes, keys: Sequence[str], colors: Sequence[str], bests: Sequence[str]) -> None:
    """Add a legend above the panel, outside the curves: the lines and, for a single run, the best values."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], linestyle=STYLES[i % len(STYLES)], color=color)
        for i, color in zip(range(len(keys)), colors, strict=False)
    ]
    handles += [Line2D([], [], linestyle="", marker="*", color=colors[0]) for _ in bests]
    labels = [plain_text(label) for label in (*keys, *bests)]
    place: Any = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2, "ncols": LEGEND_COLUMNS}
    panel.legend(handles, labels, fontsize=7, handlelength=2.6, columnspacing=1.2, **place)


def _legend_label(run: RunMetrics, key: str | None, x: XAxis) -> str:
    """Return the legend label of a run: its name and its best value."""
    name = run.name if len(run.name) <= MAX_NAME_LENGTH else f"...{run.name[3 - MAX_NAME_LENGTH :]}"
    best = None if key is None else run.best(key)
    return plain_text(name if best is None or key is None else f"{name}: {_format_best(best, key, x)}")


def _format_best(best: dict[str, float], key: str, x: XAxis) -> str:
    where = {"epoch": "at epoch {:.0f}", "images_seen": "after {:.0f} images", "step": "at step {:.0f}"}[x]
    return f"best {key} {best[key]:.4f} {where.format(best[x])}"
