"""Measure the time of COCO evaluation, and the overhead over plain pycocotools.

  python benchmarks/evaluation_speed.py [--images 5000] [--detections 100] [--classes 80] [--evaluators hotcoco]

Generates a dataset of images with about seven boxes each and --detections results per image: nearly all boxes are
detected, most other results are noise. Prints the seconds from results in memory to final metrics for each evaluator,
and for plain pycocotools (`loadRes`, then `COCOeval`) on the same results, with the ratio. The time of plain
pycocotools does not include reading the annotation file; that of cspdet does.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cspdet.datasets.descriptor import SplitFiles
from cspdet.datasets.formats.coco import load_coco
from cspdet.evaluation.coco import Result, evaluate_results
from cspdet.evaluation.coco_backends import select_backend

IMAGE_WH = np.array([640.0, 480.0])
BOXES = 7.2  # an image, as in COCO's val2017


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("images", 5000), ("detections", 100), ("classes", 80), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument(
        "--evaluators", nargs="+", default=["hotcoco", "pycocotools"], help="evaluators to measure (default: both)"
    )
    parser.add_argument("--no-plain", action="store_true", help="do not run plain pycocotools")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "annotations.json"
        results = make_case(path, args.images, args.detections, args.classes, np.random.default_rng(args.seed))
        coco = load_coco(SplitFiles(Path(folder), path), "val")
        print(f"{len(coco)} images, {len(coco.box_xyxy)} boxes, {len(results)} detections, {args.classes} classes")
        seconds = {}
        for name in args.evaluators:
            start = time.perf_counter()
            metrics = evaluate_results(coco, results, evaluator=name)
            seconds[select_backend(name).title] = time.perf_counter() - start
            print_results(metrics.evaluator, seconds[metrics.evaluator], metrics["AP"])
        if args.no_plain:
            return
        plain, AP = evaluate_plainly(path, results)
        print_results("pycocotools used plainly", plain, AP)
        for title, took in seconds.items():
            print(f"{title}: {took / plain:.4f} times the time of plain pycocotools")


def make_case(path: Path, images: int, detections: int, classes: int, random: np.random.Generator) -> list[Result]:
    """Write the annotations to `path`; the results, `detections` an image."""
    category_ids = np.sort(random.permutation(2 * classes)[:classes])  # with gaps
    truth_image = np.repeat(np.arange(images), random.poisson(BOXES, images))
    truth_box = boxes(len(truth_image), random)
    truth_class = random.choice(category_ids, len(truth_image))
    annotations = [
        {
            "id": i,
            "image_id": image,
            "category_id": category,
            "bbox": box,
            "area": 0.7 * box[2] * box[3],
            "iscrowd": crowd,
        }
        for i, (image, category, box, crowd) in enumerate(
            zip(
                truth_image.tolist(),
                truth_class.tolist(),
                truth_box.tolist(),
                (random.random(len(truth_image)) < 0.01).astype(int).tolist(),
                strict=True,
            ),
            start=1,
        )
    ]
    image_entries = [{"id": i, "file_name": f"{i}.jpg", "width": 640, "height": 480} for i in range(images)]
    categories = [{"id": i, "name": f"class {i}"} for i in category_ids.tolist()]
    path.write_text(
        json.dumps({"images": image_entries, "categories": categories, "annotations": annotations}), encoding="utf-8"
    )
    image = np.concatenate((truth_image, random.integers(0, images, max(images * detections - len(truth_image), 0))))
    noise = len(image) - len(truth_image)
    near = truth_box + 0.05 * np.tile(truth_box[:, 2:], 2) * random.standard_normal(truth_box.shape)
    box = np.concatenate((near.clip(0), boxes(noise, random))).round(2)
    category = np.concatenate((truth_class, random.choice(category_ids, noise)))
    score = np.concatenate((random.beta(4, 2, len(truth_image)), random.beta(1, 6, noise))).round(4)
    columns = (part[np.argsort(image, kind="stable")].tolist() for part in (image, category, box, score))
    return [
        dict(zip(("image_id", "category_id", "bbox", "score"), row, strict=True)) for row in zip(*columns, strict=True)
    ]


def boxes(count: int, random: np.random.Generator) -> np.ndarray:
    """(N, 4) xywh inside the image, sides of 8 to 240 pixels, as many small ones as large ones."""
    size = np.exp(random.uniform(np.log(8), np.log(240), (count, 2)))
    return np.concatenate((random.random((count, 2)) * (IMAGE_WH - size), size), axis=1).round(2)


def evaluate_plainly(path: Path, results: list[Result]) -> tuple[float, float]:
    """Return the seconds and the AP of plain pycocotools."""
    own: list[dict[str, Any]] = [dict(result) for result in results]  # loadRes writes into them
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        start = time.perf_counter()
        evaluator = COCOeval(truth, truth.loadRes(own), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
        return time.perf_counter() - start, float(evaluator.stats[0])


def print_results(title: str, seconds: float, AP: float | None) -> None:
    print(f"{title}: {seconds:.2f} s, AP {AP}", flush=True)


if __name__ == "__main__":
    main()
