"""Create the built-in shapes dataset, download COCO 2017, convert a dataset to COCO JSON, or crop objects.

cspdet prepare-data shapes --output data/shapes
cspdet prepare-data yolo data.yaml --output data/mine
cspdet prepare-data convert labels.csv --format mymodule:CsvFormat --output data/mine delimiter=";"
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from cspdet.cli.arguments import SPLITS, print_lines
from cspdet.errors import ConfigError, DataError, truncate_list
from cspdet.io.names import count

if TYPE_CHECKING:
    from cspdet.datasets.formats.base import DatasetFormat
    from cspdet.datasets.formats.coco_writer import ConversionResult

log = logging.getLogger("cspdet")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands of `prepare-data`."""
    subparsers = parser.add_subparsers(dest="kind", required=True, metavar="shapes|coco|voc|yolo|convert|objects")
    _add_shapes(subparsers.add_parser("shapes", help="create the built-in dataset of drawn shapes, and a video"))
    _add_coco(subparsers.add_parser("coco", help="download and verify COCO 2017 (needs 46 GB, keeps 27 GB)"))
    _add_voc(subparsers.add_parser("voc", help="convert Pascal VOC xml files"))
    _add_yolo(subparsers.add_parser("yolo", help="convert YOLO txt labels (ultralytics or Darknet)"))
    _add_convert(subparsers.add_parser("convert", help="convert a dataset in any supported or user-defined format"))
    _add_objects(
        subparsers.add_parser("objects", help="crop the objects of a dataset into class folders, for train-classifier")
    )


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to write to")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON document")


def _add_shapes(parser: argparse.ArgumentParser) -> None:
    _add_output(parser)
    parser.add_argument(
        "--images", type=int, default=400, metavar="N", help="number of train images; val gets a fifth of it"
    )
    parser.add_argument("--size", type=int, default=320, metavar="S", help="height and width of the images")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="random seed; the same seed creates the same files"
    )


def _add_coco(parser: argparse.ArgumentParser) -> None:
    _add_output(parser)
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=["train", "val"], help="what to download")
    parser.add_argument("--base-url", metavar="URL", help="a mirror (default: http://images.cocodataset.org)")


def _add_voc(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="SRC", help="VOCdevkit, VOC2007 ..., or a folder with xml files")
    _add_output(parser)
    parser.add_argument("--images", type=Path, metavar="DIR", help="image folder, if not in SRC")
    _add_val_fraction(parser)
    corners = parser.add_mutually_exclusive_group()
    corners.add_argument(
        "--one-based",
        action="store_true",
        default=True,
        help="coordinates start at 1, and both corners are inside the box (default)",
    )
    corners.add_argument(
        "--zero-based",
        action="store_false",
        dest="one_based",
        help="coordinates start at 0, and the lower right corner is outside the box",
    )
    parser.add_argument(
        "--difficult",
        choices=("keep", "crowd", "skip"),
        default="keep",
        help="objects marked difficult: keep as boxes (default), ignore in training and evaluation (crowd), or skip",
    )
    parser.add_argument(
        "--names", type=Path, metavar="FILE", help="class names, one per line, in the order of their ids"
    )


def _add_yolo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="SRC", help="data.yaml, Darknet .data file, or folder")
    _add_output(parser)
    _add_val_fraction(parser)


def _add_convert(parser: argparse.ArgumentParser) -> None:
    from cspdet.datasets.formats.base import DATASET_FORMATS

    parser.add_argument("source", type=Path, metavar="SRC", help="file or folder with the dataset")
    _add_output(parser)
    parser.add_argument(
        "--format",
        metavar="NAME",
        help=f"{', '.join(DATASET_FORMATS.names())}, or module:Class of a user-defined format; its options follow as "
        "key=value (default: detected from the files)",
    )


def _add_objects(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="DESCRIPTOR", help="data descriptor of a detection dataset")
    _add_output(parser)
    parser.add_argument(
        "--margin", type=float, default=0.15, metavar="F", help="fraction of a box added on each side (default 0.15)"
    )
    parser.add_argument(
        "--min-side",
        type=float,
        default=8.0,
        metavar="PIXELS",
        help="omit boxes whose shorter side is below this (default 8)",
    )


def _add_val_fraction(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--val-fraction",
        type=float,
        default=0.2,
        metavar="F",
        help="fraction of the images for val, if SRC defines no splits (default 0.2)",
    )


def run(args: argparse.Namespace) -> None:
    """Create or convert the dataset, and print a summary."""
    if args.kind != "convert" and getattr(args, "overrides", None):
        raise ConfigError(f"prepare-data {args.kind}: takes no key=value arguments; found {args.overrides[0]!r}")
    if not 0 <= getattr(args, "val_fraction", 0.2) < 1:
        raise ConfigError(f"--val-fraction: expected a fraction from 0 to below 1, found {args.val_fraction}")
    print_summary(_prepare(args), as_json=args.json)


def _prepare(args: argparse.Namespace) -> ConversionResult:
    from cspdet.datasets.classification.crop_objects import crop_objects
    from cspdet.datasets.download import BASE_URL, download_coco
    from cspdet.datasets.synthetic.dataset import make_shapes

    if args.kind == "shapes":
        return make_shapes(args.output, images=args.images, size=args.size, seed=args.seed)
    if args.kind == "coco":
        return download_coco(args.output, splits=args.splits, base_url=args.base_url or BASE_URL)
    if args.kind == "objects":
        return crop_objects(args.source, args.output, margin=args.margin, min_side=args.min_side)
    return _dataset_format(args).convert(args.source, args.output)


def _dataset_format(args: argparse.Namespace) -> DatasetFormat:
    from cspdet.datasets.formats.base import build_format, recognize_format
    from cspdet.datasets.formats.voc import VocFormat
    from cspdet.datasets.formats.yolo import YoloFormat

    if args.kind == "convert":
        return build_format(args.format or recognize_format(args.source), args.overrides)
    if args.kind == "yolo":
        return YoloFormat(val_fraction=args.val_fraction)
    return VocFormat(
        images=args.images,
        val_fraction=args.val_fraction,
        one_based=args.one_based,
        difficult=args.difficult,
        names=read_names(args.names) if args.names else None,
    )


def read_names(file: Path) -> tuple[str, ...]:
    """Read class names from a text file, one per line.

    Raises:
        DataError: The file is not a text file, or its names are not unique.
    """
    from cspdet.datasets.formats.names import class_name_problems, read_class_names

    names = read_class_names(file)
    problems = class_name_problems(names, str(file))
    if problems:
        raise DataError(*truncate_list(problems))
    return names


def print_summary(conversion: ConversionResult, *, as_json: bool) -> None:
    """Log the warnings, then print the number of images and boxes per split and the path of the data descriptor.

    With `as_json`, the values are printed as one JSON document.
    """
    for warning in conversion.warnings:
        log.warning("%s", warning)
    if as_json:
        result = {"descriptor": str(conversion.config_path), **conversion.counts, "notes": list(conversion.warnings)}
        print(json.dumps(result))
        return
    for split, counts in conversion.counts.items():
        print_lines([f"{split}: {count(counts['images'], 'image')}, {count(counts['boxes'], 'box')}"])
    print_lines([str(conversion.config_path)])


if __name__ == "__main__":
    from cspdet.cli.main import run_command

    raise SystemExit(run_command("prepare-data"))
