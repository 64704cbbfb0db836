"""Training a detector: boxes in, AP out.

Picture to loss: `train_loader` -> `to_input` -> the network -> `yolo_loss`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cspdet.datasets.detection.loader import train_loader
from cspdet.datasets.formats.coco import CocoDataset
from cspdet.datasets.image_io import read_image
from cspdet.datasets.loader import EpochLoader
from cspdet.evaluation.coco_backends import select_backend
from cspdet.evaluation.detection import inference_on_dataset, match_classes
from cspdet.evaluation.predictors import NetworkDetector, evaluation_mode
from cspdet.inference.draw import class_color, draw_boxes, draw_detections
from cspdet.inference.engines.source import EngineOptions
from cspdet.inference.engines.torch_engine import TorchEngine
from cspdet.inference.metadata import build_metadata
from cspdet.inference.predictor import Predictor
from cspdet.letterbox import Letterbox
from cspdet.models import Detector
from cspdet.models.bundle import ModelBundle
from cspdet.recipe import DetectionRecipe
from cspdet.structures import SINGLE_PROCESS, Batch, Categories, Shard, Targets
from cspdet.training.config import YoloLossConfig
from cspdet.training.distributed.context import DistributedContext
from cspdet.training.image_grid import MAX_GRID_IMAGES, make_grid
from cspdet.training.losses.class_weights import class_weights
from cspdet.training.losses.yolo import Losses, yolo_loss
from cspdet.training.tasks.base import AllReduce, EvalResult

NUM_DRAWN_IMAGES = 9  # of the val split
DRAW_SCORE_THRESHOLD = 0.25


class DetectionTask:
    """Boxes of the classes of `train_set`, judged by the AP on `val_set`."""

    command = "train"
    loss_names: tuple[str, ...] = ("box", "objectness", "class")
    log_metrics: tuple[str, ...] = ("AP", "AP50")
    val_image_name = "val_detections.jpg"
    image_list_label = "image ids"

    def __init__(
        self,
        recipe: DetectionRecipe,
        train_set: CocoDataset,
        val_set: CocoDataset | None,
        device: torch.device,
        shard: Shard = SINGLE_PROCESS,
    ):
        self.recipe, self.train_set, self.val_set, self.device = recipe, train_set, val_set, device
        self.classes: Categories = train_set.classes
        select_backend(recipe.eval.evaluator)  # one that is missing is told before the first epoch
        self.loader: EpochLoader[Batch] = train_loader(
            train_set, recipe.input, recipe.train.augment, recipe.train, device_type=device.type, shard=shard
        )
        assert isinstance(recipe.train.loss, YoloLossConfig)
        self.loss_config = recipe.train.loss
        weight = class_weights(self.loss_config, _boxes_per_class(train_set), self.classes.names)
        self.class_weight = None if weight is None else weight.to(device)
        self.class_mapping = (
            None if val_set is None else match_classes(self.classes, val_set.classes, str(val_set.files.annotations))
        )

    @property
    def has_val_set(self) -> bool:
        """Whether there is a val split."""
        return self.val_set is not None

    def losses(
        self,
        model: Detector,
        output: tuple[Tensor, ...],
        batch: Batch,
        size_hw: tuple[int, int],
        all_reduce_sum: AllReduce,
    ) -> Losses:
        """Of the raw scales, for boxes that follow the pictures to another size."""
        targets = _resize_targets(
            batch.targets.to(self.device), (batch.images.shape[2], batch.images.shape[3]), size_hw
        )
        train = self.recipe.train
        return yolo_loss(
            output, targets, model.anchors, self.loss_config, train.assigner, self.class_weight, all_reduce_sum
        )

    def evaluate(self, model: Detector, name: str, context: DistributedContext) -> EvalResult | None:
        """The COCO numbers, and all detections."""
        assert self.val_set is not None
        with evaluation_mode(model):
            predictions = inference_on_dataset(
                NetworkDetector(model, self.device), self.val_set, self.recipe.input, self.recipe.eval,
                self.class_mapping, context.shard,
            )  # fmt: skip
        parts = context.gather(predictions.records)
        if not context.is_main_process:
            return None
        predictions.merge(parts[1:])
        metrics, results = predictions.evaluate(), predictions.results
        full_metrics = metrics.to_json()
        scalar_metrics = {key: full_metrics[key] for key in metrics.stats}
        return EvalResult(metrics["AP"] or 0.0, scalar_metrics, full_metrics, results, self._draw_val(model, name))

    def draw_batch(self, batch: Batch) -> np.ndarray:
        """What the network sees, with its boxes."""
        return draw_batch(batch, self.classes)

    def describe_images(self, batch: Batch) -> list[str]:
        """The image ids of the annotations."""
        return [str(image_id) for image_id in batch.image_id.tolist()]

    def _draw_val(self, model: Detector, name: str) -> np.ndarray:
        """The first pictures of the val split with what is found in them, fit into one picture."""
        assert self.val_set is not None
        bundle = ModelBundle("detection", model, self.recipe, self.classes, name)
        postprocess = self.recipe.eval.model_copy(
            update={"min_score": DRAW_SCORE_THRESHOLD, "max_detections": 100, "clip_boxes": True}
        )
        engine = TorchEngine(model, build_metadata(bundle), EngineOptions(self.device))
        predictor = Predictor(engine, postprocess, network=model)
        grid_images, size = [], self.recipe.input.size
        for i in range(min(NUM_DRAWN_IMAGES, len(self.val_set))):
            image = read_image(self.val_set.path(i))
            image = draw_detections(image, predictor.predict(image), self.classes.names)
            grid_images.append(Letterbox.fit(image.shape[:2], size).resize_and_pad(image, size))
        return make_grid(grid_images)


def _boxes_per_class(coco: CocoDataset) -> list[int]:
    """Boxes of each class, crowds left out."""
    return np.bincount(coco.box_class[~coco.box_crowd], minlength=len(coco.classes)).tolist()


def _resize_targets(targets: Targets, from_hw: tuple[int, int], to_hw: tuple[int, int]) -> Targets:
    if from_hw == to_hw:
        return targets
    ratio = targets.box_xyxy.new_tensor((to_hw[1] / from_hw[1], to_hw[0] / from_hw[0])).repeat(2)
    return targets._replace(box_xyxy=targets.box_xyxy * ratio)


def draw_batch(batch: Batch, classes: Categories) -> np.ndarray:
    """What the network sees, with its boxes: up to 16 pictures of a batch in one (H, W, 3) uint8 picture."""
    grid_images = []
    for i, image in enumerate(batch.images[:MAX_GRID_IMAGES].permute(0, 2, 3, 1).contiguous().numpy()):
        in_image = batch.targets.image_index == i
        class_id = batch.targets.class_id[in_image].tolist()
        crowd = batch.targets.is_crowd[in_image].tolist()
        labels = [
            classes.names[c] + (" (crowd)" if of_crowd else "") for c, of_crowd in zip(class_id, crowd, strict=True)
        ]
        grid_images.append(
            draw_boxes(image, batch.targets.box_xyxy[in_image].numpy(), labels, [class_color(c) for c in class_id])
        )
    return make_grid(grid_images)
