"""Made data sets, detections and pycocotools' own judgment of them, for tests of the analysis."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cspdet.datasets.coco import CocoSet, load_coco
from cspdet.datasets.descriptor import SplitFiles

Annotation = dict[str, Any]
CATEGORIES = [{"id": 17, "name": "bar"}, {"id": 3, "name": "disc"}, {"id": 40, "name": "cone"}]
CLASSES = ("disc", "bar", "cone")  # by rising id, which is the order of the classes in a CocoSet
IMAGE_IDS = (30, 10, 20, 41)  # in no order, as files may have them


def write_annotations(
    path: Path,
    annotations: list[Annotation],
    *,
    images: tuple[int, ...] = IMAGE_IDS,
    categories: list[dict[str, Any]] = CATEGORIES,
) -> None:
    """An annotation file of pictures of 400x300 (width, height)."""
    numbered = [{"id": i, **annotation} for i, annotation in enumerate(annotations, start=1)]
    listed = [{"id": i, "file_name": f"{i}.png", "width": 400, "height": 300} for i in images]
    path.write_text(json.dumps({"images": listed, "categories": categories, "annotations": numbered}))


def made_set(annotations: list[Annotation], **more: Any) -> CocoSet:
    """The same as a loaded set, whose files stay until the tests end."""
    folder = Path(tempfile.mkdtemp(dir=_FOLDER.name))
    write_annotations(folder / "val.json", annotations, **more)
    return load_coco(SplitFiles(folder, folder / "val.json"), "val", allow_empty=True)


_FOLDER = tempfile.TemporaryDirectory(prefix="cspdet-analysis-")


def random_case(
    seed: int, *, crowds: bool = True, ties: bool = True, extra: int = 3
) -> tuple[list[Annotation], list[dict[str, Any]]]:
    """Truths, and detections on, beside and away from them, of right and wrong classes."""
    random = np.random.default_rng(seed)
    truths: list[Annotation] = []
    found: list[dict[str, Any]] = []
    for image_id in IMAGE_IDS[: int(random.integers(1, 5))]:
        for _ in range(int(random.integers(0, 6))):
            box = np.concatenate((random.uniform(0, 200, 2), random.uniform(8, 120, 2)))
            category = CATEGORIES[random.integers(3)]["id"]
            crowd = int(crowds and random.random() < 0.15)
            area = float(box[2] * box[3] * random.choice([1.0, 0.7]))
            truths.append(
                {"image_id": image_id, "category_id": category, "bbox": box.tolist(), "area": area, "iscrowd": crowd}
            )
            for _ in range(int(random.integers(0, 4))):
                moved = np.abs(box + random.normal(0, random.choice([0.5, 6, 25]), 4))
                other = CATEGORIES[random.integers(3)]["id"] if random.random() < 0.3 else category
                found.append({"image_id": image_id, "category_id": other, "bbox": moved.tolist()})
        for _ in range(int(random.integers(0, extra + 1))):
            box = np.concatenate((random.uniform(0, 200, 2), random.uniform(8, 120, 2)))
            found.append(
                {"image_id": image_id, "category_id": CATEGORIES[random.integers(3)]["id"], "bbox": box.tolist()}
            )
    for one in found:
        one["score"] = round(float(random.random()), 1) if ties else float(random.random())
    return truths, found


def judged_by_pycocotools(
    annotations: list[Annotation], found: list[dict[str, Any]], images: tuple[int, ...] = IMAGE_IDS
) -> COCOeval:
    """pycocotools after accumulate(); annotations need `area`."""
    frame = {"images": [{"id": i} for i in images], "categories": CATEGORIES}
    truths = [{"iscrowd": 0, **one, "id": i} for i, one in enumerate(annotations, start=1)]
    results = [
        {**one, "id": i, "iscrowd": 0, "area": one["bbox"][2] * one["bbox"][3]} for i, one in enumerate(found, start=1)
    ]
    sides = []
    with contextlib.redirect_stdout(io.StringIO()):
        for listed in (truths, results):
            side = COCO()
            side.dataset = {**frame, "annotations": listed}
            side.createIndex()
            sides.append(side)
        judge = COCOeval(*sides, "bbox")
        judge.evaluate()
        judge.accumulate()
    return judge


def pycocotools_precision(judge: COCOeval, size: int = 0) -> np.ndarray:
    """(10, C, 101) at a size (0 all, 1 small ...) of CLASSES; NaN where there is none."""
    precision = judge.eval["precision"][:, :, :, size, -1].transpose(0, 2, 1)
    return np.where(precision == -1, np.nan, precision)


def pycocotools_recall(judge: COCOeval, size: int = 0) -> np.ndarray:
    """(10, C), likewise."""
    recall = judge.eval["recall"][:, :, size, -1]
    return np.where(recall == -1, np.nan, recall)


def box(x: float, y: float = 0.0, side: float = 10.0) -> list[float]:
    """A square. Two of side 10 whose x differ by d have IoU (10 - d) / (10 + d): .667 at 2, .429 at 4, .053 at 9."""
    return [x, y, side, side]


def truth(name: str, bbox: list[float], image_id: int = 10, **more: Any) -> Annotation:
    """An annotated box of the class of that name."""
    return {"image_id": image_id, "category_id": _category(name), "bbox": bbox, **more}


def found(name: str, bbox: list[float], score: float, image_id: int = 10) -> dict[str, Any]:
    """A detection of the class of that name."""
    return {"image_id": image_id, "category_id": _category(name), "bbox": bbox, "score": score}


def _category(name: str) -> int:
    return next(one["id"] for one in CATEGORIES if one["name"] == name)
