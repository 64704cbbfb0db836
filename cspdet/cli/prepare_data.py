"""Make the built-in shapes set, download COCO 2017, convert VOC xml or YOLO txt to COCO JSON, or cut objects out."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

from cspdet.datasets.classification.crop_objects import crop_objects
from cspdet.datasets.download import BASE_URL, download_coco
from cspdet.datasets.formats.coco_writer import SPLITS, ConversionResult
from cspdet.datasets.formats.voc import convert_voc
from cspdet.datasets.formats.yolo import convert_yolo
from cspdet.datasets.synthetic.dataset import make_shapes
from cspdet.errors import ConfigError, DataError

log = logging.getLogger("cspdet")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    subparsers = parser.add_subparsers(dest="kind", required=True, metavar="shapes|coco|voc|yolo|objects")
    _add_shapes(subparsers.add_parser("shapes", help="make the built-in set of drawn shapes, and a video"))
    _add_coco(subparsers.add_parser("coco", help="download COCO 2017 and check it (27 GB on disk, 46 GB on the way)"))
    _add_voc(subparsers.add_parser("voc", help="convert Pascal VOC xml files"))
    _add_yolo(subparsers.add_parser("yolo", help="convert YOLO txt labels (ultralytics or Darknet)"))
    _add_objects(
        subparsers.add_parser("objects", help="cut the objects of a set into class folders, for train-classifier")
    )


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to write to")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON document")


def _add_shapes(parser: argparse.ArgumentParser) -> None:
    _add_output(parser)
    parser.add_argument("--images", type=int, default=400, metavar="N", help="train pictures; val gets a fifth of it")
    parser.add_argument("--size", type=int, default=320, metavar="S", help="height and width of the pictures")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="the same seed makes the same bytes")


def _add_coco(parser: argparse.ArgumentParser) -> None:
    _add_output(parser)
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=["train", "val"], help="what to download")
    parser.add_argument("--base-url", default=BASE_URL, metavar="URL", help="a mirror of images.cocodataset.org")


def _add_voc(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="SRC", help="VOCdevkit, VOC2007 ..., or a folder with xml files")
    _add_output(parser)
    parser.add_argument("--images", type=Path, metavar="DIR", help="where the pictures are, if not within SRC")
    _add_val_fraction(parser)
    corners = parser.add_mutually_exclusive_group()
    corners.add_argument(
        "--one-based",
        action="store_true",
        default=True,
        help="corners count from 1 and belong to the box (default)",
    )
    corners.add_argument(
        "--zero-based",
        action="store_false",
        dest="one_based",
        help="corners count from 0, the far one lies outside",
    )
    parser.add_argument(
        "--difficult",
        choices=("keep", "crowd", "skip"),
        default="keep",
        help="objects marked difficult: boxes (default), crowds (neither goal nor mistake), or left out",
    )
    parser.add_argument("--names", type=Path, metavar="FILE", help="class names, one a line, in the order of their ids")


def _add_yolo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="SRC", help="data.yaml, Darknet .data file, or folder")
    _add_output(parser)
    _add_val_fraction(parser)


def _add_objects(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="DESCRIPTOR", help="the data descriptor of a detection set")
    _add_output(parser)
    parser.add_argument(
        "--margin", type=float, default=0.15, metavar="F", help="share of a box added on each side (default 0.15)"
    )
    parser.add_argument(
        "--min-side", type=float, default=8.0, metavar="PIXELS", help="leave out boxes with a shorter side (default 8)"
    )


def _add_val_fraction(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--val-fraction",
        type=float,
        default=0.2,
        metavar="F",
        help="share of the pictures for val, where SRC has no split of its own (default 0.2)",
    )


def run(args: argparse.Namespace) -> None:
    if getattr(args, "overrides", None):
        raise ConfigError(f"prepare-data takes no key=value words; found {args.overrides[0]!r}")
    if not 0 <= getattr(args, "val_fraction", 0.2) < 1:
        raise ConfigError(f"--val-fraction: expected a share from 0 to below 1, found {args.val_fraction}")
    print_summary(_prepare(args), as_json=args.json)


def _prepare(args: argparse.Namespace) -> ConversionResult:
    if args.kind == "shapes":
        return make_shapes(args.output, images=args.images, size=args.size, seed=args.seed)
    if args.kind == "coco":
        return download_coco(args.output, splits=args.splits, base_url=args.base_url)
    if args.kind == "objects":
        return crop_objects(args.source, args.output, margin=args.margin, min_side=args.min_side)
    if args.kind == "yolo":
        return convert_yolo(args.source, args.output, val_fraction=args.val_fraction)
    return convert_voc(
        args.source,
        args.output,
        images=args.images,
        val_fraction=args.val_fraction,
        one_based=args.one_based,
        difficult=args.difficult,
        names=read_names(args.names) if args.names else None,
    )


def read_names(file: Path) -> tuple[str, ...]:
    """Class names, one a line."""
    try:
        names = tuple(line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: not readable as a list of class names: {error}") from None
    if not names or len(set(names)) < len(names):
        raise DataError(f"{file}: expected different class names, one a line")
    return names


def print_summary(conversion: ConversionResult, *, as_json: bool) -> None:
    """Tell what was made: notes to the log, the numbers and last the descriptor's path to stdout."""
    for note in conversion.warnings:
        log.warning("%s", note)
    if as_json:
        result = {"descriptor": str(conversion.config_path), **conversion.counts, "notes": list(conversion.warnings)}
        print(json.dumps(result))
        return
    for split, counts in conversion.counts.items():
        print(f"{split}: {counts['images']} pictures, {counts['boxes']} boxes")
    print(conversion.config_path)
