"""Examine a data set: what is wrong, where, and how often. Exits with 2 when training would be wrong."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from cspdet.datasets.descriptor import load_descriptor
from cspdet.datasets.doctor import Report, SplitReport, examine
from cspdet.errors import ConfigError, DataError

CLASSES_SHOWN = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("descriptor", type=Path, help="the YAML file that names pictures and annotations of each split")
    parser.add_argument("--fast", action="store_true", help="read only the headers of the pictures, do not decode them")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")


def run(args: argparse.Namespace) -> None:
    if args.overrides:
        raise ConfigError(f"check-data takes no key=value words; found {' '.join(args.overrides)}")
    report = examine(load_descriptor(args.descriptor), fast=args.fast)
    print(_as_json(report) if args.json else _as_text(report), flush=True)
    if report.errors:
        raise DataError(*report.errors)


def _as_json(report: Report) -> str:
    splits = {name: asdict(split) for name, split in report.splits.items()}
    return json.dumps({"splits": splits, "errors": report.errors, "notes": report.notes}, indent=1)


def _as_text(report: Report) -> str:
    lines = []
    for name, split in report.splits.items():
        pictures = f"{split.images} pictures ({split.empty_images} without boxes)"
        boxes = f"{split.boxes} boxes ({split.crowds} crowds)"
        lines.append(f"{name}: {pictures}, {boxes}, {len(split.classes)} classes")
        lines += _histogram(split) + _findings(split)
    if report.between.errors or report.between.notes:
        lines += ["between the splits:", *_findings(report.between)]
    lines.append(f"{len(report.errors)} errors, {len(report.notes)} notes")
    return "\n".join(lines)


def _histogram(split: SplitReport) -> list[str]:
    if not split.boxes:
        return []
    ranked = sorted(split.classes, key=lambda entry: -entry["boxes"])
    rest = len(ranked) - CLASSES_SHOWN
    shown = [f"{entry['name']} {entry['boxes']}" for entry in ranked[:CLASSES_SHOWN]]
    sizes = ", ".join(f"{size} {count}" for size, count in split.sizes.items())
    return [
        f"  classes  {', '.join(shown)}{f' and {rest} more' if rest > 0 else ''}",
        f"  sizes    {sizes} (below 32x32, between, above 96x96 pixels)",
    ]


def _findings(split: SplitReport) -> list[str]:
    return [f"  error    {line}" for line in split.errors] + [f"  note     {line}" for line in split.notes]
