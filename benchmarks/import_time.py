"""Measure startup time and memory: importing torch, cspdet and its command line, and the help of every command.

  python benchmarks/import_time.py [--repeat 5] [--only import,cspdet,train] [--json]

Each row is a fresh process. All rows alternate, after one warm-up turn that fills the disk cache. Prints medians: wall
and CPU seconds, and peak memory of the process. `over torch` is the row's CPU time divided by that of `import torch`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from cspdet.cli.main import COMMAND_HELP

TORCH = "import torch"
IMPORTS = ("pass", TORCH, "import cspdet", "import cspdet.cli.main")
COMMAND = "import sys; from cspdet.cli.main import main; sys.exit(main())"  # the console command


@dataclass
class Row:
    """A command and the measurements of its processes."""

    name: str
    command: list[str]
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    peak_mib: list[float] = field(default_factory=list)

    def run(self, *, counts: bool) -> None:
        started = time.perf_counter()
        process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        assert process.stderr is not None
        said = process.stderr.read()
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        process.stderr.close()
        if process.returncode:
            raise SystemExit(f"{self.name}: ended with {process.returncode}: {said.decode(errors='replace')[-300:]}")
        if counts:
            self.seconds.append(seconds)
            self.cpu_seconds.append(used.ru_utime + used.ru_stime)
            # KiB on Linux, bytes on macOS
            self.peak_mib.append(used.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10))

    def medians(self) -> dict[str, object]:
        return {
            "name": self.name,
            "seconds": statistics.median(self.seconds),
            "cpu_seconds": statistics.median(self.cpu_seconds),
            "peak_mib": statistics.median(self.peak_mib),
        }


def rows() -> list[Row]:
    """List all rows: imports first, then the help of every command."""
    python, cli = sys.executable, [sys.executable, "-c", COMMAND]
    found = [Row("python" if text == "pass" else text, [python, "-c", text]) for text in IMPORTS]
    found.append(Row("cspdet --help", [*cli, "--help"]))
    return [*found, *(Row(f"cspdet {verb} --help", [*cli, verb, "--help"]) for verb in COMMAND_HELP)]


def measure(chosen: Sequence[Row], repeat: int) -> list[dict[str, object]]:
    """Medians over `repeat` processes of each row, with the fraction of `import torch` where that is among them."""
    for turn in range(repeat + 1):
        for row in chosen:
            row.run(counts=turn > 0)
    found = [row.medians() for row in chosen]
    torch = next((row["cpu_seconds"] for row in found if row["name"] == TORCH), None)
    return [{**row, "over_torch": None if torch is None else row["cpu_seconds"] / torch} for row in found]  # type: ignore[operator]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5, help="processes of each row (default: %(default)s)")
    parser.add_argument("--only", default="", metavar="WORD,..", help="rows whose name has one of these words")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    args = parser.parse_args()
    if args.repeat < 1:
        parser.error(f"--repeat: expected 1 or more, found {args.repeat}")
    words = args.only.split(",")
    chosen = [row for row in rows() if row.name == TORCH or any(word in row.name for word in words)]
    found = measure(chosen, args.repeat)
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    print(f"{'':32}{'seconds':>9}{'CPU s':>9}{'MiB':>8}{'over torch':>12}")
    for row in found:
        line = f"{row['name']:32}{row['seconds']:9.2f}{row['cpu_seconds']:9.2f}{row['peak_mib']:8.0f}"
        print(f"{line}{row['over_torch']:12.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
