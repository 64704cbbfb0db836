"""Training a classifier: pictures with a class each in, top-1 out.

Picture to loss: `image_loader` -> `to_input` -> the network -> `class_loss`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cspdet.datasets.classification.crops import build_image_crop
from cspdet.datasets.classification.image_folder import ImageFolderDataset
from cspdet.datasets.classification.loader import MIN_BATCH, image_loader
from cspdet.datasets.collate import ImageBatch
from cspdet.datasets.image_io import read_image
from cspdet.datasets.loader import EpochLoader
from cspdet.errors import ConfigError
from cspdet.evaluation.classification import (
    ClassifierMetrics,
    compute_sharded_metrics,
    predict_dataset,
)
from cspdet.evaluation.predictors import NetworkClassifier, evaluation_mode
from cspdet.inference.draw import class_color
from cspdet.letterbox import Letterbox
from cspdet.models import Classifier
from cspdet.recipe import ClassificationRecipe
from cspdet.structures import SINGLE_PROCESS, Categories, Shard
from cspdet.training.distributed.context import DistributedContext
from cspdet.training.image_grid import MAX_GRID_IMAGES, add_caption, make_grid
from cspdet.training.tasks.base import AllReduce, EvalResult

CORRECT_COLOR, WRONG_COLOR = (90, 220, 110), (250, 110, 90)  # colors of words


class ClassLosses(NamedTuple):
    """A scalar in fp32."""

    classes: Tensor

    @property
    def total(self) -> Tensor:
        return self.classes


def class_loss(logits: Tensor, class_id: Tensor, label_weight: Tensor, label_smoothing: float) -> Tensor:
    """Mean cross entropy against goals that may be shared between classes; computed in fp32.

    logits    (B, C)
    class_id  (B, M) int64, and share (B, M), whose rows sum to 1
    The goal of a class is (1 - label_smoothing) times its share, plus label_smoothing / C.
    """
    log_p = logits.float().log_softmax(dim=1)
    target_log_p = (log_p.gather(1, class_id) * label_weight).sum(dim=1)
    return -((1 - label_smoothing) * target_log_p + label_smoothing * log_p.mean(dim=1)).mean()


class ClassificationTask:
    """The classes of `train_set`, judged by top-1 on `val_set`, which has the same ones.

    Raises:
        ConfigError: a crop that is larger than the resized pictures, batches of one, or a cache that does not fit.
        DataError: with `cache: ram`, the unreadable pictures.
    """

    command = "train-classifier"
    loss_names: tuple[str, ...] = ("class",)
    log_metrics: tuple[str, ...] = ("top1", "top5")
    val_image_name = "val_predictions.jpg"
    image_list_label = "pictures"

    def __init__(
        self,
        recipe: ClassificationRecipe,
        classes: Categories,
        train_set: ImageFolderDataset,
        val_set: ImageFolderDataset | None,
        device: torch.device,
        shard: Shard = SINGLE_PROCESS,
    ):
        if min(len(train_set), recipe.train.max_batch_size) < MIN_BATCH:
            raise ConfigError(
                f"train.batch_size: batch normalization needs {MIN_BATCH} pictures or more in a batch, found "
                f"{recipe.train.max_batch_size}, of {len(train_set)} in {train_set.root}"
            )
        # Made here, so that an error in it does not appear only at the first evaluation.
        self.eval_crop = build_image_crop(recipe.input, recipe.eval, "bilinear")
        self.recipe, self.classes, self.train_set, self.val_set = recipe, classes, train_set, val_set
        self.device = device
        self.loader: EpochLoader[ImageBatch] = image_loader(
            train_set, recipe.input, recipe.train.augment, recipe.train, device_type=device.type, shard=shard
        )

    @property
    def has_val_set(self) -> bool:
        """Whether there is a val split."""
        return self.val_set is not None

    def losses(
        self, model: Classifier, output: Tensor, batch: ImageBatch, size_hw: tuple[int, int], all_reduce_sum: AllReduce
    ) -> ClassLosses:
        """Of the logits."""
        class_id, label_weight = (
            part.to(self.device, non_blocking=True) for part in (batch.class_id, batch.label_weight)
        )
        mean = class_loss(output, class_id, label_weight, self.recipe.train.label_smoothing)
        local_count = mean.new_full((), len(output))
        return ClassLosses(mean * (local_count / all_reduce_sum(local_count)))

    def evaluate(self, model: Classifier, name: str, context: DistributedContext) -> EvalResult | None:
        """Top-1, top-5 where there are more than five classes, and those of each class."""
        assert self.val_set is not None
        with evaluation_mode(model):
            predictions = predict_dataset(
                NetworkClassifier(model, self.device), self.val_set, self.eval_crop, self.recipe.eval, context.shard
            )
        parts = context.gather(predictions)
        if not context.is_main_process:
            return None
        metrics = compute_sharded_metrics(self.val_set, parts)
        scalar_metrics = {"top1": metrics.top1, "top5": metrics.top5}
        per_class = {class_name: class_metrics._asdict() for class_name, class_metrics in metrics.per_class.items()}
        full_metrics = {**scalar_metrics, "per_class": per_class, "images": metrics.images}
        return EvalResult(metrics.top1, scalar_metrics, full_metrics, None, draw_predictions(self.val_set, metrics))

    def draw_batch(self, batch: ImageBatch) -> np.ndarray:
        """What the network sees, over its classes with their shares."""
        return draw_images(batch, self.classes.names)

    def describe_images(self, batch: ImageBatch) -> list[str]:
        """The pictures' paths in the data folder."""
        return [self.train_set.name(index) for index in batch.image_id.tolist()]


def draw_images(batch: ImageBatch, names: tuple[str, ...]) -> np.ndarray:
    """Up to 16 pictures of a batch over the names of their classes, with shares where there are several."""
    targets = [
        [(c, s) for c, s in zip(class_id, label_weight, strict=True) if s > 0]
        for class_id, label_weight in zip(
            batch.class_id[:MAX_GRID_IMAGES].tolist(), batch.label_weight[:MAX_GRID_IMAGES].tolist(), strict=True
        )
    ]
    lines = max(len(target) for target in targets)
    grid_images = []
    for image, target in zip(
        batch.images[:MAX_GRID_IMAGES].permute(0, 2, 3, 1).contiguous().numpy(), targets, strict=True
    ):
        words = [(f"{names[c]} {s:.2f}" if s < 1 else names[c], class_color(c)) for c, s in target]
        grid_images.append(add_caption(image, words, lines))
    return make_grid(grid_images)


def draw_predictions(images: ImageFolderDataset, metrics: ClassifierMetrics) -> np.ndarray:
    """Up to 16 pictures spread evenly over a set, over what each was taken for, and what it is where that is wrong."""
    size_hw = (192, 192)
    grid_images = []
    for index in np.unique(np.linspace(0, len(images) - 1, MAX_GRID_IMAGES).astype(int)).tolist():
        image = read_image(images.path(index))
        predicted, gt = int(metrics.ranked[index, 0]), int(images.label[index])
        words = [
            (
                f"{images.classes[predicted]} {metrics.scores[index, 0]:.2f}",
                CORRECT_COLOR if predicted == gt else WRONG_COLOR,
            )
        ]
        if predicted != gt:
            words.append((f"is {images.classes[gt]}", CORRECT_COLOR))
        grid_images.append(
            add_caption(Letterbox.fit(image.shape[:2], size_hw).resize_and_pad(image, size_hw), words, 2)
        )
    return make_grid(grid_images)
