"""Check a dataset and report errors with their location. The exit code is 2 if there are errors.

  cspdet check-data data/shapes/shapes.yaml
  cspdet check-data data/shapes/shapes.yaml --report               # also writes runs/check-data/index.html
  cspdet check-data data/shapes/shapes.yaml --report data.html --config csppelee_efm_sam

The page shows errors and notes, near-duplicates within and across the splits, and samples of each class. Histograms
show the classes, sizes, shapes and positions of the boxes. With --config, the page also compares the boxes with the
anchors at the network's input size.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cspdet.cli.arguments import print_lines
from cspdet.errors import ConfigError, DataError, check_all
from cspdet.io.folders import increment_path
from cspdet.io.names import count
from cspdet.io.outputs import PAGE, OutputFile, check_outputs
from cspdet.io.tables import Table

if TYPE_CHECKING:
    from cspdet.datasets.checks.validate import SplitReport, ValidationReport
    from cspdet.datasets.descriptor import DatasetConfig
    from cspdet.datasets.formats.coco import CocoDataset
    from cspdet.reports.data_input import NetworkInput
    from cspdet.reports.data_page import DatasetReport

MAX_LISTED_CLASSES = 20
DEFAULT_SAMPLES = 4
PAGE_SUFFIXES = (".html", ".htm")
DEFAULT_FOLDER, DEFAULT_NAME = Path("runs/check-data"), "index.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `check-data`."""
    parser.add_argument(
        "descriptor",
        nargs="?",
        type=Path,
        metavar="DESCRIPTOR",
        help="data descriptor: YAML file with images and annotations of each split",
    )
    parser.add_argument(
        "--fast",
        action="store_true",
        help="read only the image headers; corrupt image data and near-duplicates are not found",
    )
    parser.add_argument(
        "--report",
        nargs="?",
        const="",
        metavar="FILE.html",
        help=f"write an HTML page (default: {DEFAULT_FOLDER / DEFAULT_NAME}, or check-data-2, -3 ... if it exists)",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="CONFIG",
        help="with --report: config of a detector, for its input size and anchors",
    )
    parser.add_argument(
        "--samples",
        type=int,
        default=DEFAULT_SAMPLES,
        metavar="N",
        help="with --report: images shown per class (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")


def run(args: argparse.Namespace) -> None:
    """Check the dataset, print the report, and write the page if requested; then raise the errors of the dataset."""
    _validate_args(args)
    from cspdet.datasets.descriptor import load_dataset_config

    if args.config is not None:
        check_all(lambda: load_dataset_config(args.descriptor), lambda: read_network_input(args.config, args.overrides))
    descriptor = load_dataset_config(args.descriptor)
    from cspdet.datasets.checks.validate import validate_dataset

    network = None if args.config is None else read_network_input(args.config, args.overrides)
    report = validate_dataset(descriptor, fast=args.fast)
    document = _document(report)
    lines = _text(report)
    if args.report is not None:
        page, figures = _write_report(args, descriptor, report, network)
        document |= {"page": str(page), **_statistics_to_json(figures)}
        lines.append(f"open {page}")
    if args.json:
        print(json.dumps(document, indent=1))
    else:
        print_lines(lines)
    sys.stdout.flush()  # the errors follow on stderr
    if report.errors:
        raise DataError(*report.errors)


def _validate_args(args: argparse.Namespace) -> None:
    """Check the arguments. If `--report` is followed by the descriptor instead of a page, move it to `args.descriptor`.

    Raises:
        ConfigError: Arguments are missing or invalid; the message lists all problems.
        UserError: The page would replace a file that cspdet did not write.
    """
    if args.descriptor is None and args.report and Path(args.report).suffix not in PAGE_SUFFIXES:
        args.descriptor, args.report = Path(args.report), ""
    problems = []
    if args.descriptor is None:
        problems.append("check-data: DESCRIPTOR is missing, the YAML file with the splits")
    if args.overrides and args.config is None:
        problems.append(f"check-data: there is no --config that {args.overrides[0]!r} could override")
    if args.report and Path(args.report).suffix not in PAGE_SUFFIXES:
        problems.append(f"--report: expected a file ending in .html, found {args.report!r}")
    if args.report is None and args.config is not None:
        problems.append("--config: needs --report")
    if args.samples < 0:
        problems.append(f"--samples: expected 0 or more, found {args.samples}")
    if problems:
        raise ConfigError(*problems)
    if args.report:
        check_outputs([OutputFile(Path(args.report), PAGE)], (args.descriptor, args.config))


# --- the page ------------------------------------------------------------------------------------


def read_network_input(config: Path, overrides: Sequence[str]) -> NetworkInput:
    """Read the input size and the anchors from the config of a detector.

    Raises:
        ConfigError: The config is invalid, or it is the config of a classifier.
    """
    from cspdet.checkpoints.building import build_detector
    from cspdet.recipe import load_recipe
    from cspdet.reports.data_input import NetworkInput

    recipe = load_recipe(config, list(overrides), task="detection")
    anchors = build_detector(recipe, 1, str(config), pretrained=False).anchors
    match_iou = getattr(recipe.train.assigner, "match_iou", None)  # only the threshold assigner has it
    return NetworkInput.from_anchors(config.stem, recipe.input, match_iou, anchors)


def _write_report(
    args: argparse.Namespace, descriptor: DatasetConfig, report: ValidationReport, network: NetworkInput | None
) -> tuple[Path, DatasetReport]:
    # Imported here because only the page needs them
    from cspdet.datasets.checks.near_duplicates import find_near_duplicates
    from cspdet.datasets.checks.statistics import data_statistics
    from cspdet.reports.data_input import fit_to_input
    from cspdet.reports.data_page import DatasetReport, write_data_page

    sets = _load_readable_splits(descriptor)
    figures = DatasetReport(
        statistics={name: data_statistics(coco) for name, coco in sets.items()},
        near_duplicates=None if args.fast else find_near_duplicates(sets),
        input_fit=None if network is None else fit_to_input(network, sets),
    )
    page = Path(args.report) if args.report else increment_path(DEFAULT_FOLDER) / DEFAULT_NAME
    write_data_page(page, args.descriptor.stem, report, figures, sets, samples=args.samples)
    return page, figures


def _load_readable_splits(descriptor: DatasetConfig) -> dict[str, CocoDataset]:
    """Load the splits by name; omit splits with unreadable annotations, because the report lists their errors."""
    from cspdet.datasets.formats.coco import load_coco

    sets = {}
    for name in descriptor.splits:
        try:
            sets[name] = load_coco(descriptor.split(name), name, allow_empty=True)
        except DataError:
            continue
    return sets


def _statistics_to_json(figures: DatasetReport) -> dict[str, Any]:
    """Return the values behind the charts of the page as a JSON-compatible dict."""
    result: dict[str, Any] = {"statistics": {name: split.to_json() for name, split in figures.statistics.items()}}
    if figures.near_duplicates is not None:
        result["near_duplicates"] = figures.near_duplicates.to_json()
    if figures.input_fit is not None:
        result["anchors"] = figures.input_fit.to_json()
    return result


# --- text and JSON -------------------------------------------------------------------------------


def _document(report: ValidationReport) -> dict[str, Any]:
    splits = {name: asdict(split) for name, split in report.splits.items()}
    return {"splits": splits, "errors": report.errors, "notes": report.warnings}


def _text(report: ValidationReport) -> list[str | Table]:
    """Return tables of splits and classes, the notes, and the number of errors and notes, without the errors."""
    columns = ("split", "images", "without boxes", "boxes", "crowds", "classes", "small", "medium", "large")
    rows = [
        [name, *map(str, (split.images, split.empty_images, split.boxes, split.crowds, len(split.classes))),
         *(str(split.sizes.get(size, 0)) for size in ("small", "medium", "large"))]
        for name, split in report.splits.items()
    ]  # fmt: skip
    lines: list[str | Table] = [Table(columns, rows), "small: boxes below 32x32 pixels; large: above 96x96"]
    lines += _class_table(report.splits)
    findings = [line for name, split in report.splits.items() for line in _findings(name, split)]
    findings += _findings("between the splits", report.cross_split)
    counts = f"{count(len(report.errors), 'error')}, {count(len(report.warnings), 'note')}"
    return [*lines, "", *findings, *([""] if findings else []), counts]


def _class_table(splits: Mapping[str, SplitReport]) -> list[str | Table]:
    """Return the table of the number of boxes per class and split; the most frequent class is first."""
    boxes = {
        name: {entry["name"]: entry["boxes"] for entry in split.classes} for name, split in splits.items()
    }  # fmt: skip
    names = dict.fromkeys(name for of_split in boxes.values() for name in of_split)
    ranked = sorted(names, key=lambda name: -sum(of_split.get(name, 0) for of_split in boxes.values()))
    rows = [[name, *(str(of_split.get(name, 0)) for of_split in boxes.values())] for name in ranked]
    rest = len(rows) - MAX_LISTED_CLASSES
    lines: list[str | Table] = ["", Table(("boxes of class", *boxes), rows[:MAX_LISTED_CLASSES])] if rows else []
    return [*lines, f"and {count(rest, 'class')} with fewer boxes"] if rest > 0 else lines


def _findings(name: str, split: SplitReport) -> list[str]:
    errors = [f"{name}: {count(len(split.errors), 'error')}, listed below"] if split.errors else []
    return [*errors, *(f"{name}: note: {line}" for line in split.warnings)]


if __name__ == "__main__":
    from cspdet.cli.main import run_command

    raise SystemExit(run_command("check-data"))
