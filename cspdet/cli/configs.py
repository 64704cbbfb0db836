"""List the released configs, or copy one to edit it.

  cspdet configs                                            # all, with published costs and accuracy
  cspdet configs --copy csppelee_efm_sam                    # writes csppelee_efm_sam.yaml
  cspdet configs --copy classification/csppeleenet mine.yaml

The names stand for the files in every command: `cspdet train csppelee_efm_sam`, `cspdet info yolov3`. A file of that
name in the current folder has priority. BFLOPs, AP (COCO test-dev) and top-1 (ImageNet) are the published values, at
the input size of the config. `train/NAME` is a section: `cspdet train CONFIG train=train/paper.yaml`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from cspdet.cli.arguments import print_lines
from cspdet.config.released import ReleasedConfig, get_released, released_configs
from cspdet.errors import ConfigError
from cspdet.io.atomic import write_text
from cspdet.io.outputs import NOT_REPLACED, OutputFile, check_outputs
from cspdet.io.tables import Table
from cspdet.models.published import PUBLISHED

ConfigRow = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `configs`."""
    parser.add_argument("--copy", metavar="NAME", help="write a copy of this config")
    parser.add_argument(
        "dest", nargs="?", type=Path, metavar="DEST", help="file or folder of the copy (default: NAME.yaml here)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> None:
    """List the configs, or copy one."""
    if args.overrides:
        raise ConfigError(f"configs: takes no overrides, found {args.overrides[0]!r}")
    if args.copy is not None:
        path = _copy(get_released(args.copy, with_sections=True), args.dest)
        print(json.dumps({"written": str(path)}) if args.json else path)
        return
    if args.dest is not None:
        raise ConfigError(f"configs: unexpected {str(args.dest)!r}; `--copy NAME DEST` writes a config")
    rows = [_row(config) for config in released_configs().values()]
    if args.json:
        print(json.dumps(rows))
        return
    print_lines(_tables(rows))


def _copy(config: ReleasedConfig, dest: Path | None) -> Path:
    """Write a copy of a config to the file or folder `dest`, and return its path; fail if it exists."""
    name = f"{config.path.stem}.yaml"
    path = Path(name) if dest is None else dest / name if dest.is_dir() else dest
    check_outputs([OutputFile(path, NOT_REPLACED)])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, config.editable_copy())
    return path


def _row(config: ReleasedConfig) -> ConfigRow:
    published = None if config.is_section else PUBLISHED.get(config.path.stem)
    is_classifier = "classif" in config.name
    return {
        "name": config.name,
        "kind": "section" if config.is_section else "config",
        "task": "classification" if is_classifier else "detection",
        "path": str(config.path),
        "size": published and list(published.size),
        "bflops": published and published.expected_bflops,
        "ap": published and published.ap,
        "ap50": published and published.ap50,
        "top1": published and published.top1,
        "summary": config.summary,
    }


def _tables(rows: list[ConfigRow]) -> list[str | Table]:
    """Return the tables of detectors, classifiers and training recipes; see `_row`."""
    configs = [row for row in rows if row["kind"] == "config"]
    lines: list[str | Table] = []
    for title, task, accuracy, key in (
        ("detectors", "detection", "AP", "ap"), ("classifiers", "classification", "top-1", "top1"),
    ):  # fmt: skip
        cells = [
            [row["name"], row["summary"], _format(row["bflops"], "#.4g"), _format(row[key], ".1f")]
            for row in configs
            if row["task"] == task
        ]
        lines += [Table((title, "network", "BFLOPs", accuracy), cells, num_text=2), ""]
    sections = [[row["name"], row["summary"]] for row in rows if row["kind"] == "section"]
    return [*lines, Table(("training recipes", "settings"), sections, num_text=2)]


def _format(value: float | None, spec: str) -> str:
    """Format a number by a format specification such as `.1f`; None, a value that was not published, is `-`."""
    return "-" if value is None else format(value, spec)


if __name__ == "__main__":
    from cspdet.cli.main import run_command

    raise SystemExit(run_command("configs"))
