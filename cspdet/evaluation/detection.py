"""A network over every picture of a set, judged by COCO's rules."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cspdet.datasets.detection.loader import eval_loader
from cspdet.datasets.formats.coco import CocoDataset
from cspdet.device import Precision, autocast, to_float_tensor
from cspdet.errors import DataError, truncate_list
from cspdet.evaluation.coco import CocoEvaluator, Metrics, Result
from cspdet.inference.engines.base import Engine
from cspdet.io.progress import progress
from cspdet.letterbox import Letterbox
from cspdet.models import Detector
from cspdet.models.postprocess import decode_and_nms
from cspdet.recipe import EvalConfig, InputConfig
from cspdet.structures import SINGLE_PROCESS, Categories, Detections, Shard

log = logging.getLogger("cspdet")


def evaluate_model(
    model: Detector,
    coco: CocoDataset,
    input_: InputConfig,
    eval_: EvalConfig,
    device: torch.device,
    *,
    precision: Precision = "fp32",
    class_mapping: Sequence[int] | None = None,
) -> tuple[Metrics, list[Result]]:
    """Run `model`, which is on `device`, over all pictures of `coco`: the COCO numbers, and the COCO results.

    Boxes are cut at the border of their pictures if `eval_.clip_boxes`, and judged by `eval_.evaluator`.
    `class_order` gives each class of the model its index among those of the data; None: they are the same.
    The model is put into evaluation mode, and back into the mode in which it came.

    Raises:
        ConfigError: that evaluator is not installed; told before the first picture.
        DataError: a picture that cannot be read; the annotation file has gone or changed.
    """
    evaluator = inference_on_dataset(
        model, coco, input_, eval_, device, precision=precision, class_mapping=class_mapping
    )
    return evaluator.evaluate(), evaluator.results


def inference_on_dataset(
    model: Detector,
    coco: CocoDataset,
    input_: InputConfig,
    eval_: EvalConfig,
    device: torch.device,
    *,
    precision: Precision = "fp32",
    class_mapping: Sequence[int] | None = None,
    shard: Shard = SINGLE_PROCESS,
) -> CocoEvaluator:
    """What `evaluate_model` judges: the detections in all pictures of `coco`, or in those of one process's shard."""

    def predict(images: Tensor) -> list[Detections]:
        with autocast(device, precision):
            raw = model(to_float_tensor(images, device))
        return decode_and_nms(raw, model.anchors, eval_)

    was_training = model.training
    model.eval()
    try:
        return _inference_loop(predict, coco, input_, eval_, device, class_mapping, shard)
    finally:
        model.train(was_training)


def evaluate_engine(
    engine: Engine, coco: CocoDataset, eval_: EvalConfig, *, class_mapping: Sequence[int] | None = None
) -> tuple[Metrics, list[Result]]:
    """As `evaluate_model`, for a network in an engine, at the input size of that."""

    def predict(images: Tensor) -> list[Detections]:
        return engine.detect(images, eval_)

    evaluator = _inference_loop(
        predict, coco, engine.metadata.input, eval_, engine.device, class_mapping, SINGLE_PROCESS
    )
    return evaluator.evaluate(), evaluator.results


@torch.inference_mode()
def _inference_loop(
    predict: Callable[[Tensor], list[Detections]],
    coco: CocoDataset,
    input_: InputConfig,
    eval_: EvalConfig,
    device: torch.device,
    class_mapping: Sequence[int] | None,
    shard: Shard,
) -> CocoEvaluator:
    """`find` gives of a batch (B, 3, H, W) uint8 each picture's detections in input pixels."""
    evaluator = CocoEvaluator(coco, eval_.evaluator)
    loader = eval_loader(
        coco, input_.size, input_.resize, eval_.batch_size, eval_.workers, device_type=device.type, shard=shard
    )
    class_index = None if class_mapping is None else torch.tensor(class_mapping, dtype=torch.int64)
    for batch in progress(loader, "evaluating", "batch", total=len(loader)):
        sizes_hw = [(height, width) for height, width in batch.size_hw.tolist()]
        for image_id, size_hw, in_input in zip(batch.image_id.tolist(), sizes_hw, predict(batch.images), strict=True):
            letterbox = Letterbox.fit(size_hw, input_.size, input_.resize)
            detections = in_input.to_image(letterbox, size_hw, clip_boxes=eval_.clip_boxes)
            if class_index is not None:
                detections = Detections(detections.box_xyxy, detections.score, class_index[detections.class_id])
            evaluator.add(image_id, detections)
    return evaluator


def match_classes(model: Categories, data: Categories, where: str) -> tuple[int, ...] | None:
    """The index in the data of each class of the model; None when names, category ids and order are the same.

    Classes are told apart by their names. Other category ids for the same names are legal, and noted: the
    results then carry those of the data.

    Raises:
        DataError: names that only the model or only the data (`where`) knows, which would score an AP of 0.
    """
    if model == data:
        return None
    problems = [
        f"{where}: no class {name!r} (category id {category_id}), which the model knows"
        for name, category_id in zip(model.names, model.category_ids, strict=True)
        if name not in data.names
    ] + [
        f"{where}: class {name!r} (category id {category_id}) is unknown to the model"
        for name, category_id in zip(data.names, data.category_ids, strict=True)
        if name not in model.names
    ]
    if not problems and not (len(set(data.names)) == len(data.names) == len(model.names)):
        problems = [f"{where}: several classes share a name, so that the model's cannot be found by name"]
    if problems:
        counts = f"{where}: the classes are not the model's: expected {_format_classes(model)}; found {_format_classes(data)}"
        raise DataError(counts, *truncate_list(problems))
    if model.category_ids != tuple(data.category_ids[data.names.index(name)] for name in model.names):
        log.info("%s: category ids differ from the model's; classes are matched by name", where)
    return tuple(data.names.index(name) for name in model.names)


def _format_classes(classes: Categories) -> str:
    shown = ", ".join(f"{i} {name}" for i, name in zip(classes.category_ids[:5], classes.names[:5], strict=True))
    return f"{len(classes)} ({shown}{', ...' if len(classes) > 5 else ''})"
