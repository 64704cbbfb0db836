"""The programs that judge by COCO's rules: pycocotools, the reference, and hotcoco, as exact and far faster.

Each takes the same `Case` and gives the same arrays. Pictures and classes reach them as their places among the sorted
ids: hotcoco only warns of an id that it does not know, and takes detections as floating point, which would round ids
beyond 2^53. Sorted places keep every order that COCO's rules rest on.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from cspdet.errors import ConfigError
from cspdet.evaluation.records import Records

EvaluatorName = Literal["auto", "pycocotools", "hotcoco"]
EVALUATORS: tuple[EvaluatorName, ...] = get_args(EvaluatorName)

AP50, AP75 = 0, 5  # among the IoU thresholds .50, .55 ... .95


@dataclass(frozen=True, eq=False)
class Case:
    """What is to be judged: annotations and detections of `images` pictures and `classes` classes.

    `image_id` and `category_id` are places, 0 to images - 1 and 0 to classes - 1.
    """

    images: int
    classes: int
    truth: Records  # (M,) TRUTH_TYPE
    found: Records  # (N,) FOUND_TYPE, equal scores in the order that counts


class Judgment(NamedTuple):
    """What COCO's evaluation leaves; -1 where there is nothing to measure."""

    precision: np.ndarray  # (10 IoUs, 101 recalls, K classes, 4 sizes, 3 limits) float64
    recall: np.ndarray  # (10 IoUs, K classes, 4 sizes, 3 limits) float64
    stats: np.ndarray  # (12,) float64, in the order of `evaluation.coco.NUMBERS`


class Engine(NamedTuple):
    """A program that judges."""

    title: str  # name and version, as metrics.json has it
    judge: Callable[[Case], Judgment]


def pick_engine(name: EvaluatorName) -> Engine:
    """The engine of that name; `auto` is hotcoco where it can be imported.

    Raises:
        ConfigError: hotcoco is asked for but not installed, or too old.
    """
    if name == "pycocotools":
        return _engine(name, judge_with_pycocotools)
    if name not in EVALUATORS:
        raise ConfigError(f"evaluator: expected {', '.join(EVALUATORS)}, found {name!r}")
    found = _hotcoco()
    if isinstance(found, ModuleType):
        return _engine("hotcoco", judge_with_hotcoco)
    if name == "auto":
        return _engine("pycocotools", judge_with_pycocotools)
    raise ConfigError(
        f"evaluator hotcoco: {found}; pip install 'cspdet[analysis]' brings it, pycocotools needs nothing"
    )


def _engine(package: str, judge: Callable[[Case], Judgment]) -> Engine:
    return Engine(f"{package} {importlib.metadata.version(package)}", judge)


def _hotcoco() -> ModuleType | str:
    """The module, or why there is none."""
    try:
        import hotcoco
    except ImportError as error:
        return f"cannot be imported ({error})"
    if not hasattr(hotcoco.COCO, "from_arrays"):
        return f"{importlib.metadata.version('hotcoco')} is too old, expected 1.3 or newer"
    return hotcoco


def judge_with_pycocotools(case: Case) -> Judgment:
    """Judge by pycocotools itself, down to its own twelve numbers."""
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools tells its steps on stdout
        judge = COCOeval(_indexed(case, _truth(case)), _indexed(case, _found(case)), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return Judgment(judge.eval["precision"], judge.eval["recall"], judge.stats)


def _indexed(case: Case, annotations: list[dict[str, Any]]) -> Any:
    """A pycocotools COCO; made here since `loadRes` fails on an empty list, and writes into the caller's objects."""
    from pycocotools.coco import COCO

    index = COCO()
    index.dataset = {**_frame(case), "annotations": annotations}
    index.createIndex()
    return index


def _frame(case: Case) -> dict[str, list[dict[str, Any]]]:
    """What truth and detections share."""
    return {
        "images": [{"id": i} for i in range(case.images)],
        "categories": [{"id": i, "name": str(i)} for i in range(case.classes)],
    }


def _truth(case: Case) -> list[dict[str, Any]]:
    """Ids count from 1: pycocotools takes a match with annotation 0 for none, and lets equal ids hide each other."""
    columns = (case.truth[key].tolist() for key in ("image_id", "category_id", "bbox", "area", "crowd"))
    return [
        {"id": i, "image_id": image, "category_id": category, "bbox": box, "area": area, "iscrowd": crowd}
        for i, (image, category, box, area, crowd) in enumerate(zip(*columns, strict=True), start=1)
    ]


def _found(case: Case) -> list[dict[str, Any]]:
    columns = (case.found[key].tolist() for key in ("image_id", "category_id", "bbox", "score"))
    area = case.found["bbox"][:, 2:].prod(axis=1).tolist()
    return [
        {"id": i, "image_id": image, "category_id": category, "bbox": box, "score": score, "area": size}
        for i, (image, category, box, score, size) in enumerate(zip(*columns, area, strict=True), start=1)
    ]


def judge_with_hotcoco(case: Case) -> Judgment:
    """Judge by hotcoco, which is given arrays and prints nothing; the numbers come from its arrays."""
    import hotcoco

    truth, found, frame = case.truth, case.found, _frame(case)
    expected = hotcoco.COCO.from_arrays(
        frame["images"],
        frame["categories"],
        np.ascontiguousarray(truth["image_id"]),
        np.ascontiguousarray(truth["category_id"]),
        np.ascontiguousarray(truth["bbox"]),
        ids=np.arange(1, len(truth) + 1),
        area=np.ascontiguousarray(truth["area"]),
        iscrowd=truth["crowd"].astype(np.int64),
    )
    rows = np.column_stack((found["image_id"], found["bbox"], found["score"], found["category_id"]))
    judge = hotcoco.COCOeval(expected, expected.load_res(rows), "bbox")
    judge.evaluate()
    judge.accumulate()
    arrays: dict[str, Any] = judge.eval or {}
    precision, recall = arrays["precision"], arrays["recall"]
    return Judgment(precision, recall, summary(precision, recall))


def nothing_to_measure(case: Case) -> Judgment:
    """What either program says where there is no truth."""
    return Judgment(np.full((10, 101, case.classes, 4, 3), -1.0), np.full((10, case.classes, 4, 3), -1.0), -np.ones(12))


def summary(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """(12,) the numbers of COCO's summary, from the arrays of a `Judgment`: means over what was measured, else -1."""
    most = precision.shape[-1] - 1
    parts = [precision[..., 0, most], precision[[AP50], ..., 0, most], precision[[AP75], ..., 0, most]]
    parts += [precision[..., size, most] for size in (1, 2, 3)]
    parts += [recall[..., 0, limit] for limit in range(most + 1)]
    parts += [recall[..., size, most] for size in (1, 2, 3)]
    return np.array([part[part > -1].mean() if (part > -1).any() else -1.0 for part in parts])
