"""COCO's judgment of detections, by pycocotools itself, whose traps this module keeps clear of."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cspdet.datasets.coco import CocoSet
from cspdet.errors import DataError
from cspdet.types import Detections

# COCOeval.stats, in its order: averages over IoU .50:.95 except for AP50 and AP75; s, m, l are the sizes of
# the objects, below 32^2, 96^2 and above; AR1, AR10, AR100 allow so many detections a picture and class.
NUMBERS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")

Result = dict[str, Any]  # image_id, category_id, bbox [x, y, width, height], score


@dataclass(frozen=True)
class Metrics:
    """The 12 numbers, those of each class, and what they were measured on; None where COCO has no number."""

    numbers: dict[str, float | None]  # by NUMBERS
    per_class: dict[str, dict[str, float | None]]  # class name to AP and AP50
    images: int
    detections: int
    evaluator: str

    def __getitem__(self, name: str) -> float | None:
        return self.numbers[name]

    def to_json(self) -> dict[str, Any]:
        counts = {"images": self.images, "detections": self.detections, "evaluator": self.evaluator}
        return {**self.numbers, "per_class": self.per_class, **counts}


class CocoEvaluator:
    """Collects detections picture by picture, then judges them; pictures never added count as empty."""

    def __init__(self, coco: CocoSet):
        self._coco = coco
        self._image_ids = {int(image_id) for image_id in coco.image_id}
        self._added: set[int] = set()
        self._results: list[Result] = []

    @property
    def results(self) -> list[Result]:
        """COCO results with the original category ids, in the order in which pictures were added."""
        return self._results

    def add(self, image_id: int, detections: Detections) -> None:
        """The detections of one picture, boxes in its own pixels.

        Raises:
            ValueError: not a picture of this set, or one that was added before; numbers that are not finite.
        """
        if image_id not in self._image_ids or image_id in self._added:
            raise ValueError(f"image id {image_id}: {'added twice' if image_id in self._added else 'not in this set'}")
        self._added.add(image_id)
        box = detections.box_xyxy.cpu().double().numpy()
        score = detections.score.cpu().double().numpy()
        if not (np.isfinite(box).all() and np.isfinite(score).all()):
            raise ValueError(f"image id {image_id}: a box or score is not finite")
        box_xywh = np.concatenate((box[:, :2], box[:, 2:] - box[:, :2]), axis=1)
        # What is judged is what the results file says: rounded to thousandths of a pixel.
        columns = (box_xywh.round(3).tolist(), score.round(7).tolist(), detections.class_id.tolist())
        ids = self._coco.classes.category_ids
        self._results += [
            {"image_id": image_id, "category_id": ids[class_id], "bbox": bbox, "score": value}
            for bbox, value, class_id in zip(*columns, strict=True)
        ]

    def evaluate(self) -> Metrics:
        """Judge what was added."""
        return evaluate_results(self._coco, self._results)


def evaluate_results(coco: CocoSet, results: list[Result]) -> Metrics:
    """Judge COCO results (which `evaluation.results.read_results` has checked) on every picture of the set.

    Raises:
        DataError: the annotation file has gone or changed.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools tells its steps on stdout
        judge = COCOeval(_indexed(_truth(coco)), _indexed(_found(coco, results)), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return Metrics(
        numbers={name: _number(value) for name, value in zip(NUMBERS, judge.stats, strict=True)},
        per_class=_per_class(coco, judge),
        images=len(coco.image_id),
        detections=len(results),
        evaluator=f"pycocotools {importlib.metadata.version('pycocotools')}",
    )


def _indexed(dataset: dict[str, Any]) -> COCO:
    index = COCO()
    index.dataset = dataset
    index.createIndex()
    return index


def _frame(coco: CocoSet) -> dict[str, Any]:
    """What truth and results share: the pictures and the categories."""
    classes = coco.classes
    return {
        "images": [{"id": int(image_id)} for image_id in coco.image_id],
        "categories": [{"id": i, "name": n} for i, n in zip(classes.category_ids, classes.names, strict=True)],
    }


def _truth(coco: CocoSet) -> dict[str, Any]:
    """The annotations as their file has them, with what may be missing filled in.

    Ids are counted anew from 1: pycocotools takes a match with annotation 0 for none, and lets equal ids hide
    each other. Annotations without a finite box, or of an unknown picture or class, stay out.
    """
    path = coco.files.annotations
    try:
        listed = json.loads(path.read_bytes()).get("annotations", [])
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read again for the evaluation: {error}") from None
    images, categories = {int(image_id) for image_id in coco.image_id}, set(coco.classes.category_ids)
    kept: list[dict[str, Any]] = []
    for annotation in listed:
        box = annotation.get("bbox")
        if annotation.get("image_id") not in images or annotation.get("category_id") not in categories:
            continue
        if not (isinstance(box, list) and len(box) == 4 and all(_finite(value) for value in box)):
            continue
        area = annotation.get("area")
        kept.append(
            {
                "id": len(kept) + 1,
                "image_id": annotation["image_id"],
                "category_id": annotation["category_id"],
                "bbox": box,
                "area": area if _finite(area) else box[2] * box[3],
                "iscrowd": int(bool(annotation.get("iscrowd"))),
            }
        )
    return {**_frame(coco), "annotations": kept}


def _found(coco: CocoSet, results: list[Result]) -> dict[str, Any]:
    """What COCO.loadRes makes of results, which itself fails on an empty list."""
    annotations = [
        {**result, "id": i, "area": result["bbox"][2] * result["bbox"][3], "iscrowd": 0}
        for i, result in enumerate(results, start=1)
    ]
    return {**_frame(coco), "annotations": annotations}


def _finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _number(value: float) -> float | None:
    """pycocotools says -1 where there is nothing to measure."""
    return None if value == -1 else float(value)


def _per_class(coco: CocoSet, judge: COCOeval) -> dict[str, dict[str, float | None]]:
    precision = judge.eval["precision"][:, :, :, 0, -1]  # (IoU, recall, class) at any size, 100 detections
    columns = {category_id: k for k, category_id in enumerate(judge.params.catIds)}
    numbers = {}
    for name, category_id in zip(coco.classes.names, coco.classes.category_ids, strict=True):
        of_class = precision[:, :, columns[category_id]]
        numbers[name] = {"AP": _mean(of_class), "AP50": _mean(of_class[0])}
    return numbers


def _mean(precision: np.ndarray) -> float | None:
    measured = precision[precision > -1]
    return float(measured.mean()) if measured.size else None
