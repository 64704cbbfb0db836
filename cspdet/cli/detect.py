"""Detect objects in images, folders, globs, videos, a camera or a stream; draw and list the detections."""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

from cspdet.cli.arguments import add_device_argument, add_import_argument, check_model
from cspdet.errors import ConfigError, SourceError, truncate_list
from cspdet.inference.config import BACKENDS, H264_PRESETS, EngineConfig
from cspdet.io.folders import increment_path
from cspdet.models.config import PostprocessConfig

if TYPE_CHECKING:
    from cspdet.inference.output import DetectionSettings
    from cspdet.inference.runner import DetectionRunner
    from cspdet.inference.slicing import Tiling
    from cspdet.inference.sources import MediaSource, Video
    from cspdet.models.bundle import ModelBundle

MIN_TILE_SIZE, MAX_TILE_OVERLAP = 32, 0.9
MIN_IMAGES_FOR_AUTO_BACKEND = 64  # from this number on, `--backend auto` searches the fastest engine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `detect`."""
    parser.add_argument("model", metavar="MODEL", help="a checkpoint, an exported file, or a config with --weights")
    parser.add_argument("source", metavar="SOURCE", help="image, folder, 'glob', video, camera index or stream URL")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="trained weights for a config")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="output folder (default: runs/detect, with -2, -3 ... if it exists)"
    )
    parser.add_argument(
        "--backend",
        default="auto",
        metavar="NAME",
        help=f"{', '.join(BACKENDS)}; auto (default): the fastest installed engine that agrees with torch",
    )
    parser.add_argument("--precision", default="fp32", help="fp32, bf16, fp16 or int8 (default: %(default)s)")
    add_device_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document: the summary and all lines")
    add_import_argument(parser)
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
        help="box voting: each box becomes the average of those with a higher IoU with it",
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
        help="for small objects in large images: also detect in tiles of N x N pixels, or `auto`, the input size of "
        "the network",
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
        help="h264: slower presets give smaller files (default: %(default)s)",
    )
    group.add_argument(
        "--track", action="store_true", help="assign track ids to objects (needs the package `trackers`)"
    )
    group.add_argument(
        "--mot", type=Path, metavar="FILE", help="also write detections or tracks as a MOTChallenge text file"
    )


def _add_drawing_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--no-draw", action="store_true", help="write detections.jsonl only, no images and videos")
    group.add_argument("--line-width", type=int, metavar="N", help="line width in pixels (default: by image size)")
    group.add_argument("--hide-labels", action="store_true", help="draw boxes without names and scores")
    group.add_argument(
        "--show-speed", action="store_true", help="draw frames per second and ms per stage on every frame"
    )


def run(args: argparse.Namespace) -> None:
    """Detect objects in every source. Ctrl-C ends early and keeps what is done."""
    validate_args(args)
    check_model(args.model, args.overrides)
    sources = _find_sources(args)
    from cspdet.checkpoints.loading import load_model

    detect(args, load_model(args.model, weights=args.weights, overrides=args.overrides, task="detection"), sources)


def _find_sources(args: argparse.Namespace) -> list[MediaSource]:
    """Return the sources, checked, before a model is loaded."""
    from cspdet.inference.sources import find_sources

    sources = find_sources(args.source)
    _check_sequence(args, sources)
    EngineConfig(_backend(args, sources), args.precision, args.device).check()
    return sources


def detect(args: argparse.Namespace, bundle: ModelBundle, sources: list[MediaSource] | None = None) -> None:
    """Detect objects with a loaded detector, write the files, and print a summary."""
    from cspdet.inference.engines.factory import build_engine
    from cspdet.inference.predictor import Predictor
    from cspdet.inference.runner import DetectionRunner
    from cspdet.inference.slicing import SlicedDetector, parse_class_filter
    from cspdet.inference.sources import Video

    sources = _find_sources(args) if sources is None else sources
    settings = _settings(args)
    engine = build_engine(bundle, EngineConfig(_backend(args, sources), args.precision, args.device))
    classes = None
    if args.classes is not None:
        classes = parse_class_filter(args.classes, engine.classes.names, engine.classes.category_ids)
    postprocess = PostprocessConfig(
        min_score=args.min_score, nms_iou=args.nms_iou, vote_iou=args.vote_iou, max_detections=args.max_detections
    )
    search = SlicedDetector(postprocess, classes, _tiling(args))
    detector = Predictor(engine, search.detector_config)
    output = args.output or increment_path(Path("runs/detect"))
    for count in sorted({_frames_per_batch(video, args.batch_size) for video in sources if isinstance(video, Video)}):
        engine.warm_up(count)
    start = time.perf_counter()
    with DetectionRunner(detector, output, search, settings) as runner:
        try:
            runner.run(sources)
        finally:
            _print_summary(runner, time.perf_counter() - start, args.json)
    if runner.problems:
        raise SourceError(*truncate_list(runner.problems))


def _backend(args: argparse.Namespace, sources: list[MediaSource]) -> str:
    """Return the engine; `auto` searches for some seconds, which does not pay for a few images."""
    from cspdet.inference.engines.exported import is_exported
    from cspdet.inference.sources import ImageFile

    few = len(sources) < MIN_IMAGES_FOR_AUTO_BACKEND and all(isinstance(source, ImageFile) for source in sources)
    if args.backend == "auto" and few and not is_exported(args.model):
        return "torch"
    return str(args.backend)


def _frames_per_batch(video: Video, batch_size: int) -> int:
    """Return the frames per forward pass: one for a camera or stream, to keep the delay short."""
    return batch_size if isinstance(video.address, Path) else 1


def validate_args(args: argparse.Namespace) -> None:
    """Raise ConfigError with all problems of the arguments."""
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
        ("line_width", args.line_width is None or args.line_width >= 1, "1 or more"),
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


def _settings(args: argparse.Namespace) -> DetectionSettings:
    from cspdet.inference.output import DetectionSettings
    from cspdet.inference.video.writer import select_codec

    return DetectionSettings(
        batch_size=args.batch_size,
        max_seconds=args.max_seconds,
        stride=args.stride,
        reconnect=args.reconnect,
        draw=not args.no_draw,
        codec=select_codec(args.codec),
        preset=args.preset,
        line_width=args.line_width,
        hide_labels=args.hide_labels,
        show_speed=args.show_speed,
        track_min_score=args.min_score if args.track else None,
        mot_path=args.mot,
    )


def _tiling(args: argparse.Namespace) -> Tiling | None:
    from cspdet.inference.slicing import Tiling

    if args.tile is None:
        return None
    return Tiling(None if args.tile == "auto" else int(args.tile), args.tile_overlap)


def _check_sequence(args: argparse.Namespace, sources: list[MediaSource]) -> None:
    """Raise ConfigError unless --mot has one sequence: a video, or images in the order of their names."""
    from cspdet.inference.sources import ImageFile

    one_sequence = len(sources) == 1 or all(isinstance(source, ImageFile) for source in sources)
    if args.mot is not None and not one_sequence:
        raise ConfigError(f"--mot: expected one video or a folder of images, found {len(sources)} sources")


def _print_summary(runner: DetectionRunner, seconds: float, as_json: bool) -> None:
    """Print the summary, also after an interruption."""
    from cspdet.inference.records import read_records

    count = runner.num_images + runner.num_frames
    rate = count / seconds if seconds > 0 else 0.0
    stages = runner.timer.milliseconds()
    if as_json:
        summary = {
            "model": runner.detector.name,
            "output": str(runner.output),
            "pictures": runner.num_images,
            "frames": runner.num_frames,
            "dropped_frames": runner.num_dropped,
            "detections": runner.jsonl_writer.num_detections,
            "seconds": round(seconds, 3),
            "fps": round(rate, 2),
            "stages_ms": {name: round(value, 3) for name, value in stages.items()},
            "failed": runner.problems,
            "results": read_records(runner.jsonl_writer.path),
        }
        print(json.dumps(summary, ensure_ascii=False))
        return
    counts = [
        f"{n} {name}{'s' if n != 1 else ''}"
        for n, name in ((runner.num_images, "image"), (runner.num_frames, "frame"))
        if n
    ]
    print(
        f"{' and '.join(counts) or 'nothing'} in {seconds:.1f} s ({rate:.1f} per second), "
        f"{runner.jsonl_writer.num_detections} detections; written to {runner.output}"
    )
    if count:
        print("ms per image or frame: " + ", ".join(f"{name} {value:.1f}" for name, value in stages.items()))
