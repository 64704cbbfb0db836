"""Measure images per second of the training pipeline on one core, next to ultralytics' loader.

  python benchmarks/data_pipeline.py
  python benchmarks/data_pipeline.py --data data/mine.yaml --size 416 --seconds 10
  python benchmarks/data_pipeline.py --data data/mine.yaml --ultralytics ul/bin/python

One process, one OpenCV thread, the code of the loader processes: samples, then batches of 16. Without --data it draws
64 JPEG images of 640x480 with 20 boxes each into a temporary folder.

Rows alternate. `/s` is images per second of wall time: overall, and of the best batch; `/s per core` is images per
second of CPU time of the process, which other programs disturb less. ultralytics runs in the environment of the given
interpreter, with its default augmentation (mosaic, affine, HSV, flip), cache='ram' and no loader process, on the same
images at the same size.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from yolo_folder import write_yolo_folder

from cspdet.benchmark.ipc import Worker
from cspdet.datasets.cache import build_cache
from cspdet.datasets.config import AugmentConfig, LoaderConfig
from cspdet.datasets.descriptor import DatasetConfig, load_dataset_config
from cspdet.datasets.detection.augment import Augment
from cspdet.datasets.detection.dataset import DetectionDataset, DetectionImages
from cspdet.datasets.detection.loader import BuildTrainBatch
from cspdet.datasets.formats.coco import CocoDataset, load_coco
from cspdet.errors import UserError

BATCH = 16
TURNS = 5
MOSAIC = AugmentConfig(
    mosaic=1.0,
    scale=(0.5, 1.5),
    translate=0.1,
    hue=0.02,
    saturation=1.5,
    exposure=1.5,
    flip_horizontal=0.5,
)
OURS = (("mosaic + affine + HSV + flip", MOSAIC), ("letterbox only", AugmentConfig()))
THEIRS = "ultralytics, its defaults"
SIDE = Path(__file__).with_name("against_ultralytics_side.py")


@dataclass
class Row:
    """A pipeline, and its batches so far: images, wall and CPU seconds of each."""

    name: str
    cached: bool
    images: list[int] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Images a second by the clock."""
        return sum(self.images) / sum(self.wall)

    @property
    def best(self) -> float:
        """Images a second in the best batch."""
        return max(images / wall for images, wall in zip(self.images, self.wall, strict=True))

    @property
    def per_core(self) -> float:
        """Images a second of CPU time, the median over the batches."""
        return statistics.median(images / cpu for images, cpu in zip(self.images, self.cpu, strict=True))


def main() -> int:
    args = _parser().parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            descriptor = _descriptor(args.data, Path(folder))
            coco = load_coco(descriptor.split("train"), "train")
            rows, versions = measure(coco, descriptor, args, Path(folder), stack)
    except UserError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        return 2
    ratio = _ratio(rows)
    if args.json:
        facts = [{**asdict(row), "rate": row.rate, "best": row.best, "per_core": row.per_core} for row in rows]
        print(json.dumps({"images": len(coco), "size": args.size, "versions": versions, "rows": facts, **ratio}))
        return 0
    report = ", ".join(f"{name} {version}" for name, version in versions.items())
    print(f"{len(coco)} images, input {args.size}x{args.size}, one core; {report}")
    print(f"{'pipeline':34}{'images':>9}{'/s':>9}{'best /s':>9}{'/s a core':>11}")
    for row in rows:
        how = "cached" if row.cached else "decoded"
        print(f"{row.name:34}{how:>9}{row.rate:9.0f}{row.best:9.0f}{row.per_core:11.0f}")
    if ratio:
        print(f"cspdet_row over ultralytics': {ratio['ratio']:.2f} by the clock, {ratio['ratio_per_core']:.2f} a core")
    return 0


def measure(
    coco: CocoDataset, descriptor: DatasetConfig, args: argparse.Namespace, folder: Path, stack: ExitStack
) -> tuple[list[Row], dict[str, str]]:
    """Measure the rows; also return the versions of the software."""
    versions = {"cspdet's OpenCV": cv2.__version__}
    turns: list[tuple[Row, Callable[[float], None]]] = []
    for name, config in OURS:
        for cached in (True, False):
            row = Row(name, cached)
            turns.append((row, _ours(row, batches(coco, config, args.size, cached=cached))))
    if args.ultralytics is not None:
        environment = {**os.environ, "YOLO_CONFIG_DIR": str(folder), "OMP_NUM_THREADS": "1"}
        worker = Worker([str(args.ultralytics), str(SIDE)], environment)
        stack.callback(worker.close)
        data = write_yolo_folder(descriptor, folder / "yolo")
        report = worker.request({"do": "loader", "data": str(data), "size": args.size, "batch": BATCH})
        versions |= {"ultralytics": report["ultralytics"], "its OpenCV": report["opencv"]}
        row = Row(THEIRS, True)
        turns.insert(1, (row, _theirs(row, worker)))
    for _ in range(TURNS):
        for _, turn in turns:
            turn(args.seconds / TURNS)
    return [row for row, _ in turns], versions


def batches(coco: CocoDataset, config: AugmentConfig, size: int, *, cached: bool) -> Iterator[int]:
    """Makes a batch at a time; gives how many images it has."""
    images = build_cache(DetectionImages(coco, (size, size)), LoaderConfig(cache="ram" if cached else "none"))
    build_batch = BuildTrainBatch(DetectionDataset(coco, images), Augment(config, (size, size)), 0, mosaic_epochs=1)
    draw = np.random.default_rng(0)
    while True:
        build_batch([(0, index) for index in draw.integers(len(coco), size=BATCH).tolist()])
        yield BATCH


def _ours(row: Row, made: Iterator[int]) -> Callable[[float], None]:
    next(made)  # warms up

    def turn(seconds: float) -> None:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            started, used = time.perf_counter(), time.process_time()
            row.images.append(next(made))
            row.wall.append(time.perf_counter() - started)
            row.cpu.append(time.process_time() - used)

    return turn


def _theirs(row: Row, worker: Worker) -> Callable[[float], None]:
    def turn(seconds: float) -> None:
        found = worker.request({"do": "batches", "seconds": seconds})
        row.images += found["images"]
        row.wall += found["wall"]
        row.cpu += found["cpu"]

    return turn


def _ratio(rows: list[Row]) -> dict[str, float]:
    """Our mosaics over ultralytics_row, both cached; empty where ultralytics_row did not run."""
    named = {(row.name, row.cached): row for row in rows}
    ultralytics_row, cspdet_row = named.get((THEIRS, True)), named[OURS[0][0], True]
    if ultralytics_row is None:
        return {}
    return {
        "ratio": cspdet_row.rate / ultralytics_row.rate,
        "ratio_per_core": cspdet_row.per_core / ultralytics_row.per_core,
    }


def _descriptor(given: Path | None, folder: Path) -> DatasetConfig:
    if given is not None:
        return load_dataset_config(given)
    draw_images(folder)
    path = folder / "patches.yaml"
    path.write_text("train: {images: ., annotations: train.json}\n", encoding="utf-8")
    return load_dataset_config(path)


def draw_images(folder: Path, count: int = 64, boxes: int = 20) -> None:
    """Draw colored patches with fine noise; as JPEG they are as large as photographs (100 kB each)."""
    rng = np.random.default_rng(0)
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for i in range(count):
        patches = cv2.resize(rng.integers(0, 256, (12, 16, 3), np.uint8), (640, 480), interpolation=cv2.INTER_CUBIC)
        noise = rng.integers(0, 24, (480, 640, 3), np.uint8)
        cv2.imwrite(str(folder / f"{i}.jpg"), cv2.add(patches, noise), [cv2.IMWRITE_JPEG_QUALITY, 85])
        images.append({"id": i, "file_name": f"{i}.jpg", "width": 640, "height": 480})
        for x, y, w, h in rng.integers((0, 0, 20, 20), (540, 380, 100, 100), (boxes, 4)).tolist():
            box = {"id": len(annotations) + 1, "image_id": i, "category_id": 1, "bbox": [x, y, w, h]}
            annotations.append({**box, "area": w * h, "iscrowd": 0})
    document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "patch"}]}
    (folder / "train.json").write_text(json.dumps(document))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="DESCRIPTOR", help="use the train split of this dataset")
    parser.add_argument("--size", type=int, default=416, help="input side in pixels (default: %(default)s)")
    parser.add_argument("--seconds", type=_seconds, default=10.0, help="seconds per row (default: %(default)s)")
    parser.add_argument("--ultralytics", type=_python, metavar="PYTHON", help="interpreter that has ultralytics")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    return parser


def _seconds(text: str) -> float:
    if not float(text) > 0:
        raise argparse.ArgumentTypeError(f"expected more than 0 seconds, found {text}")
    return float(text)


def _python(text: str) -> Path:
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"no such file: {text}")
    return Path(text)


if __name__ == "__main__":
    sys.exit(main())
