"""Plot the training curves of one or several runs, read from their metrics.jsonl, to a PNG or SVG file.

  cspdet plot runs/csppelee_efm
  cspdet plot runs/csppelee_efm runs/csppelee_efm-2 --output runs/plot.svg --keys loss,AP --x images_seen

A run that is still in progress can be plotted. A run has no curve for keys that are not in its metrics.jsonl.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from cspdet.cli.arguments import print_lines
from cspdet.errors import ConfigError

if TYPE_CHECKING:
    from cspdet.reports.run_metrics import RunMetrics

log = logging.getLogger("cspdet")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `plot`."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders, or metrics.jsonl files")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="a .png or .svg file (default: curves.png in the folder of a single run, else runs/plot.png)",
    )
    parser.add_argument("--keys", metavar="K,K,...", help="keys to plot (default: losses, AP, AP50, lr, speed)")
    parser.add_argument(
        "--x", choices=("epoch", "images_seen", "step"), default="epoch", help="horizontal axis (default: epoch)"
    )
    parser.add_argument(
        "--smooth", type=int, default=1, metavar="N", help="moving average of losses and speed over N lines"
    )
    parser.add_argument("--title", metavar="TEXT", help="title of the plot (default: the name of a single run)")


def run(args: argparse.Namespace) -> None:
    """Read the metrics, draw the curves, and print a summary."""
    from cspdet.datasets.descriptor import display_path
    from cspdet.reports.run_metrics import read_runs, select_keys
    from cspdet.reports.training_curves import CURVES_FILE, draw_curves, validate_output_path

    if args.overrides:
        raise ConfigError(f"plot: takes no overrides, found {args.overrides[0]!r}")
    if not 1 <= args.smooth <= 10_000:
        raise ConfigError(f"--smooth: expected a number of lines from 1 to 10000, found {args.smooth}")
    runs = read_runs(args.runs)
    output: Path = args.output or (runs[0].path.parent / CURVES_FILE if len(runs) == 1 else Path("runs/plot.png"))
    validate_output_path(output)
    requested_keys = None if args.keys is None else [key.strip() for key in args.keys.split(",") if key.strip()]
    keys = select_keys(runs, requested_keys, args.x)
    for metrics in runs:
        if metrics.is_truncated:
            log.warning("%s: the last line is incomplete and is ignored", metrics.path)
    title = args.title if args.title is not None else runs[0].name if len(runs) == 1 else None
    draw_curves(runs, keys, output, x=args.x, smoothing=args.smooth, title=title)
    print_lines([*summary(runs), f"written: {display_path(output)}"])


def summary(runs: list[RunMetrics]) -> list[str]:
    """Return one line per run with its last epoch, its last loss, and its best AP or top-1."""
    width = max(len(run.name) for run in runs)
    lines = []
    for run in runs:
        last = run.lines[-1]
        words = [f"{len(run.lines)} lines"]
        words += [f"epoch {last['epoch']:g}"] if "epoch" in last else []
        words += [f"loss {last['loss']:.4f}"] if "loss" in last else []
        for key in ("AP", "top1"):
            best = run.best(key)
            if best is not None:
                words.append(f"best {key} {best[key]:.4f}")
                words[-1] += f" at epoch {best['epoch']:g}" if "epoch" in best else ""
        lines.append(f"{run.name:<{width}}  {', '.join(words)}")
    return lines


if __name__ == "__main__":
    from cspdet.cli.main import run_command

    raise SystemExit(run_command("plot"))
