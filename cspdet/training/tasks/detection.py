"""Training a detector: boxes in, AP out.

Picture to loss: `train_loader` -> `to_input` -> the network -> `yolo_loss`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cspdet.checkpoints.loading import LoadedModel
from cspdet.datasets.detection.loader import TrainLoader, train_loader
from cspdet.datasets.formats.coco import CocoSet
from cspdet.datasets.image_io import read_picture
from cspdet.evaluation.coco_backends import pick_engine
from cspdet.evaluation.detection import look_through, match_classes
from cspdet.inference.draw import class_color, draw_boxes, draw_detections
from cspdet.inference.predictor import Predictor
from cspdet.letterbox import Letterbox
from cspdet.models import Detector
from cspdet.recipe import Recipe
from cspdet.structures import WHOLE, Batch, Classes, Shard, Targets
from cspdet.training.distributed.context import World
from cspdet.training.image_grid import MOST_TILES, tile
from cspdet.training.losses.class_weights import class_weights
from cspdet.training.losses.yolo import Losses, yolo_loss
from cspdet.training.tasks.base import Across, Judgment

PICTURES_DRAWN = 9  # of the val split
DRAWN_SCORE = 0.25


class DetectionTask:
    """Boxes of the classes of `train_set`, judged by the AP on `val_set`."""

    verb = "train"
    loss_names: tuple[str, ...] = ("box", "objectness", "class")
    told: tuple[str, ...] = ("AP", "AP50")
    val_picture = "val_detections.jpg"
    image_names = "image ids"

    def __init__(
        self, recipe: Recipe, train_set: CocoSet, val_set: CocoSet | None, device: torch.device, shard: Shard = WHOLE
    ):
        self.recipe, self.train_set, self.val_set, self.device = recipe, train_set, val_set, device
        self.classes: Classes = train_set.classes
        pick_engine(recipe.eval.evaluator)  # one that is missing is told before the first epoch
        self.loader: TrainLoader = train_loader(train_set, recipe, device_type=device.type, shard=shard)
        weight = class_weights(recipe.train.loss, _boxes_of_classes(train_set), self.classes.names)
        self.class_weight = None if weight is None else weight.to(device)
        self.class_order = (
            None if val_set is None else match_classes(self.classes, val_set.classes, str(val_set.files.annotations))
        )

    @property
    def can_judge(self) -> bool:
        """Whether there is a val split."""
        return self.val_set is not None

    def losses(
        self, model: Detector, output: tuple[Tensor, ...], batch: Batch, size_hw: tuple[int, int], across: Across
    ) -> Losses:
        """Of the raw scales, for boxes that follow the pictures to another size."""
        targets = _resized(batch.targets.to(self.device), (batch.images.shape[2], batch.images.shape[3]), size_hw)
        train = self.recipe.train
        return yolo_loss(output, targets, model.anchors, train.loss, train.assign, self.class_weight, across)

    def judge(self, model: Detector, name: str, world: World) -> Judgment | None:
        """The COCO numbers, and all detections."""
        assert self.val_set is not None
        found = look_through(
            model, self.val_set, self.recipe.input, self.recipe.eval, self.device, class_order=self.class_order,
            shard=world.shard,
        )  # fmt: skip
        parts = world.gather(found.records)
        if not world.is_first:
            return None
        found.merge(parts[1:])
        metrics, results = found.evaluate(), found.results
        document = metrics.to_json()
        numbers = {key: document[key] for key in metrics.numbers}
        return Judgment(metrics["AP"] or 0.0, numbers, document, results, self._draw_val(model, name))

    def draw_batch(self, batch: Batch) -> np.ndarray:
        """What the network sees, with its boxes."""
        return draw_batch(batch, self.classes)

    def names_of(self, batch: Batch) -> list[str]:
        """The image ids of the annotations."""
        return [str(image_id) for image_id in batch.image_id.tolist()]

    def _draw_val(self, model: Detector, name: str) -> np.ndarray:
        """The first pictures of the val split with what is found in them, fit into one picture."""
        assert self.val_set is not None
        loaded = LoadedModel(model, self.recipe, self.classes, name)
        predictor = Predictor(
            loaded, self.device, min_score=DRAWN_SCORE, max_iou=self.recipe.eval.max_iou, max_detections=100,
            vote_iou=self.recipe.eval.vote_iou,
        )  # fmt: skip
        drawn, size = [], self.recipe.input.size
        for i in range(min(PICTURES_DRAWN, len(self.val_set))):
            image = read_picture(self.val_set.path(i))
            image = draw_detections(image, predictor.predict(image), self.classes.names)
            drawn.append(Letterbox.fit(image.shape[:2], size).draw(image, size))
        return tile(drawn)


def _boxes_of_classes(coco: CocoSet) -> list[int]:
    """Boxes of each class, crowds left out."""
    return np.bincount(coco.box_class[~coco.box_crowd], minlength=len(coco.classes)).tolist()


def _resized(targets: Targets, from_hw: tuple[int, int], to_hw: tuple[int, int]) -> Targets:
    if from_hw == to_hw:
        return targets
    ratio = targets.box_xyxy.new_tensor((to_hw[1] / from_hw[1], to_hw[0] / from_hw[0])).repeat(2)
    return targets._replace(box_xyxy=targets.box_xyxy * ratio)


def draw_batch(batch: Batch, classes: Classes) -> np.ndarray:
    """What the network sees, with its boxes: up to 16 pictures of a batch in one (H, W, 3) uint8 picture."""
    pictures = []
    for i, image in enumerate(batch.images[:MOST_TILES].permute(0, 2, 3, 1).contiguous().numpy()):
        mine = batch.targets.image == i
        class_id = batch.targets.class_id[mine].tolist()
        crowd = batch.targets.is_crowd[mine].tolist()
        labels = [
            classes.names[c] + (" (crowd)" if of_crowd else "") for c, of_crowd in zip(class_id, crowd, strict=True)
        ]
        pictures.append(
            draw_boxes(image, batch.targets.box_xyxy[mine].numpy(), labels, [class_color(c) for c in class_id])
        )
    return tile(pictures)
