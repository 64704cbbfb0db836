"""Batches for training and evaluating classifiers.

    training     dataset -> augment -> mix_batch -> collate_images
    evaluation   image files in order -> crops

A training batch is determined by the seed, the epoch and its image indices, and is independent of the number of loader
processes. Each training process mixes only images of its own part of a batch, so mixed images depend on the number of
training processes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cspdet.datasets.classification.augment import ImageAugment, ImageSample, mix_batch
from cspdet.datasets.classification.crops import ImageCrop
from cspdet.datasets.classification.dataset import ClassificationDataset, ClassificationImages
from cspdet.datasets.classification.image_folder import ImageFolderDataset
from cspdet.datasets.collate import ImageBatch, collate_images
from cspdet.datasets.config import EvalBatching, ImageAugmentConfig, LoaderConfig
from cspdet.datasets.image_io import read_image
from cspdet.datasets.loader import EpochLoader, EvalLoader, build_loader
from cspdet.datasets.sampler import EpochBatchSampler, SampleKey, repeat_factors, seeded_rng
from cspdet.datasets.workers import IndexedSamples
from cspdet.errors import DataError
from cspdet.structures import SINGLE_PROCESS, Shard

if TYPE_CHECKING:
    from cspdet.config.input import InputConfig

MIN_BATCH = 2  # minimum images per batch: batch normalization of a 1x1 feature map needs more than one image
MIXING_SPAWN_KEY = (1,)  # makes the random streams of mixing independent of the streams of the augmentation


@dataclass(frozen=True)
class BuildImageBatch:
    """Builds a batch of augmented samples from keys (epoch, image index) or (epoch, image index, repeat index).

    Samples are mixed (mixup, CutMix, mosaic) only in the first `mixed_epochs` epochs.
    """

    dataset: IndexedSamples[ImageSample]
    augment: ImageAugment
    seed: int
    mixed_epochs: int

    def __call__(self, keys: Sequence[SampleKey]) -> ImageBatch:
        samples = [self._sample(key) for key in keys]
        if keys[0][0] < self.mixed_epochs:
            rngs = [seeded_rng(self.seed, *key, spawn_key=MIXING_SPAWN_KEY) for key in keys]
            samples = mix_batch(samples, self.augment.config, rngs)
        return collate_images(samples)

    def _sample(self, key: SampleKey) -> ImageSample:
        sample = self.dataset[key[1]]
        image = self.augment(sample.image, seeded_rng(self.seed, *key))
        return ImageSample(image, sample.class_id, sample.label_weight, sample.index)


def image_loader(
    images: ImageFolderDataset,
    input_: InputConfig,
    augment: ImageAugmentConfig,
    config: LoaderConfig,
    *,
    device_type: str = "cpu",
    shard: Shard = SINGLE_PROCESS,
) -> EpochLoader[ImageBatch]:
    """Build the training loader of one process, with augmentation and mixing.

    Args:
        images: The train split.
        input_: Input size.
        augment: The augmentation.
        config: Batches, order, cache and loader processes.
        device_type: Device of the batches: "cpu" or "cuda".
        shard: Rank and world size of this process, which loads its part of each batch.

    Raises:
        ConfigError: The cache does not fit into memory or onto the disk, or batches are too small for the number of
            processes.
        DataError: Images are unreadable, and the cache is `ram` or `disk` with `on_bad_image: error`.
    """
    factors = None
    if config.repeat_threshold is not None:
        factors = repeat_factors(np.arange(len(images)), images.label, len(images), config.repeat_threshold)
    sampler = EpochBatchSampler(len(images), config.max_batch_size, config.seed, MIN_BATCH, shard, factors)
    augmentation = ImageAugment(augment, input_.size)
    return build_loader(
        ClassificationImages(images, input_.size),
        lambda stored: ClassificationDataset(images.label, stored),
        lambda dataset: BuildImageBatch(dataset, augmentation, config.seed, config.epochs - augment.close_mixing),
        sampler,
        config,
        3 * math.prod(input_.size),
        device_type,
    )


class IndexedCropBatch(NamedTuple):
    """The readable images of a batch, and one error message for each unreadable image."""

    images: Tensor  # (B, V, 3, H, W) uint8 RGB, V crops per image
    indices: tuple[int, ...]  # index of each image in its dataset
    problems: tuple[str, ...]


@dataclass(frozen=True)
class BuildCropBatch:
    """Builds a batch of crops from image indices."""

    images: ImageFolderDataset
    crop: ImageCrop

    def __call__(self, indices: Sequence[int]) -> IndexedCropBatch:
        crops: list[Tensor] = []
        read: list[int] = []
        problems: list[str] = []
        for index in indices:
            path = self.images.path(index)
            try:
                crops.append(torch.from_numpy(self.crop(read_image(path), str(path))))
                read.append(index)
            except DataError as error:
                problems += error.problems
        empty = torch.empty((0, self.crop.num_crops, 3, *self.crop.size_hw), dtype=torch.uint8)
        return IndexedCropBatch(torch.stack(crops) if crops else empty, tuple(read), tuple(problems))


def crop_batches(
    images: ImageFolderDataset,
    crop: ImageCrop,
    config: EvalBatching,
    *,
    device_type: str = "cpu",
    shard: Shard = SINGLE_PROCESS,
) -> EvalLoader[IndexedCropBatch]:
    """Build the loader of the evaluation batches: every image once, in order, without augmentation.

    Args:
        images: The split to evaluate on.
        crop: Resize and crop of each image.
        config: Images per batch of this process, and loader processes.
        device_type: Device of the batches: "cpu" or "cuda".
        shard: Rank and world size of this process, which loads the images rank, rank + world_size, ...
    """
    image_bytes = 3 * crop.num_crops * math.prod(crop.size_hw)
    return EvalLoader(BuildCropBatch(images, crop), len(images), config, image_bytes, device_type, shard)
