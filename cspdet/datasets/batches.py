"""Data sets whose items are whole batches: what loader processes run.

A training sample is a function of (seed, epoch, number of the picture), never of the process that makes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from cspdet.datasets.augment import Augment
from cspdet.datasets.coco import CocoSet
from cspdet.datasets.source import PictureSource, Resize, read_upright
from cspdet.errors import UserError
from cspdet.letterbox import Letterbox
from cspdet.types import Batch, Sample, Targets

Key = tuple[int, int]  # epoch, number of the picture in the set


class Reply(NamedTuple):
    """What a loader process sends: a batch, or what ends the run; and newly unreadable pictures."""

    batch: Batch | None
    problems: tuple[str, ...]
    skipped: dict[int, str]


class BatchData(Dataset[Sample]):
    """Makes whole batches, so that a mistake in the user's data can travel as a value.

    Raised in a loader process, it would arrive with that process's traceback inside its message.
    """

    def load(self, key: Key) -> tuple[Sample, tuple[int, int]]:
        """The sample, and the original picture's height and width."""
        raise NotImplementedError

    def news(self) -> dict[int, str]:
        """Pictures found unreadable since the last call."""
        return {}

    def __getitem__(self, key: Key) -> Sample:
        return self.load(key)[0]

    def __getitems__(self, keys: Sequence[Key]) -> Reply:
        try:
            samples, sizes_hw = zip(*map(self.load, keys), strict=True)
        except UserError as error:
            return Reply(None, error.problems, self.news())
        return Reply(collate(samples, sizes_hw), (), self.news())


class TrainData(BatchData):
    """Augmented samples; mosaics only before epoch `mosaic_epochs`."""

    def __init__(self, source: PictureSource, augment: Augment, seed: int, mosaic_epochs: int):
        self.source, self.augment, self.seed, self.mosaic_epochs = source, augment, seed, mosaic_epochs
        self._told = set(source.skipped)

    def load(self, key: Key) -> tuple[Sample, tuple[int, int]]:
        epoch, index = key
        rng = random_stream(self.seed, epoch, index)
        sample = self.augment(self.source, index, rng, mosaic=epoch < self.mosaic_epochs)
        height, width = self.source.coco.size_hw[self.source.stand_in(index)].tolist()
        return sample, (height, width)

    def news(self) -> dict[int, str]:
        found = {index: why for index, why in self.source.skipped.items() if index not in self._told}
        self._told |= set(found)
        return found


class EvalData(BatchData):
    """Letterboxed pictures."""

    def __init__(self, coco: CocoSet, size_hw: tuple[int, int], resize: Resize):
        self.coco, self.size_hw, self.resize = coco, size_hw, resize

    def load(self, key: Key) -> tuple[Sample, tuple[int, int]]:
        index = key[1]
        image = read_upright(self.coco, index)
        image_hw = (image.shape[0], image.shape[1])
        box = Letterbox.fit(image_hw, self.size_hw, self.resize)
        box_xyxy, class_id, is_crowd = self.coco.boxes(index)
        drawn, image_id = box.draw(image, self.size_hw), int(self.coco.image_id[index])
        return Sample(drawn, box.apply(box_xyxy), class_id, is_crowd, image_id), image_hw


def collate(samples: Sequence[Sample], sizes_hw: Sequence[tuple[int, int]]) -> Batch:
    """Samples of one size and the sizes (height, width) of their original pictures to a batch."""
    height, width = samples[0].image.shape[:2]
    images = torch.empty((len(samples), 3, height, width), dtype=torch.uint8)
    if torch.utils.data.get_worker_info() is not None:
        images.share_memory_()  # filled where the training process will read it, not copied there afterwards
    for sample, planes in zip(samples, images.numpy(), strict=True):
        cv2.split(sample.image, list(planes))
    count = torch.tensor([len(sample.class_id) for sample in samples])
    targets = Targets(
        image=torch.repeat_interleave(torch.arange(len(samples)), count),
        class_id=torch.from_numpy(np.concatenate([sample.class_id for sample in samples])),
        box_xyxy=torch.from_numpy(np.concatenate([sample.box_xyxy for sample in samples])),
        is_crowd=torch.from_numpy(np.concatenate([sample.is_crowd for sample in samples])),
    )
    image_id = torch.tensor([sample.image_id for sample in samples])
    return Batch(images, targets, image_id, torch.tensor(sizes_hw).view(-1, 2))


def random_stream(*entropy: int, spawn_key: tuple[int, ...] = ()) -> np.random.Generator:
    """A generator that depends on nothing but the numbers given."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy, spawn_key=spawn_key)))
