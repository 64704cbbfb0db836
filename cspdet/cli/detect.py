"""Draw and list what a detector finds in pictures, folders, globs, videos, a camera or a stream."""

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

MIN_TILE_SIZE, MAX_TILE_OVERLAP = 32, 0.9
MIN_IMAGES_FOR_AUTO_BACKEND = 64  # from so many on, `--backend auto` looks for the fastest engine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command line of `detect` takes."""
    parser.add_argument("model", metavar="MODEL", help="a checkpoint, an exported file, or a config with --weights")
    parser.add_argument("source", metavar="SOURCE", help="picture, folder, 'glob', video, camera index or stream URL")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="trained values for a config")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: runs/detect, and -2, -3 ... when taken")
    parser.add_argument(
        "--backend",
        default="auto",
        metavar="NAME",
        help=f"{', '.join(BACKENDS)}; auto takes the fastest installed one that agrees with torch (default)",
    )
    parser.add_argument("--precision", default="fp32", help="fp32, bf16, fp16 or int8 (default: %(default)s)")
    add_device_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document: the summary and all lines")
    add_import_argument(parser)
    _add_inference_arguments(parser.add_argument_group("what is looked for"))
    _add_video_arguments(parser.add_argument_group("videos, cameras and streams"))
    _add_drawing_arguments(parser.add_argument_group("what is written"))


def _add_inference_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--min-score", type=float, default=0.25, metavar="S", help="default: %(default)s")
    group.add_argument(
        "--nms-iou", "--max-iou", type=float, default=0.6, metavar="T", help="NMS: the highest overlap that stays"
    )
    group.add_argument(
        "--vote-iou", type=float, metavar="T", help="each box becomes the average of those that overlap it by more"
    )
    group.add_argument("--max-detections", type=int, default=100, metavar="N", help="a picture; default: %(default)s")
    group.add_argument("--classes", metavar="NAME,...", help="only these, by name or category id")
    group.add_argument(
        "--batch-size", type=int, default=8, metavar="N", help="pictures a pass, or frames at once (%(default)s)"
    )
    group.add_argument(
        "--tile",
        metavar="N",
        help="for small objects in large pictures: look at the whole and at tiles of N x N pixels, or `auto`, the "
        "size of the network's input",
    )
    group.add_argument(
        "--tile-overlap", type=float, default=0.2, metavar="X", help="of a tile's side; default: %(default)s"
    )


def _add_video_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--max-seconds", type=float, metavar="S", help="stop a camera, stream or video after this")
    group.add_argument("--stride", type=int, default=1, metavar="N", help="take every N-th frame")
    group.add_argument(
        "--reconnect",
        type=int,
        default=5,
        metavar="N",
        help="tries to reach a lost camera or stream again (%(default)s)",
    )
    group.add_argument(
        "--codec",
        choices=("auto", "h264", "mp4v"),
        default="auto",
        help="h264 plays in browsers and needs the extra `video`; auto takes it where it is installed",
    )
    group.add_argument(
        "--preset", choices=H264_PRESETS, default="ultrafast", help="h264: slower ones make smaller files (%(default)s)"
    )
    group.add_argument("--track", action="store_true", help="number objects from frame to frame (package `trackers`)")
    group.add_argument("--mot", type=Path, metavar="FILE", help="detections or tracks as a MOTChallenge text file too")


def _add_drawing_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--no-draw", action="store_true", help="no pictures and videos, detections.jsonl alone")
    group.add_argument("--line-width", type=int, metavar="N", help="pixels; default: by the size of the picture")
    group.add_argument("--hide-labels", action="store_true", help="frames without names and scores")
    group.add_argument("--show-speed", action="store_true", help="frames a second and ms a stage on every frame")


def run(args: argparse.Namespace) -> None:
    """Detect on every source, then tell how many and how fast. Ctrl-C ends early and keeps what is done."""
    _validate_args(args)
    check_model(args.model, args.overrides)
    from cspdet.checkpoints.loading import load_model
    from cspdet.inference.engines.factory import build_engine
    from cspdet.inference.predictor import Predictor
    from cspdet.inference.runner import DetectionRunner
    from cspdet.inference.slicing import SlicedDetector, parse_class_filter
    from cspdet.inference.sources import Video, find_sources

    settings = _settings(args)
    sources = find_sources(args.source)
    _check_sequence(args, sources)
    config = EngineConfig(_backend(args, sources), args.precision, args.device)
    config.check()
    bundle = load_model(args.model, weights=args.weights, overrides=args.overrides, task="detection")
    engine = build_engine(bundle, config)
    classes = None
    if args.classes is not None:
        classes = parse_class_filter(args.classes, engine.classes.names, engine.classes.category_ids)
    postprocess = PostprocessConfig(
        min_score=args.min_score, nms_iou=args.nms_iou, vote_iou=args.vote_iou, max_detections=args.max_detections
    )
    search = SlicedDetector(postprocess, classes, _tiling(args))
    detector = Predictor(engine, search.detector_config)
    output = args.output or increment_path(Path("runs/detect"))
    for count in sorted(
        {_frames_per_batch(source, args.batch_size) for source in sources if isinstance(source, Video)}
    ):
        engine.warm_up(count)
    start = time.perf_counter()
    with DetectionRunner(detector, output, search, settings) as annotator:
        try:
            annotator.run(sources)
        finally:
            _print_summary(annotator, time.perf_counter() - start, args.json)
    if annotator.problems:
        raise SourceError(*truncate_list(annotator.problems))


def _backend(args: argparse.Namespace, sources: list[MediaSource]) -> str:
    """`auto` tries engines for some seconds, which a few pictures do not give back."""
    from cspdet.inference.engines.exported import is_exported
    from cspdet.inference.sources import ImageFile

    few = len(sources) < MIN_IMAGES_FOR_AUTO_BACKEND and all(isinstance(source, ImageFile) for source in sources)
    if args.backend == "auto" and few and not is_exported(args.model):
        return "torch"
    return str(args.backend)


def _frames_per_batch(video: Video, batch_size: int) -> int:
    """Nothing waits for the newest frame of a camera or stream to have company."""
    return batch_size if isinstance(video.address, Path) else 1


def _validate_args(args: argparse.Namespace) -> None:
    """Raise ConfigError with all mistakes of the command line at once."""
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
    """A MOTChallenge file numbers the frames of one sequence: a video, or pictures in the order of their names."""
    from cspdet.inference.sources import ImageFile

    one_sequence = len(sources) == 1 or all(isinstance(source, ImageFile) for source in sources)
    if args.mot is not None and not one_sequence:
        raise ConfigError(f"--mot: expected one video or a folder of pictures, found {len(sources)} sources")


def _print_summary(annotator: DetectionRunner, seconds: float, as_json: bool) -> None:
    """The summary on stdout; it also stands at the end of a run that was cut short."""
    from cspdet.inference.records import read_records

    count = annotator.num_images + annotator.num_frames
    rate = count / seconds if seconds > 0 else 0.0
    stages = annotator.timer.milliseconds()
    if as_json:
        summary = {
            "model": annotator.detector.name,
            "output": str(annotator.output),
            "pictures": annotator.num_images,
            "frames": annotator.num_frames,
            "dropped_frames": annotator.num_dropped,
            "detections": annotator.jsonl_writer.num_detections,
            "seconds": round(seconds, 3),
            "fps": round(rate, 2),
            "stages_ms": {name: round(value, 3) for name, value in stages.items()},
            "failed": annotator.problems,
            "results": read_records(annotator.jsonl_writer.path),
        }
        print(json.dumps(summary, ensure_ascii=False))
        return
    done = [
        f"{n} {name}{'s' if n != 1 else ''}"
        for n, name in ((annotator.num_images, "picture"), (annotator.num_frames, "frame"))
        if n
    ]
    print(
        f"{' and '.join(done) or 'nothing'} in {seconds:.1f} s ({rate:.1f} a second), "
        f"{annotator.jsonl_writer.num_detections} detections; written to {annotator.output}"
    )
    if count:
        print("ms each: " + ", ".join(f"{name} {value:.1f}" for name, value in stages.items()))
