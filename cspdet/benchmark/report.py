"""Format benchmark rows as a table, and plot the rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cspdet.benchmark.rows import BenchmarkRow
from cspdet.io.names import count
from cspdet.io.tables import Table
from cspdet.reports.figure_text import fonts_for, plain_text
from cspdet.reports.figures import save_figure

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
    with fonts_for(row.engine_info.name for row in rows):
        _draw_figure(rows, path)


def _draw_figure(rows: Sequence[BenchmarkRow], path: Path) -> None:
    from matplotlib.figure import Figure  # slow import

    figure = Figure(figsize=(8, 5), layout="constrained")
    panel = figure.subplots()
    known = [row for row in rows if row.bflops is not None]
    for i, engine_precision in enumerate(
        dict.fromkeys((row.engine_info.backend, row.engine_info.precision) for row in known)
    ):
        group = [row for row in known if (row.engine_info.backend, row.engine_info.precision) == engine_precision]
        work = [row.bflops or 0.0 for row in group]
        times = [row.forward.median / row.spec.batch for row in group]
        panel.scatter(work, times, marker=MARKERS[i % len(MARKERS)], label=plain_text(" ".join(engine_precision)))
    named: dict[str, BenchmarkRow] = {}
    for row in known:
        best = named.get(row.engine_info.name)
        if best is None or row.forward.median / row.spec.batch > best.forward.median / best.spec.batch:
            named[row.engine_info.name] = row
    for row in named.values():
        xy = (row.bflops or 0.0, row.forward.median / row.spec.batch)
        name = plain_text(row.engine_info.name)
        panel.annotate(name, xy, textcoords="offset points", xytext=(0, 6), ha="center", fontsize=8)
    for (device, precision), peak in {(r.spec.device, r.spec.precision): r.peak_gflops for r in known}.items():
        if peak is not None:
            ends = [min(row.bflops or 0.0 for row in known) * 0.8, max(row.bflops or 0.0 for row in known) * 1.25]
            label = f"matrix multiplication, {precision}: {peak:.0f} GFLOP/s on {device}"
            panel.plot(ends, [1000 * end / peak for end in ends], color="gray", linewidth=1, label=label)
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xlabel("BFLOPs per image")
    panel.set_ylabel("forward, ms per image (median)")
    panel.grid(visible=True, which="both", alpha=0.25)
    panel.legend(fontsize=8)
    save_figure(figure, path, 120)
