"""COCO evaluation of a detector on a dataset.

The same loop evaluates a network during training, a loaded model and an engine: it loads batches, detects objects, maps
the boxes to image pixels, and collects the detections. `cspdet.evaluation.coco` computes the metrics.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from cspdet.config.input import InputConfig
from cspdet.datasets.detection.loader import eval_loader
from cspdet.datasets.formats.coco import CocoDataset
from cspdet.errors import DataError, truncate_list
from cspdet.evaluation.coco import CocoEvaluator, Metrics, Result
from cspdet.evaluation.predictors import DetectionPredictor
from cspdet.io.progress import progress
from cspdet.letterbox import Letterbox
from cspdet.models.config import EvalConfig
from cspdet.structures import SINGLE_PROCESS, Categories, Detections, Shard

log = logging.getLogger("cspdet")


def evaluate_detector(
    predictor: DetectionPredictor,
    coco: CocoDataset,
    input_: InputConfig,
    eval_: EvalConfig,
    class_mapping: Sequence[int] | None = None,
) -> tuple[Metrics, list[Result]]:
    """Compute the COCO metrics of a detector on a dataset. Return the metrics, and the detections as COCO results.

    Args:
        predictor: A `NetworkDetector`, or an engine.
        coco: Images and ground truth.
        input_: Input size, and how images are resized to it.
        eval_: Batch size, workers, post-processing (`clip_boxes` clips boxes to the image) and COCO evaluator.
        class_mapping: Dataset index of each class of the model (see `match_classes`); None: the same indices.

    Raises:
        ConfigError: `eval_.evaluator` is not installed; raised before the first image is read.
        DataError: An image cannot be read, or the annotation file is missing or has changed.
    """
    evaluator = inference_on_dataset(predictor, coco, input_, eval_, class_mapping)
    return evaluator.evaluate(), evaluator.results


@torch.inference_mode()
def inference_on_dataset(
    predictor: DetectionPredictor,
    coco: CocoDataset,
    input_: InputConfig,
    eval_: EvalConfig,
    class_mapping: Sequence[int] | None = None,
    shard: Shard = SINGLE_PROCESS,
) -> CocoEvaluator:
    """Detect objects in the images of a dataset, and collect the detections in a `CocoEvaluator`.

    `shard` selects the images of one process; by default, all images are used. `CocoEvaluator.merge` merges the
    detections of all processes. For the other arguments and the errors, see `evaluate_detector`.
    """
    evaluator = CocoEvaluator(coco, eval_.evaluator)
    loader = eval_loader(coco, input_, eval_, device_type=predictor.device.type, shard=shard)
    class_index = None if class_mapping is None else torch.tensor(class_mapping, dtype=torch.int64)
    for batch in progress(loader, "evaluating", "batch", total=len(loader)):
        sizes_hw = [(height, width) for height, width in batch.size_hw.tolist()]
        batch_detections = predictor.detect(batch.images, eval_)
        for image_id, size_hw, in_input in zip(batch.image_id.tolist(), sizes_hw, batch_detections, strict=True):
            letterbox = Letterbox.fit(size_hw, input_.size, input_.resize)
            detections = in_input.to_image(letterbox, size_hw, clip_boxes=eval_.clip_boxes)
            evaluator.add(image_id, _map_classes(detections, class_index))
    return evaluator


def _map_classes(detections: Detections, class_index: torch.Tensor | None) -> Detections:
    """Convert class indices of the model to class indices of the dataset.

    Args:
        detections: Detections with class indices of the model.
        class_index: Dataset index of each class of the model; None: the same indices.
    """
    if class_index is None:
        return detections
    return Detections(detections.box_xyxy, detections.score, class_index[detections.class_id])


def _check_same_names(model: Categories, data: Categories, where: str) -> None:
    problems = [
        *(f"{where}: no class {entry}, which the model has" for entry in _missing_classes(model, data)),
        *(f"{where}: class {entry} is unknown to the model" for entry in _missing_classes(data, model)),
    ]
    if not problems and not (len(set(data.names)) == len(data.names) == len(model.names)):
        problems = [f"{where}: several classes have the same name, so the classes cannot be matched by name"]
    if problems:
        counts = (
            f"{where}: the classes differ from the model's: expected {format_classes(model)}; "
            f"found {format_classes(data)}"
        )
        raise DataError(counts, *truncate_list(problems))


def match_classes(model: Categories, data: Categories, where: str) -> tuple[int, ...] | None:
    """Match the classes of a model to the classes of a dataset by name.

    Category ids may differ. A difference is logged. Results always have the category ids of the dataset.

    Args:
        model: Classes of the model.
        data: Classes of the dataset.
        where: Path of the annotation file, for messages.

    Returns:
        The dataset index of each class of the model, or None if names, category ids and order are the same.

    Raises:
        DataError: A class exists only in the model or only in the dataset, or several classes have the same name.
    """
    if model == data:
        return None
    _check_same_names(model, data, where)
    if model.category_ids != tuple(data.category_ids[data.names.index(name)] for name in model.names):
        log.info("%s: category ids differ from the model's; classes are matched by name", where)
    return tuple(data.names.index(name) for name in model.names)


def _missing_classes(categories: Categories, others: Categories) -> list[str]:
    """Return descriptions of the classes whose names are not in `others`."""
    entries = zip(categories.names, categories.category_ids, strict=True)
    return [f"{name!r} (category id {category_id})" for name, category_id in entries if name not in others.names]


def format_classes(classes: Categories) -> str:
    """Return the number of classes, and the first five with their category ids, for messages."""
    first = ", ".join(f"{i} {name}" for i, name in zip(classes.category_ids[:5], classes.names[:5], strict=True))
    return f"{len(classes)} ({first}{', ...' if len(classes) > 5 else ''})"
