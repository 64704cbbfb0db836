"""Draw and list what a detector finds in pictures, folders, globs, videos, a camera or a stream."""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

from cspdet.errors import ConfigError, SourceError, counted
from cspdet.folders import free_folder
from cspdet.inference.annotate import Annotator
from cspdet.inference.predictor import Predictor
from cspdet.inference.sources import find_sources
from cspdet.model_file import load_model
from cspdet.precision import pick_device


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command line of `detect` takes."""
    parser.add_argument("model", metavar="MODEL", help="a checkpoint, or a config with --weights")
    parser.add_argument("source", metavar="SOURCE", help="picture, folder, 'glob', video, camera index or stream URL")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="trained values for a config")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: runs/detect, and -2, -3 ... when taken")
    parser.add_argument("--min-score", type=float, default=0.25, metavar="S", help="default: %(default)s")
    parser.add_argument("--max-iou", type=float, default=0.6, metavar="T", help="NMS: the highest overlap that stays")
    parser.add_argument("--max-detections", type=int, default=100, metavar="N", help="a picture; default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="pictures a pass; default: %(default)s")
    parser.add_argument("--max-seconds", type=float, metavar="S", help="stop a camera, stream or video after this")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON document: the summary and all lines")


def run(args: argparse.Namespace) -> None:
    """Detect on every source, then tell how many and how fast. Ctrl-C ends early and keeps what is done."""
    _check(args)
    sources = find_sources(args.source)
    device = pick_device(args.device)
    loaded = load_model(args.model, weights=args.weights, overrides=args.overrides)
    detector = Predictor(
        loaded, device, min_score=args.min_score, max_iou=args.max_iou, max_detections=args.max_detections
    )
    output = args.output or free_folder(Path("runs/detect"))
    annotator = Annotator(detector, output, batch_size=args.batch_size, keep_records=args.json)
    start = time.perf_counter()
    with annotator:
        try:
            annotator.annotate(sources, args.max_seconds)
        finally:
            _tell(annotator, time.perf_counter() - start, args.json)
    if annotator.problems:
        raise SourceError(*counted(annotator.problems))


def _check(args: argparse.Namespace) -> None:
    problems = [
        f"--{name.replace('_', '-')}: expected a number from 0 to 1, found {getattr(args, name)}"
        for name in ("min_score", "max_iou")
        if not 0 <= getattr(args, name) <= 1
    ] + [
        f"--{name.replace('_', '-')}: expected 1 or more, found {getattr(args, name)}"
        for name in ("max_detections", "batch_size")
        if getattr(args, name) < 1
    ]
    if args.max_seconds is not None and not (args.max_seconds > 0 and math.isfinite(args.max_seconds)):
        problems.append(f"--max-seconds: expected more than 0, found {args.max_seconds}")
    if problems:
        raise ConfigError(*problems)


def _tell(annotator: Annotator, seconds: float, as_json: bool) -> None:
    """The summary on stdout; it also stands at the end of a run that was cut short."""
    count = annotator.pictures + annotator.frames
    rate = count / seconds if seconds > 0 else 0.0
    if as_json:
        summary = {
            "model": annotator.detector.name,
            "output": str(annotator.output),
            "pictures": annotator.pictures,
            "frames": annotator.frames,
            "detections": annotator.detections,
            "seconds": round(seconds, 3),
            "fps": round(rate, 2),
            "failed": annotator.problems,
            "results": annotator.records,
        }
        print(json.dumps(summary, ensure_ascii=False))
        return
    done = [
        f"{n} {name}{'s' if n != 1 else ''}"
        for n, name in ((annotator.pictures, "picture"), (annotator.frames, "frame"))
        if n
    ]
    print(
        f"{' and '.join(done) or 'nothing'} in {seconds:.1f} s ({rate:.1f} a second), "
        f"{annotator.detections} detections; written to {annotator.output}"
    )
