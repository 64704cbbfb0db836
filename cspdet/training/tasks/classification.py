"""The classification task: training data, loss and top-1 evaluation of a classifier.

Image to loss: `image_loader` -> `to_float_tensor` -> the network -> `class_loss`.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cspdet.config.input import InputConfig
from cspdet.datasets.classification.crops import build_image_crop
from cspdet.datasets.classification.dataset import check_images
from cspdet.datasets.classification.image_folder import ImageFolderDataset, has_split, load_image_folder
from cspdet.datasets.classification.loader import MIN_BATCH, image_loader
from cspdet.datasets.collate import ImageBatch
from cspdet.datasets.loader import EpochLoader
from cspdet.errors import ConfigError, DataError, truncate_list
from cspdet.evaluation.classification import compute_sharded_metrics, predict_dataset
from cspdet.evaluation.predictors import NetworkClassifier, evaluation_mode
from cspdet.models import Classifier
from cspdet.models.config import ClassifierEvalConfig
from cspdet.structures import SINGLE_PROCESS, Categories, Shard
from cspdet.training.config import ClassifierTrainConfig
from cspdet.training.distributed.context import DistributedContext
from cspdet.training.losses.base import AllReduce
from cspdet.training.losses.classification import ClassLosses, class_loss
from cspdet.training.tasks.base import EvalResult, Task, TrainingData
from cspdet.training.visualization import draw_classification_batch, draw_predictions

log = logging.getLogger("cspdet")


class ClassificationTask(Task[Classifier, ImageBatch, ImageFolderDataset]):
    """Task that trains a classifier on the classes of the train split; the primary metric is top-1 accuracy on val."""

    command = "train-classifier"
    loss_names = ("class",)
    log_metrics = ("top1", "top5")
    val_image_name = "val_predictions.jpg"
    image_list_label = "images"

    def __init__(
        self,
        input_: InputConfig,
        train: ClassifierTrainConfig,
        eval_: ClassifierEvalConfig,
        data: TrainingData[ImageFolderDataset],
        device: torch.device,
        shard: Shard = SINGLE_PROCESS,
    ):
        """Build the training batches.

        Args:
            input_: Input size.
            train: Augmentation, batches and loss.
            eval_: Cropping of the val images.
            data: The splits.
            device: Device of the network.
            shard: The part of each batch that this process trains on.

        Raises:
            ConfigError: The crop is larger than the resized images, a batch has one image, or the cache does not fit.
            DataError: Images are unreadable, and the cache is `ram` or `disk` with `on_bad_image: error`.
        """
        if min(len(data.train), train.max_batch_size) < MIN_BATCH:
            raise ConfigError(
                f"train.batch_size: batch normalization needs {MIN_BATCH} images or more in a batch, found "
                f"{train.max_batch_size}, of {len(data.train)} in {data.train.root}"
            )
        # Built here, so that invalid settings are reported before training and not at the first evaluation.
        self.eval_crop = build_image_crop(input_, eval_, "bilinear")
        self.input, self.train_config, self.eval_config = input_, train, eval_
        self.data, self.device = data, device
        self.loader: EpochLoader[ImageBatch] = image_loader(
            data.train, input_, train.augment, train, device_type=device.type, shard=shard
        )

    @staticmethod
    def load_data(data: Path | None, on_bad_image: str) -> TrainingData[ImageFolderDataset]:
        """Read a folder with train/CLASS/* and, optionally, val/CLASS/*, and check the images."""
        if data is None:
            raise ConfigError("train-classifier: expected --data DIR, a folder with train/CLASS/* and val/CLASS/*")
        train_set = load_image_folder(data, "train")
        val_set = load_image_folder(data, "val", train_set.classes) if has_split(data, "val") else None
        if val_set is None:
            log.warning("%s: no val split; trains without evaluation, and best.pt will be the last weights", data)
        for images in (train_set, val_set):
            if images is not None:
                _check_split(images, is_train=images is train_set, on_bad_image=on_bad_image)
        count = len(train_set.classes)
        num_val = "none" if val_set is None else str(len(val_set))
        summary = f"{train_set.root}: {len(train_set)} images, {num_val} for validation, {count} classes"
        categories = Categories(train_set.classes, tuple(range(count)))
        return TrainingData(train_set, val_set, categories, data, summary)

    def losses(
        self, model: Classifier, output: Tensor, batch: ImageBatch, size_hw: tuple[int, int], all_reduce_sum: AllReduce
    ) -> ClassLosses:
        """Compute the cross-entropy of the logits of this process's part of a batch."""
        class_id, label_weight = (
            part.to(self.device, non_blocking=True) for part in (batch.class_id, batch.label_weight)
        )
        mean = class_loss(output, class_id, label_weight, self.train_config.label_smoothing)
        local_count = mean.new_full((), len(output))
        return ClassLosses(mean * (local_count / all_reduce_sum(local_count)))

    def evaluate(self, model: Classifier, name: str, context: DistributedContext) -> EvalResult | None:
        """Compute top-1, top-5 (with more than five classes) and per-class metrics; return None on ranks above 0."""
        val_set = self.data.val
        assert val_set is not None
        with evaluation_mode(model):
            predictions = predict_dataset(
                NetworkClassifier(model, self.device), val_set, self.eval_crop, self.eval_config, context.shard
            )
        parts = context.gather(predictions)
        if not context.is_main_process:
            return None
        metrics = compute_sharded_metrics(val_set, parts)
        scalar_metrics = {"top1": metrics.top1, "top5": metrics.top5}
        per_class = {class_name: class_metrics._asdict() for class_name, class_metrics in metrics.per_class.items()}
        full_metrics = {**scalar_metrics, "per_class": per_class, "images": metrics.images}
        return EvalResult(metrics.top1, scalar_metrics, full_metrics, None, draw_predictions(val_set, metrics))

    def draw_batch(self, batch: ImageBatch) -> np.ndarray:
        """Draw the input images with their classes and label weights, as one (H, W, 3) uint8 RGB grid."""
        return draw_classification_batch(batch, self.data.categories.names)

    def describe_images(self, batch: ImageBatch) -> list[str]:
        """Return the path, relative to the data folder, of each image of a batch."""
        return [self.data.train.name(index) for index in batch.image_id.tolist()]


def _check_split(images: ImageFolderDataset, *, is_train: bool, on_bad_image: str) -> None:
    """Log the warnings of a split; raise DataError for unreadable images, except train images that may be skipped."""
    for note in images.warnings:
        log.info("%s", note)
    problems = check_images(images)
    if problems and not (is_train and on_bad_image == "skip"):
        hint = ("train.on_bad_image=skip trains without them",) if is_train else ()
        raise DataError(*truncate_list(problems), *hint)
    for problem in truncate_list(problems):
        log.warning("replaced by another image: %s", problem)
