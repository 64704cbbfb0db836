"""The detection task: training data, loss and COCO evaluation of a detector.

Image to loss: `train_loader` -> `to_float_tensor` -> the network -> `yolo_loss`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cspdet.config.input import InputConfig
from cspdet.datasets.descriptor import load_dataset_config
from cspdet.datasets.detection.loader import train_loader
from cspdet.datasets.formats.coco import CocoDataset, check_image_files, load_coco
from cspdet.datasets.image_io import read_image
from cspdet.datasets.loader import EpochLoader
from cspdet.errors import DataError, truncate_list
from cspdet.evaluation.coco_backends import select_backend
from cspdet.evaluation.detection import inference_on_dataset, match_classes
from cspdet.evaluation.predictors import NetworkDetector, evaluation_mode
from cspdet.inference.engines.source import EngineOptions
from cspdet.inference.engines.torch_engine import TorchEngine
from cspdet.inference.metadata import build_metadata
from cspdet.inference.predictor import Predictor
from cspdet.models import Detector
from cspdet.models.bundle import ModelBundle
from cspdet.models.config import EvalConfig
from cspdet.structures import SINGLE_PROCESS, Batch, Shard, Targets
from cspdet.training.assigners.priors import Assigner
from cspdet.training.config import TrainConfig
from cspdet.training.distributed.context import DistributedContext
from cspdet.training.losses.base import AllReduce, AnyLosses, DetectionLoss, LossContext
from cspdet.training.tasks.base import EvalResult, Task, TrainingData
from cspdet.training.visualization import (
    draw_detection_batch,
    draw_pair,
    evenly_spaced_images,
    label_ground_truth,
    label_predictions,
    make_grid,
)

log = logging.getLogger("cspdet")

NUM_DRAWN_IMAGES = 8  # of the val split


@dataclass(frozen=True)
class _PredictorConfig:
    """Config for the predictor of the network in training, with the parts of a recipe that a predictor needs."""

    input: InputConfig
    eval: EvalConfig
    data: None = None


class DetectionTask(Task[Detector, Batch, CocoDataset]):
    """Task that trains a detector on the boxes of the train split; the primary metric is COCO AP on val."""

    command = "train"
    log_metrics = ("AP", "AP50")
    val_image_name = "val_detections.jpg"
    image_list_label = "image ids"

    def __init__(
        self,
        input_: InputConfig,
        train: TrainConfig,
        eval_: EvalConfig,
        data: TrainingData[CocoDataset],
        device: torch.device,
        shard: Shard = SINGLE_PROCESS,
    ):
        """Build the training batches.

        Args:
            input_: Input size and resize mode.
            train: Augmentation, batches, assigner and loss.
            eval_: Postprocessing and COCO evaluation.
            data: The splits.
            device: Device of the network.
            shard: The part of each batch that this process trains on.

        Raises:
            ConfigError: The evaluator is not installed, or settings do not fit the data.
            DataError: Images are unreadable, and the cache is `ram` or `disk`; or the val split has other classes.
        """
        self.input, self.train_config, self.eval_config = input_, train, eval_
        self.data, self.device = data, device
        select_backend(eval_.evaluator)  # reports a missing evaluator before the first epoch
        self.loader: EpochLoader[Batch] = train_loader(
            data.train, input_, train.augment, train, device_type=device.type, shard=shard
        )
        context = LossContext(train.assigner.build(), data.categories, _boxes_per_class(data.train), device)
        self.loss: DetectionLoss = train.loss.build(context)
        self.loss_names = self.loss.part_names
        val = data.val
        self.class_mapping = (
            None if val is None else match_classes(data.categories, val.classes, str(val.files.annotations))
        )

    @staticmethod
    def load_data(data: Path | None, on_bad_image: str) -> TrainingData[CocoDataset]:
        """Read the train split and, if there is one, the val split of a data descriptor, and check the images."""
        assert data is not None, "a detector's recipe names its data"
        descriptor = load_dataset_config(data)
        train_set = load_coco(descriptor.split("train"), "train")
        val_set = load_coco(descriptor.split("val"), "val") if descriptor.val else None
        _check_splits(train_set, val_set, on_bad_image)
        if val_set is not None and val_set.box_crowd.all():
            log.warning(
                "%s: no boxes (crowds do not count): AP is undefined, and best.pt will be the last weights",
                val_set.files.annotations,
            )
        counts = f"{len(train_set)} images, {len(train_set.box_xyxy)} boxes, {len(train_set.classes)} classes"
        summary = f"{descriptor.path.name}: {counts}"
        return TrainingData(train_set, val_set, train_set.classes, train_set.files.annotations, summary)

    @staticmethod
    def check_network(train: TrainConfig, network: Detector) -> None:
        """Raise ConfigError if the head cannot decode the boxes that the assigner assigns."""
        assigner: Assigner = train.assigner.build()
        assigner.check_head(tuple(network.anchors.scale_x_y.tolist()))

    def losses(
        self,
        model: Detector,
        output: tuple[Tensor, ...],
        batch: Batch,
        size_hw: tuple[int, int],
        all_reduce_sum: AllReduce,
    ) -> AnyLosses:
        """Compute the loss terms of this process's part of a batch, with the boxes scaled to the input size."""
        targets = _resize_targets(
            batch.targets.to(self.device), (batch.images.shape[2], batch.images.shape[3]), size_hw
        )
        return self.loss(output, targets, model.anchors, all_reduce_sum)

    def evaluate(self, model: Detector, name: str, context: DistributedContext) -> EvalResult | None:
        """Compute the COCO metrics and all detections; return None on ranks other than 0."""
        val_set = self.data.val
        assert val_set is not None
        with evaluation_mode(model):
            predictions = inference_on_dataset(
                NetworkDetector(model, self.device), val_set, self.input, self.eval_config,
                self.class_mapping, context.shard,
            )  # fmt: skip
        parts = context.gather(predictions.records)
        if not context.is_main_process:
            return None
        predictions.merge(parts[1:])
        metrics, results = predictions.evaluate(), predictions.results
        full_metrics = metrics.to_json()
        scalar_metrics = {key: full_metrics[key] for key in metrics.stats}
        return EvalResult(metrics["AP"], scalar_metrics, full_metrics, results, self._draw_val(model, name))

    def draw_batch(self, batch: Batch) -> np.ndarray:
        """Draw the input images with their ground-truth boxes, as one (H, W, 3) uint8 RGB grid."""
        return draw_detection_batch(batch, self.data.categories)

    def describe_images(self, batch: Batch) -> list[str]:
        """Return the id, in the annotation file, of each image of a batch."""
        return [str(image_id) for image_id in batch.image_id.tolist()]

    def _draw_val(self, model: Detector, name: str) -> np.ndarray:
        """Draw some val images with ground truth and predictions, as one (H, W, 3) uint8 RGB grid."""
        val_set = self.data.val
        assert val_set is not None
        bundle = ModelBundle(
            "detection", model, _PredictorConfig(self.input, self.eval_config), self.data.categories, name
        )
        postprocess = self.eval_config.model_copy(update={"max_detections": 100, "clip_boxes": True})
        engine = TorchEngine(model, build_metadata(bundle), EngineOptions(self.device))
        predictor = Predictor(engine, postprocess, network=model)
        pairs = []
        for i in evenly_spaced_images(val_set, NUM_DRAWN_IMAGES):
            image = read_image(val_set.path(i))
            ground_truth = label_ground_truth(val_set, i, self.data.categories)
            predictions = label_predictions(predictor.predict(image), self.data.categories.names)
            pairs.append(draw_pair(image, ground_truth, *predictions, self.input.size))
        return make_grid(pairs)


def _boxes_per_class(coco: CocoDataset) -> list[int]:
    """Count the non-crowd boxes of each class."""
    return np.bincount(coco.box_class[~coco.box_crowd], minlength=len(coco.classes)).tolist()


def _resize_targets(targets: Targets, from_hw: tuple[int, int], to_hw: tuple[int, int]) -> Targets:
    if from_hw == to_hw:
        return targets
    ratio = targets.box_xyxy.new_tensor((to_hw[1] / from_hw[1], to_hw[0] / from_hw[0])).repeat(2)
    return targets._replace(box_xyxy=targets.box_xyxy * ratio)


def _check_splits(train_set: CocoDataset, val_set: CocoDataset | None, on_bad_image: str) -> None:
    """Log the annotation warnings; raise DataError for images that are missing, unreadable or of another size."""
    sets = [train_set] if val_set is None else [train_set, val_set]
    for coco in sets:
        for note in coco.warnings:
            log.info("%s", note)
    for coco in sets:
        problems = check_image_files(coco)
        if problems and (coco is val_set or on_bad_image == "error"):
            hint = () if coco is val_set else ("train.on_bad_image=skip trains without them",)
            raise DataError(*truncate_list(problems), *hint)
        for problem in truncate_list(problems):
            log.warning("replaced by another image: %s", problem)
