"""Training a classifier: pictures with a class each in, top-1 out.

Picture to loss: `image_loader` -> `to_input` -> the network -> `class_loss`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cspdet.datasets.classification.image_folder import ImageSet
from cspdet.datasets.classification.loader import LEAST, ImageBatch, ImageLoader, image_loader
from cspdet.datasets.image_io import read_picture
from cspdet.errors import ConfigError
from cspdet.evaluation.classification import ClassifierMetrics, image_crop, judge_all, look_at
from cspdet.inference.draw import class_color
from cspdet.letterbox import Letterbox
from cspdet.models import Classifier
from cspdet.recipe import ClassifierRecipe
from cspdet.structures import WHOLE, Classes, Shard
from cspdet.training.distributed.context import World
from cspdet.training.image_grid import MOST_TILES, captioned, tile
from cspdet.training.tasks.base import Across, Judgment

RIGHT, WRONG = (90, 220, 110), (250, 110, 90)  # colors of words


class ClassLosses(NamedTuple):
    """A scalar in fp32."""

    classes: Tensor

    @property
    def total(self) -> Tensor:
        return self.classes


def class_loss(logits: Tensor, class_id: Tensor, share: Tensor, label_smoothing: float) -> Tensor:
    """Mean cross entropy against goals that may be shared between classes; computed in fp32.

    logits    (B, C)
    class_id  (B, M) int64, and share (B, M), whose rows sum to 1
    The goal of a class is (1 - label_smoothing) times its share, plus label_smoothing / C.
    """
    log_p = logits.float().log_softmax(dim=1)
    of_goal = (log_p.gather(1, class_id) * share).sum(dim=1)
    return -((1 - label_smoothing) * of_goal + label_smoothing * log_p.mean(dim=1)).mean()


class ClassificationTask:
    """The classes of `train_set`, judged by top-1 on `val_set`, which has the same ones.

    Raises:
        ConfigError: a crop that is larger than the resized pictures, batches of one, or a cache that does not fit.
        DataError: with `cache: ram`, the unreadable pictures.
    """

    verb = "train-classifier"
    loss_names: tuple[str, ...] = ("class",)
    told: tuple[str, ...] = ("top1", "top5")
    val_picture = "val_predictions.jpg"
    image_names = "pictures"

    def __init__(
        self,
        recipe: ClassifierRecipe,
        classes: Classes,
        train_set: ImageSet,
        val_set: ImageSet | None,
        device: torch.device,
        shard: Shard = WHOLE,
    ):
        if min(len(train_set), recipe.train.step_pictures) < LEAST:
            raise ConfigError(
                f"train.batch_size: batch normalization needs {LEAST} pictures or more in a batch, found "
                f"{recipe.train.step_pictures}, of {len(train_set)} in {train_set.root}"
            )
        image_crop(recipe.input, recipe.eval, "bilinear")  # a mistake in it should not wait for the first evaluation
        self.recipe, self.classes, self.train_set, self.val_set = recipe, classes, train_set, val_set
        self.device = device
        self.loader: ImageLoader = image_loader(train_set, recipe, device_type=device.type, shard=shard)

    @property
    def can_judge(self) -> bool:
        """Whether there is a val split."""
        return self.val_set is not None

    def losses(
        self, model: Classifier, output: Tensor, batch: ImageBatch, size_hw: tuple[int, int], across: Across
    ) -> ClassLosses:
        """Of the logits."""
        class_id, share = (part.to(self.device, non_blocking=True) for part in (batch.class_id, batch.share))
        mean = class_loss(output, class_id, share, self.recipe.train.label_smoothing)
        own = mean.new_full((), len(output))
        return ClassLosses(mean * (own / across(own)))

    def judge(self, model: Classifier, name: str, world: World) -> Judgment | None:
        """Top-1, top-5 where there are more than five classes, and those of each class."""
        assert self.val_set is not None
        recipe = self.recipe
        parts = world.gather(look_at(model, self.val_set, recipe.input, recipe.eval, self.device, shard=world.shard))
        if not world.is_first:
            return None
        metrics = judge_all(self.val_set, parts)
        numbers = {"top1": metrics.top1, "top5": metrics.top5}
        per_class = {class_name: found._asdict() for class_name, found in metrics.per_class.items()}
        document = {**numbers, "per_class": per_class, "images": metrics.images}
        return Judgment(metrics.top1, numbers, document, None, draw_predictions(self.val_set, metrics))

    def draw_batch(self, batch: ImageBatch) -> np.ndarray:
        """What the network sees, over its classes with their shares."""
        return draw_images(batch, self.classes.names)

    def names_of(self, batch: ImageBatch) -> list[str]:
        """The pictures' paths in the data folder."""
        return [self.train_set.name(index) for index in batch.image_id.tolist()]


def draw_images(batch: ImageBatch, names: tuple[str, ...]) -> np.ndarray:
    """Up to 16 pictures of a batch over the names of their classes, with shares where there are several."""
    goals = [
        [(c, s) for c, s in zip(class_id, share, strict=True) if s > 0]
        for class_id, share in zip(batch.class_id[:MOST_TILES].tolist(), batch.share[:MOST_TILES].tolist(), strict=True)
    ]
    lines = max(len(goal) for goal in goals)
    pictures = []
    for image, goal in zip(batch.images[:MOST_TILES].permute(0, 2, 3, 1).contiguous().numpy(), goals, strict=True):
        words = [(f"{names[c]} {s:.2f}" if s < 1 else names[c], class_color(c)) for c, s in goal]
        pictures.append(captioned(image, words, lines))
    return tile(pictures)


def draw_predictions(images: ImageSet, metrics: ClassifierMetrics) -> np.ndarray:
    """Up to 16 pictures spread evenly over a set, over what each was taken for, and what it is where that is wrong."""
    size_hw = (192, 192)
    pictures = []
    for index in np.unique(np.linspace(0, len(images) - 1, MOST_TILES).astype(int)).tolist():
        image = read_picture(images.path(index))
        found, truth = int(metrics.ranked[index, 0]), int(images.label[index])
        words = [(f"{images.classes[found]} {metrics.scores[index, 0]:.2f}", RIGHT if found == truth else WRONG)]
        if found != truth:
            words.append((f"is {images.classes[truth]}", RIGHT))
        pictures.append(captioned(Letterbox.fit(image.shape[:2], size_hw).draw(image, size_hw), words, 2))
    return tile(pictures)
