"""Draw the figures of docs/csp.md, by running the networks' own modules: gradients, fusion strategies, EFM.

  python tools/draw_networks.py
  python tools/draw_networks.py --output docs/images

The folder must be there; files of the same names in it are replaced. The same code draws the same files everywhere.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cspdet.errors import ConfigError
from paper.drawings.files import write_drawings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command line of `draw-networks` takes."""
    parser.add_argument("--output", type=Path, default=Path("docs/images"), metavar="DIR", help="default: %(default)s")


def run(args: argparse.Namespace) -> None:
    """Write every drawing."""
    if args.overrides:
        raise ConfigError(f"draw-networks: takes no overrides, found {args.overrides[0]!r}")
    for path in write_drawings(args.output):
        print(f"written: {path}")
