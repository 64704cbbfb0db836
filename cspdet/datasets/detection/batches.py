"""Data sets whose items are whole batches: what loader processes run.

A training sample is a function of (seed, key), never of the process that makes it, nor of how many there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cspdet.datasets.cached_dataset import DetectionDataset, Resize, read_annotated_image
from cspdet.datasets.detection.augment import Augment
from cspdet.datasets.formats.coco import CocoDataset
from cspdet.errors import UserError
from cspdet.letterbox import Letterbox
from cspdet.structures import Batch, Sample, Targets

# Epoch, number of the picture in the set; where one epoch shows it again, also how often it was shown before.
SampleKey = tuple[int, int] | tuple[int, int, int]


class WorkerResult(NamedTuple):
    """What a loader process sends: a batch, or what ends the run; and newly unreadable pictures."""

    batch: tuple[object, ...] | None  # the named tuple that the data set's `make` gives
    problems: tuple[str, ...]
    skipped: dict[int, str]


class BatchDataset(Dataset[Any]):
    """Makes whole batches, so that a mistake in the user's data can travel as a value.

    Raised in a loader process, it would arrive with that process's traceback inside its message.
    """

    def build_batch(self, keys: Sequence[SampleKey]) -> tuple[object, ...]:
        """The batch of these pictures, a named tuple."""
        raise NotImplementedError

    def pop_new_errors(self) -> dict[int, str]:
        """Pictures found unreadable since the last call."""
        return {}

    def __getitems__(self, keys: Sequence[SampleKey]) -> WorkerResult:
        try:
            batch = self.build_batch(keys)
        except UserError as error:
            return WorkerResult(None, error.problems, self.pop_new_errors())
        return WorkerResult(batch, (), self.pop_new_errors())


class DetectionBatchDataset(BatchDataset):
    """Batches of pictures with boxes."""

    def load(self, key: SampleKey) -> tuple[Sample, tuple[int, int]]:
        """The sample, and the original picture's height and width."""
        raise NotImplementedError

    def build_batch(self, keys: Sequence[SampleKey]) -> Batch:
        """The batch of these pictures."""
        samples, sizes_hw = zip(*map(self.load, keys), strict=True)
        return collate(samples, sizes_hw)


class TrainBatches(DetectionBatchDataset):
    """Augmented samples; mosaics, mixup and cutmix only before epoch `mosaic_epochs`."""

    def __init__(self, dataset: DetectionDataset, augment: Augment, seed: int, mosaic_epochs: int):
        self.dataset, self.augment, self.seed, self.mosaic_epochs = dataset, augment, seed, mosaic_epochs

    def load(self, key: SampleKey) -> tuple[Sample, tuple[int, int]]:
        epoch, index = key[:2]
        rng = seeded_rng(self.seed, *key)
        sample = self.augment(self.dataset, index, rng, mosaic=epoch < self.mosaic_epochs)
        height, width = self.dataset.coco.size_hw[self.dataset.replacement_index(index)].tolist()
        return sample, (height, width)

    def pop_new_errors(self) -> dict[int, str]:
        return self.dataset.pop_new_errors()


class EvalBatches(DetectionBatchDataset):
    """Letterboxed pictures."""

    def __init__(self, coco: CocoDataset, size_hw: tuple[int, int], resize: Resize):
        self.coco, self.size_hw, self.resize = coco, size_hw, resize

    def load(self, key: SampleKey) -> tuple[Sample, tuple[int, int]]:
        index = key[1]
        image = read_annotated_image(self.coco, index)
        image_hw = (image.shape[0], image.shape[1])
        box = Letterbox.fit(image_hw, self.size_hw, self.resize)
        box_xyxy, class_id, is_crowd = self.coco.boxes(index)
        drawn, image_id = box.resize_and_pad(image, self.size_hw), int(self.coco.image_id[index])
        return Sample(drawn, box.to_input(box_xyxy), class_id, is_crowd, image_id), image_hw


def collate(samples: Sequence[Sample], sizes_hw: Sequence[tuple[int, int]]) -> Batch:
    """Samples of one size and the sizes (height, width) of their original pictures to a batch."""
    images = stack_images_chw([sample.image for sample in samples])
    count = torch.tensor([len(sample.class_id) for sample in samples])
    targets = Targets(
        image_index=torch.repeat_interleave(torch.arange(len(samples)), count),
        class_id=torch.from_numpy(np.concatenate([sample.class_id for sample in samples])),
        box_xyxy=torch.from_numpy(np.concatenate([sample.box_xyxy for sample in samples])),
        is_crowd=torch.from_numpy(np.concatenate([sample.is_crowd for sample in samples])),
    )
    image_id = torch.tensor([sample.image_id for sample in samples])
    return Batch(images, targets, image_id, torch.tensor(sizes_hw).view(-1, 2))


def stack_images_chw(arrays: Sequence[np.ndarray]) -> Tensor:
    """(H, W, 3) uint8 pictures of one size as (B, 3, H, W) uint8."""
    height, width = arrays[0].shape[:2]
    images = torch.empty((len(arrays), 3, height, width), dtype=torch.uint8)
    if torch.utils.data.get_worker_info() is not None:
        images.share_memory_()  # filled where the training process will read it, not copied there afterwards
    for array, planes in zip(arrays, images.numpy(), strict=True):
        cv2.split(array, list(planes))
    return images


def seeded_rng(*entropy: int, spawn_key: tuple[int, ...] = ()) -> np.random.Generator:
    """A generator that depends on nothing but the numbers given."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy, spawn_key=spawn_key)))
