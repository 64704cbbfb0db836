"""The arguments of `cspdet detect`, and the checks of their values."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from cspdet.cli.arguments import add_device_argument, add_model_options, model_file
from cspdet.errors import ConfigError, did_you_mean
from cspdet.inference.config import BACKENDS, H264_PRESETS, LABEL_FORMATS

MIN_TILE_SIZE, MAX_TILE_OVERLAP = 32, 0.9


def add_detect_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `detect`."""
    parser.add_argument(
        "model", type=model_file, metavar="MODEL",
        help="a checkpoint, a run folder, an exported file, or a config with --weights",
    )  # fmt: skip
    parser.add_argument(
        "source", nargs="+", metavar="SOURCE", help="images, folders, 'globs', videos, camera index or stream URL"
    )
    parser.add_argument("--weights", type=Path, metavar="FILE", help="trained weights for a config")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="output folder (default: runs/detect, with -2, -3 ... if it exists)"
    )
    parser.add_argument(
        "--backend", default="auto", metavar="NAME",
        help=f"{', '.join(BACKENDS)}; auto (default): the fastest installed engine that agrees with torch",
    )  # fmt: skip
    parser.add_argument("--precision", default="fp32", help="fp32, bf16, fp16 or int8 (default: %(default)s)")
    add_device_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document: the summary and all lines")
    add_model_options(parser)
    _add_inference_arguments(parser.add_argument_group("detection"))
    _add_video_arguments(parser.add_argument_group("videos, cameras and streams"))
    _add_drawing_arguments(parser.add_argument_group("output"))


def _add_inference_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--min-score", type=float, default=0.25, metavar="S", help="score threshold (default: %(default)s)"
    )
    group.add_argument(
        "--nms-iou", "--max-iou", type=float, default=0.6, metavar="T", help="NMS IoU threshold (default: %(default)s)"
    )
    group.add_argument(
        "--vote-iou",
        type=float,
        metavar="T",
        help="box voting: replace each box by the weighted average of the boxes that have an IoU above T with it",
    )
    group.add_argument(
        "--max-detections",
        type=int,
        default=100,
        metavar="N",
        help="maximum number of detections per image (default: %(default)s)",
    )
    group.add_argument("--classes", metavar="NAME,...", help="detect only these classes, by name or category id")
    group.add_argument(
        "--batch-size",
        type=int,
        default=8,
        metavar="N",
        help="images or frames per forward pass (default: %(default)s)",
    )
    group.add_argument(
        "--tile",
        metavar="N",
        help="for small objects in large images: also detect in tiles of N x N pixels; auto: the input size of the "
        "network",
    )
    group.add_argument(
        "--tile-overlap",
        type=float,
        default=0.2,
        metavar="X",
        help="overlap of tiles, as a fraction of their side (default: %(default)s)",
    )


def _add_video_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--max-seconds", type=float, metavar="S", help="stop a camera, stream or video after S seconds")
    group.add_argument(
        "--stride", type=int, default=1, metavar="N", help="process every N-th frame (default: %(default)s)"
    )
    group.add_argument(
        "--reconnect",
        type=int,
        default=5,
        metavar="N",
        help="attempts to reconnect to a lost camera or stream (default: %(default)s)",
    )
    group.add_argument(
        "--codec",
        choices=("auto", "h264", "mp4v"),
        default="auto",
        help="h264 plays in browsers and needs the extra `video`; auto (default): h264 if installed, else mp4v",
    )
    group.add_argument(
        "--preset",
        choices=H264_PRESETS,
        default="ultrafast",
        metavar="NAME",
        help=f"h264: {', '.join(H264_PRESETS)}; slower presets give smaller files (default: %(default)s)",
    )
    group.add_argument(
        "--track", action="store_true", help="assign track ids to objects (needs the package `trackers`)"
    )
    group.add_argument(
        "--mot", type=Path, metavar="FILE", help="also write detections or tracks as a MOTChallenge text file"
    )


def _add_drawing_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--no-draw", action="store_true", help="write detections.jsonl only, no images and videos")
    group.add_argument(
        "--save-as", type=_parse_label_formats, action="extend", default=[], metavar="F,..",
        help="also write annotation files, for example for pre-labelling: coco (coco.json), yolo (labels/NAME.txt and "
        "classes.txt), csv (detections.csv)",
    )  # fmt: skip
    group.add_argument("--line-width", type=int, metavar="N", help="line width in pixels (default: by image size)")
    group.add_argument("--hide-labels", action="store_true", help="draw boxes without names and scores")
    group.add_argument(
        "--show-speed", action="store_true", help="draw frames per second and ms per stage on every frame"
    )


def _parse_label_formats(text: str) -> list[str]:
    """Parse `--save-as`; raise ConfigError for an unknown format."""
    formats = [word.strip().lower() for word in text.split(",") if word.strip()]
    for name in formats:
        if name not in LABEL_FORMATS:
            hint, known = did_you_mean(name, LABEL_FORMATS), ", ".join(LABEL_FORMATS)
            raise ConfigError(f"--save-as: unknown format {name!r}{hint}; expected {known}")
    return formats


def validate_args(args: argparse.Namespace) -> None:
    """Check the values of the arguments.

    Raises:
        ConfigError: Values are invalid (the message lists all of them), or `--track` needs a package that is not
            installed.
    """
    from cspdet.inference.tracking import check_installed

    expected: list[tuple[str, bool, str]] = [
        ("min_score", 0 <= args.min_score <= 1, "a number from 0 to 1"),
        ("nms_iou", 0 <= args.nms_iou <= 1, "a number from 0 to 1"),
        ("vote_iou", args.vote_iou is None or 0 <= args.vote_iou <= 1, "a number from 0 to 1"),
        ("max_detections", args.max_detections >= 1, "1 or more"),
        ("batch_size", args.batch_size >= 1, "1 or more"),
        ("tile_overlap", 0 <= args.tile_overlap <= MAX_TILE_OVERLAP, f"a number from 0 to {MAX_TILE_OVERLAP}"),
        ("stride", args.stride >= 1, "1 or more"),
        ("reconnect", args.reconnect >= 0, "0 or more"),
        ("line_width", args.line_width is None or 1 <= args.line_width <= 100, "1 to 100"),
        (
            "max_seconds",
            args.max_seconds is None or (args.max_seconds > 0 and math.isfinite(args.max_seconds)),
            "more than 0",
        ),
        (
            "tile",
            args.tile in (None, "auto") or (args.tile.isdecimal() and int(args.tile) >= MIN_TILE_SIZE),
            f"auto, or {MIN_TILE_SIZE} pixels or more",
        ),
    ]
    problems = [
        f"--{name.replace('_', '-')}: expected {what}, found {getattr(args, name)}"
        for name, good, what in expected
        if not good
    ]
    if problems:
        raise ConfigError(*problems)
    if args.track:
        check_installed()
