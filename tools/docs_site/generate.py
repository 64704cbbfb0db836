"""Write the generated pages of docs/reference: commands, config keys, registries.

  python tools/reference_pages.py

The pages are in the repository, so that GitHub shows them and that links to them can be checked. A test compares them
with what this module returns.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cspdet.errors import ConfigError
from cspdet.io.atomic import write_text
from docs_site.commands import command_pages
from docs_site.config_pages import config_pages
from docs_site.registries import registry_page

DOCS = Path(__file__).parents[2] / "docs"


def pages() -> dict[str, str]:
    """Return the text of every generated page by its path below docs/."""
    return command_pages() | config_pages() | {"reference/registries.md": registry_page()}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add no arguments."""


def run(args: argparse.Namespace) -> None:
    """Write the pages that changed, and print their paths."""
    if args.overrides:
        raise ConfigError(f"reference-pages: takes no overrides, found {args.overrides[0]!r}")
    for name, content in pages().items():
        path = DOCS / name
        if not path.exists() or path.read_text(encoding="utf-8") != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, content)
            print(f"written: {path}")
