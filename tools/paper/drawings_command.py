"""Draw the figures of docs/explanation/csp.md (gradients, fusion strategies, EFM) from the network modules.

  python tools/draw_networks.py
  python tools/draw_networks.py --output docs/images

The output folder must exist; existing files are replaced. The output is identical on all machines.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from cspdet.errors import ConfigError
from cspdet.io.atomic import write_text
from paper.drawings.efm import draw_efm
from paper.drawings.fusion import draw_fusion
from paper.drawings.gradients import draw_gradients

DRAWINGS: dict[str, Callable[[], str]] = {
    "csp_gradients.svg": draw_gradients,
    "csp_fusion.svg": draw_fusion,
    "efm.svg": draw_efm,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `draw-networks`."""
    parser.add_argument("--output", type=Path, default=Path("docs/images"), metavar="DIR", help="default: %(default)s")


def run(args: argparse.Namespace) -> None:
    """Draw and write every figure."""
    if args.overrides:
        raise ConfigError(f"draw-networks: takes no overrides, found {args.overrides[0]!r}")
    for path in write_drawings(args.output):
        print(f"written: {path}")


def write_drawings(folder: Path) -> list[Path]:
    """Write all drawings to an existing folder, and return their paths; existing files are replaced.

    Raises:
        ConfigError: The folder does not exist.
        UserError: The folder is not writable.
    """
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise ConfigError(f"--output {folder}: expected an existing folder, found {found}")
    paths = []
    for name, draw in DRAWINGS.items():
        paths.append(folder / name)
        write_text(paths[-1], draw())
    return paths
