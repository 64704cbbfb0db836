"""Entry point of `python -m cspdet`, the same as the command `cspdet`."""

from __future__ import annotations

import sys

from cspdet.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
