"""Measure frames per second of `cspdet detect` on videos, relative to the same detector on frames in memory.

  python benchmarks/video_overhead.py best.pt road.mp4 bottle.mp4 --size 416 --backend openvino --rounds 5

Decoding, drawing and encoding run in parallel with the network, on the same cores. Both alternate on the same frames in
each round, to cancel machine drift. Prints medians over the rounds; `ratio` is video fps divided by in-memory fps. CPU
ms is CPU time per frame over all threads.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cspdet import load_detector
from cspdet.inference.output import DetectionSettings
from cspdet.inference.predictor import Predictor
from cspdet.inference.runner import DetectionRunner
from cspdet.inference.slicing import SlicedDetector
from cspdet.inference.sources import Video
from cspdet.inference.video.reader import open_video_file
from cspdet.inference.video.writer import select_codec


class Took(NamedTuple):
    """Wall and CPU time of `frames` frames."""

    frames: int
    wall_s: float
    cpu_s: float

    @property
    def rate(self) -> float:
        """Frames a second."""
        return self.frames / self.wall_s

    @property
    def cpu_ms(self) -> float:
        """CPU time per frame in ms, over all threads."""
        return 1000 * self.cpu_s / self.frames


def main(arguments: Sequence[str]) -> None:
    """Measure each video and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("videos", nargs="+", type=Path)
    parser.add_argument("--size", type=int, metavar="N", help="side of the network's input (default: the model's)")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--codec", default="auto", help="auto, h264 or mp4v")
    parser.add_argument("--min-score", type=float, default=0.25)
    parser.add_argument("--batch-size", type=int, default=DetectionSettings.batch_size)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10, help="maximum seconds of a video (default: %(default)s)")
    args = parser.parse_args(arguments)
    detector = load_detector(
        args.model, backend=args.backend, min_score=args.min_score,
        size=None if args.size is None else (args.size, args.size),
    )  # fmt: skip
    settings = DetectionSettings(batch_size=args.batch_size, max_seconds=args.seconds, codec=select_codec(args.codec))
    for count in (1, settings.batch_size):
        detector.engine.warm_up(count)
    print(f"{detector.name}, {detector.engine}, {settings.codec}, {args.rounds} rounds\n")
    print("| video | size | frames | ready fps | video fps | ratio | ready CPU ms | video CPU ms |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    for path in args.videos:
        print(line(detector, path, settings, args.rounds), flush=True)


def line(detector: Predictor, path: Path, settings: DetectionSettings, rounds: int) -> str:
    """Measure one video and return its row."""
    video = Video(path, Path(path.name))
    ready, annotated = [], []
    with open_video_file(video) as reader:
        images = [frame.image for frame in islice(reader, 40)]
    for _ in range(rounds):
        ready.append(timed(lambda: one_by_one(detector, images)))
        annotated.append(timed(lambda: whole(detector, video, settings)))
    ratios = [b.rate / a.rate for a, b in zip(ready, annotated, strict=True)]
    height, width = images[0].shape[:2]
    return (
        f"| {path.name} | {width}x{height} | {annotated[0].frames} | {statistics.median(t.rate for t in ready):.1f} "
        f"| {statistics.median(t.rate for t in annotated):.1f} "
        f"| {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) "
        f"| {statistics.median(t.cpu_ms for t in ready):.1f} | {statistics.median(t.cpu_ms for t in annotated):.1f} |"
    )


def timed(work: Callable[[], int]) -> Took:
    """Time `work`, which returns its number of frames."""
    wall, cpu = time.perf_counter(), time.process_time()
    frames = work()
    return Took(frames, time.perf_counter() - wall, time.process_time() - cpu)


def one_by_one(detector: Predictor, images: list[np.ndarray]) -> int:
    """Detect on each frame in memory."""
    for image in images:
        detector.predict(image)
    return len(images)


def whole(detector: Predictor, video: Video, settings: DetectionSettings) -> int:
    """Run `cspdet detect`: from the video file to the annotated file."""
    with tempfile.TemporaryDirectory() as folder:
        with DetectionRunner(detector, Path(folder), SlicedDetector(), settings) as annotator:
            annotator.run([video])
        if annotator.problems:
            raise SystemExit("\n".join(annotator.problems))
        return annotator.num_frames


if __name__ == "__main__":
    main(sys.argv[1:])
