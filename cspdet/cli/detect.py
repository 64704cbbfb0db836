"""Detect objects in images, folders, globs, videos, a camera or a stream; draw and list the detections."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from cspdet.cli.arguments import check_model, check_weights, print_lines
from cspdet.cli.detect_arguments import add_detect_arguments, validate_args
from cspdet.errors import ConfigError, SourceError, check_all, truncate_list
from cspdet.inference.config import EngineConfig
from cspdet.io.folders import increment_path
from cspdet.io.names import count
from cspdet.models.config import PostprocessConfig

if TYPE_CHECKING:
    from cspdet.inference.output import DetectionSettings
    from cspdet.inference.runner import DetectionRunner
    from cspdet.inference.slicing import Tiling
    from cspdet.inference.sources import MediaSource, Video
    from cspdet.models.bundle import ModelBundle

log = logging.getLogger("cspdet")

MIN_IMAGES_FOR_AUTO_BACKEND = 64  # with fewer images, `--backend auto` skips the benchmark of the engines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_detect_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Detect objects in every source. Ctrl-C stops early and keeps the results written so far."""
    validate_args(args)
    from cspdet.inference.sources import find_all_sources

    *_, sources = check_all(
        lambda: check_model(args.model, args.overrides),
        lambda: check_weights(args.weights),
        lambda: check_sources(args, find_all_sources(args.source)),
    )
    from cspdet.checkpoints.loading import load_model

    bundle = load_model(
        args.model, weights=args.weights, overrides=args.overrides, task="detection", backend=args.backend
    )  # fmt: skip
    detect(args, bundle, sources)


def check_sources(args: argparse.Namespace, sources: list[MediaSource]) -> list[MediaSource]:
    """Check that the outputs and the engine of the arguments support the sources, and return the sources.

    Raises:
        UserError: `--mot`, `--save-as` or the engine does not support the sources.
    """
    _check_sequence(args, sources)
    if "yolo" in args.save_as:
        from cspdet.inference.label_files import check_label_names

        check_label_names(sources)
    EngineConfig(_backend(args, sources), args.precision, args.device).check()
    return sources


def detect(args: argparse.Namespace, bundle: ModelBundle, sources: list[MediaSource]) -> None:
    """Detect objects with a loaded detector, write the output files, and print a summary."""
    from cspdet.inference.engines.factory import build_engine
    from cspdet.inference.label_files import label_outputs
    from cspdet.inference.output import check_detect_outputs
    from cspdet.inference.predictor import Predictor
    from cspdet.inference.runner import DetectionRunner
    from cspdet.inference.slicing import SlicedDetector, parse_class_filter
    from cspdet.inference.sources import Video

    settings = _settings(args)
    output = args.output or increment_path(Path("runs/detect"))
    labels = label_outputs(output, args.save_as, sources)
    check_detect_outputs(output, sources, settings, (args.model, args.weights), labels)
    engine = build_engine(bundle, EngineConfig(_backend(args, sources), args.precision, args.device))
    classes = None
    if args.classes is not None:
        classes = parse_class_filter(args.classes, engine.classes.names, engine.classes.category_ids)
    postprocess = PostprocessConfig(
        min_score=args.min_score, nms_iou=args.nms_iou, vote_iou=args.vote_iou, max_detections=args.max_detections
    )
    search = SlicedDetector(postprocess, classes, _tiling(args))
    detector = Predictor(engine, search.detector_config)
    for frames in sorted({_frames_per_batch(video, args.batch_size) for video in sources if isinstance(video, Video)}):
        engine.warm_up(frames)
    start = time.perf_counter()
    with DetectionRunner(detector, output, search, settings) as runner:
        if not args.json and log.isEnabledFor(logging.INFO):  # not with --quiet
            runner.report = _print_line
        try:
            runner.run(sources)
        finally:
            seconds = time.perf_counter() - start
            _write_label_files(args, runner, sources)
            _print_summary(runner, seconds, args.json)
    if runner.problems:
        raise SourceError(*truncate_list(runner.problems))


def _backend(args: argparse.Namespace, sources: list[MediaSource]) -> str:
    """Return the name of the engine.

    For `auto` with only a few images, return torch, because the search for the fastest engine takes several seconds.
    """
    from cspdet.inference.engines.exported import is_exported
    from cspdet.inference.sources import ImageFile

    few = len(sources) < MIN_IMAGES_FOR_AUTO_BACKEND and all(isinstance(source, ImageFile) for source in sources)
    if args.backend == "auto" and few and not is_exported(args.model):
        return "torch"
    return str(args.backend)


def _frames_per_batch(video: Video, batch_size: int) -> int:
    """Return the number of frames per forward pass: 1 for a camera or stream, so that the delay is short."""
    return batch_size if isinstance(video.address, Path) else 1


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
    """If `--mot` is given, check that the sources are one sequence of frames: a video, a camera, a stream, or images.

    Raises:
        ConfigError: `--mot` is given for several videos, or for videos and images.
    """
    from cspdet.inference.sources import ImageFile

    one_sequence = len(sources) == 1 or all(isinstance(source, ImageFile) for source in sources)
    if args.mot is not None and not one_sequence:
        raise ConfigError(f"--mot: expected one video or a folder of images, found {len(sources)} sources")


def _write_label_files(args: argparse.Namespace, runner: DetectionRunner, sources: list[MediaSource]) -> None:
    """Write the annotation files of --save-as, also after an interruption."""
    if not args.save_as or not (runner.jsonl_writer.num_lines or runner.problems):  # nothing was processed
        return
    from cspdet.inference.label_files import LabelSet, image_names, write_label_files

    records = runner.jsonl_writer.read()
    categories = dict(zip(runner.detector.category_ids, runner.detector.class_names, strict=True))
    labels = LabelSet(records, image_names(sources, records), categories, runner.problems)
    log.info("%s: also written: %s", runner.output, ", ".join(write_label_files(runner.output, args.save_as, labels)))


def _print_summary(runner: DetectionRunner, seconds: float, as_json: bool) -> None:
    """Print the summary of the run; it is printed even after an interruption or an error."""
    rate = (runner.num_images + runner.num_frames) / seconds if seconds > 0 else 0.0
    stages = runner.timer.milliseconds()
    if as_json:
        summary = {
            "model": runner.detector.name,
            "output": str(runner.output),
            "images": runner.num_images,
            "frames": runner.num_frames,
            "dropped_frames": runner.num_dropped,
            "detections": runner.jsonl_writer.num_detections,
            "limited": runner.num_limited,
            "seconds": round(seconds, 3),
            "fps": round(rate, 2),
            "stages_ms": {name: round(value, 3) for name, value in stages.items()},
            "failed": runner.problems,
            "results": runner.jsonl_writer.read(),
        }
        print(json.dumps(summary, ensure_ascii=False))
        return
    counts = [
        count(n, name) for n, name in ((runner.num_images, "image"), (runner.num_frames, "frame")) if n
    ]  # fmt: skip
    lines = [
        f"{' and '.join(counts) or 'nothing'} in {seconds:.1f} s ({rate:.1f} per second), "
        f"{count(runner.jsonl_writer.num_detections, 'detection')}; written to {runner.output}"
    ]
    if runner.num_limited:
        limit = runner.sliced_detector.postprocess.max_detections
        lines.append(
            f"images or frames with {limit} detections, the limit: {runner.num_limited}; --max-detections allows more"
        )
    if counts:
        lines.append("ms per image or frame: " + ", ".join(f"{name} {value:.1f}" for name, value in stages.items()))
    print_lines(lines)


def _print_line(line: str) -> None:
    print_lines([line])
    sys.stdout.flush()


if __name__ == "__main__":
    from cspdet.cli.main import run_command

    raise SystemExit(run_command("detect"))
