"""COCO evaluators: pycocotools, the reference, and hotcoco, which returns the same results much faster.

Both take a `CocoEvalInput` and return the same arrays. In the input, the ids of images and categories are replaced by
their indices in the sorted ids. hotcoco needs this: it only warns about unknown ids, and it converts ids to floating
point, which rounds ids above 2^53. The order of the ids does not change, so the results do not change either.
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

AP50_INDEX, AP75_INDEX = 0, 5  # among the IoU thresholds .50, .55 ... .95


@dataclass(frozen=True, eq=False)
class CocoEvalInput:
    """Ground truth and detections with dense ids.

    `image_id` is from 0 to num_images - 1, and `category_id` is from 0 to num_classes - 1.
    """

    num_images: int
    num_classes: int
    ground_truth: Records  # (M,) GROUND_TRUTH_DTYPE
    detections: Records  # (N,) DETECTION_DTYPE, equal scores are ranked in this order


class CocoEvalResult(NamedTuple):
    """Arrays of COCO's evaluation; undefined values are -1."""

    precision: np.ndarray  # (10 IoUs, 101 recalls, K classes, 4 sizes, 3 limits) float64
    recall: np.ndarray  # (10 IoUs, K classes, 4 sizes, 3 limits) float64
    stats: np.ndarray  # (12,) float64, in the order of `evaluation.coco.METRIC_NAMES`


class CocoBackend(NamedTuple):
    """A COCO evaluator: name, and function that evaluates."""

    title: str  # name and version, as written to metrics.json
    evaluate: Callable[[CocoEvalInput], CocoEvalResult]


def select_backend(name: EvaluatorName) -> CocoBackend:
    """Return the evaluator with this name; `auto` selects hotcoco if it is installed, and pycocotools if not.

    Raises:
        ConfigError: hotcoco is requested but not installed or too old, or the name is unknown.
    """
    if name == "pycocotools":
        return _make_backend(name, evaluate_with_pycocotools)
    if name not in EVALUATORS:
        raise ConfigError(f"evaluator: expected {', '.join(EVALUATORS)}, found {name!r}")
    hotcoco = _import_hotcoco()
    if isinstance(hotcoco, ModuleType):
        return _make_backend("hotcoco", evaluate_with_hotcoco)
    if name == "auto":
        return _make_backend("pycocotools", evaluate_with_pycocotools)
    raise ConfigError(
        f"evaluator hotcoco: {hotcoco}; install it with pip install 'cspdet[analysis]', or use pycocotools"
    )


def _make_backend(package: str, evaluate: Callable[[CocoEvalInput], CocoEvalResult]) -> CocoBackend:
    return CocoBackend(f"{package} {importlib.metadata.version(package)}", evaluate)


def _import_hotcoco() -> ModuleType | str:
    """Return the module hotcoco, or the reason why it cannot be used."""
    try:
        import hotcoco
    except ImportError as error:
        return f"cannot be imported ({error})"
    if not hasattr(hotcoco.COCO, "from_arrays"):
        return f"{importlib.metadata.version('hotcoco')} is too old, expected 1.3 or newer"
    return hotcoco


def evaluate_with_pycocotools(eval_input: CocoEvalInput) -> CocoEvalResult:
    """Evaluate with pycocotools; the summary metrics are also computed by pycocotools."""
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        coco_eval = COCOeval(
            _build_coco_index(eval_input, _ground_truth_dicts(eval_input)),
            _build_coco_index(eval_input, _detection_dicts(eval_input)),
            "bbox",
        )
        coco_eval.evaluate()
        coco_eval.accumulate()
        coco_eval.summarize()
    return CocoEvalResult(coco_eval.eval["precision"], coco_eval.eval["recall"], coco_eval.stats)


def _build_coco_index(eval_input: CocoEvalInput, annotations: list[dict[str, Any]]) -> Any:
    """Build a COCO object of pycocotools without `loadRes`, which modifies its argument and fails for an empty list."""
    from pycocotools.coco import COCO

    index = COCO()
    index.dataset = {**_images_and_categories(eval_input), "annotations": annotations}
    index.createIndex()
    return index


def _images_and_categories(eval_input: CocoEvalInput) -> dict[str, list[dict[str, Any]]]:
    """Return the entries `images` and `categories`, which are the same for ground truth and detections."""
    return {
        "images": [{"id": i} for i in range(eval_input.num_images)],
        "categories": [{"id": i, "name": str(i)} for i in range(eval_input.num_classes)],
    }


def _ground_truth_dicts(eval_input: CocoEvalInput) -> list[dict[str, Any]]:
    """Return COCO annotations with ids from 1, because pycocotools treats a match with annotation 0 as no match."""
    columns = (eval_input.ground_truth[key].tolist() for key in ("image_id", "category_id", "bbox", "area", "crowd"))
    return [
        {"id": i, "image_id": image, "category_id": category, "bbox": box, "area": area, "iscrowd": crowd}
        for i, (image, category, box, area, crowd) in enumerate(zip(*columns, strict=True), start=1)
    ]


def _detection_dicts(eval_input: CocoEvalInput) -> list[dict[str, Any]]:
    columns = (eval_input.detections[key].tolist() for key in ("image_id", "category_id", "bbox", "score"))
    area = eval_input.detections["bbox"][:, 2:].prod(axis=1).tolist()
    return [
        {"id": i, "image_id": image, "category_id": category, "bbox": box, "score": score, "area": size}
        for i, (image, category, box, score, size) in enumerate(zip(*columns, area, strict=True), start=1)
    ]


def evaluate_with_hotcoco(eval_input: CocoEvalInput) -> CocoEvalResult:
    """Evaluate with hotcoco; the summary metrics are computed from its arrays."""
    import hotcoco

    ground_truth, detections, index = eval_input.ground_truth, eval_input.detections, _images_and_categories(eval_input)
    expected = hotcoco.COCO.from_arrays(
        index["images"],
        index["categories"],
        np.ascontiguousarray(ground_truth["image_id"]),
        np.ascontiguousarray(ground_truth["category_id"]),
        np.ascontiguousarray(ground_truth["bbox"]),
        ids=np.arange(1, len(ground_truth) + 1),
        area=np.ascontiguousarray(ground_truth["area"]),
        iscrowd=ground_truth["crowd"].astype(np.int64),
    )
    rows = np.column_stack((detections["image_id"], detections["bbox"], detections["score"], detections["category_id"]))
    coco_eval = hotcoco.COCOeval(expected, expected.load_res(rows), "bbox")
    coco_eval.evaluate()
    coco_eval.accumulate()
    arrays: dict[str, Any] = coco_eval.eval or {}
    precision, recall = arrays["precision"], arrays["recall"]
    return CocoEvalResult(precision, recall, summarize(precision, recall))


def empty_result(eval_input: CocoEvalInput) -> CocoEvalResult:
    """Return the result that both evaluators have for a dataset without ground truth."""
    return CocoEvalResult(
        np.full((10, 101, eval_input.num_classes, 4, 3), -1.0),
        np.full((10, eval_input.num_classes, 4, 3), -1.0),
        -np.ones(12),
    )


def summarize(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """Compute the (12,) metrics of COCO's summary from the arrays of a `CocoEvalResult`.

    Each metric is the mean over the defined values, or -1 if no value is defined.
    """
    last = precision.shape[-1] - 1
    parts = [precision[..., 0, last], precision[[AP50_INDEX], ..., 0, last], precision[[AP75_INDEX], ..., 0, last]]
    parts += [precision[..., size, last] for size in (1, 2, 3)]
    parts += [recall[..., 0, limit] for limit in range(last + 1)]
    parts += [recall[..., size, last] for size in (1, 2, 3)]
    return np.array([part[part > -1].mean() if (part > -1).any() else -1.0 for part in parts])
