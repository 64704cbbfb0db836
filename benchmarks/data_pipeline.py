"""Pictures a second that one core makes ready for training.

    python benchmarks/data_pipeline.py
    python benchmarks/data_pipeline.py --pictures data/mine.yaml --size 416 --seconds 10

One process, one OpenCV thread, the same code that the loader processes run: samples, then batches of 16.
Without --pictures it draws 64 JPEG pictures of 640x480 with 20 boxes each into a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch

from cspdet.datasets.augment import Augment, AugmentConfig
from cspdet.datasets.batches import TrainData
from cspdet.datasets.coco import CocoSet, load_coco
from cspdet.datasets.descriptor import SplitFiles, load_descriptor
from cspdet.datasets.source import PictureSource

BATCH = 16
RECOMMENDED = AugmentConfig(
    mosaic=1.0,
    scale=(0.5, 1.5),
    translate=0.1,
    hue=0.02,
    saturation=1.5,
    exposure=1.5,
    flip_horizontal=0.5,
)


def draw_pictures(folder: Path, count: int = 64, boxes: int = 20) -> CocoSet:
    """Colored patches under fine noise: they compress about as photographs do (100 kB each)."""
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
    return load_coco(SplitFiles(images=folder, annotations=folder / "train.json"), "train")


def rate(coco: CocoSet, config: AugmentConfig, size: int, seconds: float, *, cached: bool) -> tuple[float, float]:
    """Pictures a second: over the whole time, and in the best batch, which other programs disturbed least."""
    source = PictureSource(coco, (size, size), cache="ram" if cached else "none")
    data = TrainData(source, Augment(config, (size, size)), seed=0, mosaic_epochs=1)
    order = np.random.default_rng(0).integers(len(coco), size=(10_000, BATCH)).tolist()
    data.__getitems__([(0, index) for index in order[0]])
    start, times = time.perf_counter(), []
    for batch in order:
        began = time.perf_counter()
        data.__getitems__([(0, index) for index in batch])
        times.append(time.perf_counter() - began)
        if time.perf_counter() - start > seconds:
            break
    return BATCH * len(times) / sum(times), BATCH / min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, metavar="DESCRIPTOR", help="use the train split of this data set")
    parser.add_argument("--size", type=int, default=416, help="input side in pixels (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=5.0, help="time for each row (default: %(default)s)")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if args.pictures:
            coco = load_coco(load_descriptor(args.pictures).split("train"), "train")
        else:
            coco = draw_pictures(Path(folder))
        print(f"{len(coco)} pictures, input {args.size}x{args.size}, OpenCV {cv2.__version__}, one core")
        print(f"{'pipeline':42}{'pictures':>9}{'mean/s':>9}{'best/s':>9}")
        for name, config in (
            ("mosaic + affine + HSV + flip", RECOMMENDED),
            ("letterbox only", AugmentConfig()),
        ):
            for cached in (True, False):
                mean, best = rate(coco, config, args.size, args.seconds, cached=cached)
                print(f"{name:42}{'cached' if cached else 'decoded':>9}{mean:9.0f}{best:9.0f}")


if __name__ == "__main__":
    main()
