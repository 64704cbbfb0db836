"""Format benchmark rows as a table, and plot the rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cspdet.benchmark.rows import BenchmarkRow
from cspdet.io.names import count
from cspdet.io.tables import Table
from cspdet.reports.figure_text import fonts_for, plain_text
from cspdet.reports.figures import save_figure
from cspdet.reports.plot_style import MUTED, format_ticks, line_colors, plot_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

IMPORT_FORMAT_KEY = "through"  # key in `EngineInfo.versions`: the format from which OpenCV loaded the network
MARKERS = "osD^vP*X"
HEADINGS = ("model", "engine", "precision", "size", "batch", "forward ms", "forward p95",
            "end to end ms", "end to end p95", "images/s", "GFLOP/s", "of peak", "memory MiB")  # fmt: skip


def table(rows: Sequence[BenchmarkRow]) -> Table:
    """Return the table of the rows."""
    return Table(HEADINGS, [_cells(row) for row in rows], num_text=3)


def describe_environment(rows: Sequence[BenchmarkRow]) -> list[str]:
    """Return the lines below the table: devices, numbers of threads, peak throughput, versions of the libraries."""
    lines = []
    for device, threads in sorted({(row.engine_info.device, row.engine_info.threads) for row in rows}):
        lines.append(f"{device}, {count(threads, 'thread')}")
    peaks = {(row.spec.device, row.spec.precision): row.peak_gflops for row in rows if row.peak_gflops}
    for (device, precision), peak in peaks.items():
        lines.append(f"matrix multiplication on {device} in {precision}: {peak:.0f} GFLOP/s")
    named = {item for row in rows for item in row.engine_info.versions.items() if item[0] != IMPORT_FORMAT_KEY}
    lines.append(", ".join(f"{name} {text}" for name, text in sorted(named)))
    import_formats = {
        f"{row.engine_info.name} through {row.engine_info.versions[IMPORT_FORMAT_KEY]}"
        for row in rows
        if IMPORT_FORMAT_KEY in row.engine_info.versions
    }
    return [*lines, f"opencv: {', '.join(sorted(import_formats))}"] if import_formats else lines


def _cells(row: BenchmarkRow) -> list[str]:
    """Return the table cells of a row, in the order of HEADINGS."""
    end = row.end_to_end
    return [
        row.engine_info.name,
        row.engine_info.backend,
        row.engine_info.precision,
        f"{row.engine_info.size_hw[0]}x{row.engine_info.size_hw[1]}",
        str(row.spec.batch),
        f"{row.forward.median:.2f}",
        f"{row.forward.p95:.2f}",
        "--" if end is None else f"{end.median:.2f}",
        "--" if end is None else f"{end.p95:.2f}",
        f"{row.fps:.1f}",
        "--" if row.gflops is None else f"{row.gflops:.0f}",
        "--" if row.fraction_of_peak is None else f"{row.fraction_of_peak:.0%}",
        f"{row.peak_memory_mib:.0f}",
    ]


def plot(rows: Sequence[BenchmarkRow], path: Path) -> None:
    """Plot the forward time per image over the BFLOPs of the networks, with one marker per engine and precision.

    For each device and precision, a line shows the time at the peak throughput, which is measured by matrix
    multiplication.

    Args:
        rows: The measured rows.
        path: Output file, .png or .svg.

    Raises:
        UserError: The file cannot be written.
    """
    with plot_style(), fonts_for(row.engine_info.name for row in rows):
        _draw_figure(rows, path)


def _draw_figure(rows: Sequence[BenchmarkRow], path: Path) -> None:
    from matplotlib.figure import Figure  # slow import

    figure = Figure(figsize=(8, 5), layout="constrained")
    panel = figure.subplots()
    known = [row for row in rows if row.bflops is not None]
    groups: dict[tuple[str, str], list[BenchmarkRow]] = {}
    for row in known:
        groups.setdefault((row.engine_info.backend, row.engine_info.precision), []).append(row)
    for i, (names, color) in enumerate(zip(groups, line_colors(len(groups)), strict=True)):
        points = [_point(row) for row in groups[names]]
        label, marker = plain_text(" ".join(names)), MARKERS[i % len(MARKERS)]
        panel.scatter(*zip(*points, strict=True), marker=marker, color=color, label=label, zorder=3)
    _annotate_models(panel, known)
    _draw_peaks(panel, known)
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.margins(x=0.1, y=0.1)
    panel.set_xlabel("BFLOPs per image")
    panel.set_ylabel("forward, ms per image (median)")
    format_ticks(panel)
    panel.legend(fontsize=8)
    save_figure(figure, path, 120)


def _point(row: BenchmarkRow) -> tuple[float, float]:
    """Return the BFLOPs and the forward time in ms of a row, per image."""
    return row.bflops or 0.0, row.forward.median / row.spec.batch


def _annotate_models(panel: Axes, rows: Sequence[BenchmarkRow]) -> None:
    """Write the name of each model above its slowest row."""
    slowest: dict[str, tuple[float, float]] = {}
    for row in rows:
        name, point = row.engine_info.name, _point(row)
        slowest[name] = max(slowest.get(name, point), point, key=lambda xy: xy[1])
    for name, xy in slowest.items():
        panel.annotate(plain_text(name), xy, textcoords="offset points", xytext=(0, 7), ha="center", fontsize=8)


def _draw_peaks(panel: Axes, rows: Sequence[BenchmarkRow]) -> None:
    """Draw the time at the peak throughput of each device and precision over the range of the BFLOPs."""
    bflops = [_point(row)[0] for row in rows]
    peaks = {(row.spec.device, row.spec.precision): row.peak_gflops for row in rows if row.peak_gflops is not None}
    for (device, precision), peak in peaks.items():
        ends = [min(bflops) * 0.8, max(bflops) * 1.25]
        label = f"matrix multiplication, {precision}: {peak:.0f} GFLOP/s on {device}"
        panel.plot(ends, [1000 * end / peak for end in ends], color=MUTED, linewidth=1, label=label)
