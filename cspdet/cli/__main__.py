"""Run the command `cspdet` as `python -m cspdet.cli`."""

from __future__ import annotations

import sys

from cspdet.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
