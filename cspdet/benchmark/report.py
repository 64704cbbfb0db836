"""The rows as a table to read and as a drawing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cspdet.benchmark.rows import Row
from cspdet.io.atomic import temporary

WORDS = 3  # columns of text, aligned at the left; the others are numbers
THROUGH = "through"  # among the versions: the format in which OpenCV got the network
MARKERS = "osD^vP*X"
HEADINGS = ("model", "engine", "precision", "size", "batch", "forward ms", "p95", "end to end ms", "p95",
            "pictures/s", "GFLOP/s", "of peak", "memory MiB")  # fmt: skip


def table(rows: Sequence[Row]) -> list[str]:
    """The rows in Markdown, aligned so that they can be read as they stand."""
    cells = [list(HEADINGS), *(_cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(HEADINGS))]
    lines = ["| " + " | ".join(_aligned(text, i, widths[i]) for i, text in enumerate(line)) + " |" for line in cells]
    rules = ("-" * (width + 2) if i < WORDS else "-" * (width + 1) + ":" for i, width in enumerate(widths))
    return [lines[0], f"|{'|'.join(rules)}|", *lines[1:]]


def conditions(rows: Sequence[Row]) -> list[str]:
    """What the rows were measured on: machine, threads, matrix product, versions."""
    lines = []
    for device, threads in sorted({(row.about.device, row.about.threads) for row in rows}):
        lines.append(f"{device}, {threads} thread{'s' if threads != 1 else ''}")
    peaks = {(row.spec.device, row.spec.precision): row.peak_gflops for row in rows if row.peak_gflops}
    for (device, precision), peak in peaks.items():
        lines.append(f"matrix product on {device} in {precision}: {peak:.0f} GFLOP/s")
    named = {item for row in rows for item in row.about.versions.items() if item[0] != THROUGH}
    lines.append(", ".join(f"{name} {text}" for name, text in sorted(named)))
    ways = {f"{row.about.name} through {row.about.versions[THROUGH]}" for row in rows if THROUGH in row.about.versions}
    return [*lines, f"opencv: {', '.join(sorted(ways))}"] if ways else lines


def _cells(row: Row) -> list[str]:
    """One row's texts, in the order of HEADINGS."""
    end = row.end_to_end
    return [
        row.about.name,
        row.about.backend,
        row.about.precision,
        f"{row.about.size_hw[0]}x{row.about.size_hw[1]}",
        str(row.spec.batch),
        f"{row.forward.median:.2f}",
        f"{row.forward.p95:.2f}",
        "--" if end is None else f"{end.median:.2f}",
        "--" if end is None else f"{end.p95:.2f}",
        f"{row.fps:.1f}",
        "--" if row.gflops is None else f"{row.gflops:.0f}",
        "--" if row.share_of_peak is None else f"{row.share_of_peak:.0%}",
        f"{row.peak_memory_mib:.0f}",
    ]


def _aligned(text: str, column: int, width: int) -> str:
    return text.ljust(width) if column < WORDS else text.rjust(width)


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw the forward time of a picture over the network's BFLOPs, a marker an engine and precision.

    The line is what the matrix product's rate would allow. `path` ends in .png or .svg.

    Raises:
        UserError: the file cannot be written.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure  # takes a second, and only drawings need it

    figure = Figure(figsize=(8, 5), layout="constrained")
    panel = figure.subplots()
    known = [row for row in rows if row.bflops is not None]
    for i, kind in enumerate(dict.fromkeys((row.about.backend, row.about.precision) for row in known)):
        own = [row for row in known if (row.about.backend, row.about.precision) == kind]
        work = [row.bflops or 0.0 for row in own]
        times = [row.forward.median / row.spec.batch for row in own]
        panel.scatter(work, times, marker=MARKERS[i % len(MARKERS)], label=" ".join(kind))
    named: dict[str, Row] = {}
    for row in known:
        best = named.get(row.about.name)
        if best is None or row.forward.median / row.spec.batch > best.forward.median / best.spec.batch:
            named[row.about.name] = row
    for row in named.values():
        place = (row.bflops or 0.0, row.forward.median / row.spec.batch)
        panel.annotate(row.about.name, place, textcoords="offset points", xytext=(0, 6), ha="center", fontsize=8)
    for (device, precision), peak in {(r.spec.device, r.spec.precision): r.peak_gflops for r in known}.items():
        if peak is not None:
            ends = [min(row.bflops or 0.0 for row in known) * 0.8, max(row.bflops or 0.0 for row in known) * 1.25]
            label = f"matrix product, {precision}: {peak:.0f} GFLOP/s on {device}"
            panel.plot(ends, [1000 * end / peak for end in ends], color="gray", linewidth=1, label=label)
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xlabel("BFLOPs a picture")
    panel.set_ylabel("forward, ms a picture (median)")
    panel.grid(visible=True, which="both", alpha=0.25)
    panel.legend(fontsize=8)
    with temporary(path) as draft, rc_context({"svg.hashsalt": "cspdet"}):
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(draft, format=path.suffix[1:], dpi=120, metadata=metadata)
