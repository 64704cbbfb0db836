"""Write docs/models/paper.md: the tables of the CSPNet paper with the measured parameters and BFLOPs of the configs.

  python tools/paper_page.py
  python tools/paper_page.py --configs configs --output docs/models/paper.md

A published row without a config, or one that is missing from the tables, is an error.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cspdet.errors import ConfigError
from cspdet.io.atomic import write_text
from paper.page import paper_page


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `paper-page`."""
    parser.add_argument("--configs", type=Path, default=Path("configs"), metavar="DIR", help="default: %(default)s")
    parser.add_argument(
        "--output", type=Path, default=Path("docs/models/paper.md"), metavar="FILE", help="default: %(default)s"
    )


def run(args: argparse.Namespace) -> None:
    """Profile all networks and write the page."""
    if args.overrides:
        raise ConfigError(f"paper-page: takes no overrides, found {args.overrides[0]!r}")
    write_text(args.output, paper_page(args.configs))
    print(f"written: {args.output}")
