"""Loaders for training and evaluating detectors: dataset -> augment -> collate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cspdet.datasets.collate import collate
from cspdet.datasets.config import AugmentConfig, EvalBatching, LoaderConfig
from cspdet.datasets.detection.augment import Augment
from cspdet.datasets.detection.dataset import DetectionDataset, DetectionImages, EvalDataset
from cspdet.datasets.formats.coco import CocoDataset
from cspdet.datasets.loader import EpochLoader, EvalLoader, build_loader
from cspdet.datasets.sampler import EpochBatchSampler, SampleKey, repeat_factors, seeded_rng
from cspdet.datasets.workers import IndexedSamples
from cspdet.structures import SINGLE_PROCESS, Batch, Sample, Shard

if TYPE_CHECKING:
    from cspdet.config.input import InputConfig


@dataclass(frozen=True)
class BuildTrainBatch:
    """Builds a batch of augmented samples from keys (epoch, image index) or (epoch, image index, repeat index).

    Mosaic, mixup and cutmix are used only in the first `mosaic_epochs` epochs.
    """

    dataset: IndexedSamples[Sample]
    augment: Augment
    seed: int
    mosaic_epochs: int

    def __call__(self, keys: Sequence[SampleKey]) -> Batch:
        return collate([self._sample(key) for key in keys])

    def _sample(self, key: SampleKey) -> Sample:
        epoch, index = key[:2]
        return self.augment(self.dataset, index, seeded_rng(self.seed, *key), mosaic=epoch < self.mosaic_epochs)


@dataclass(frozen=True)
class BuildEvalBatch:
    """Builds an evaluation batch, without augmentation, from image indices."""

    dataset: EvalDataset

    def __call__(self, indices: Sequence[int]) -> Batch:
        return collate([self.dataset[index] for index in indices])


def train_loader(
    coco: CocoDataset,
    input_: InputConfig,
    augment: AugmentConfig,
    config: LoaderConfig,
    *,
    device_type: str = "cpu",
    shard: Shard = SINGLE_PROCESS,
) -> EpochLoader[Batch]:
    """Build the training loader of one process, with augmentation.

    Args:
        coco: The train split.
        input_: Input size and resize mode.
        augment: The augmentation.
        config: Batches, order, cache and loader processes.
        device_type: Device of the batches: "cpu" or "cuda".
        shard: Rank and world size of this process, which loads its part of each batch.

    Raises:
        ConfigError: Transforms are invalid, the cache does not fit, or batches are too small for the number of
            processes.
        DataError: Images are unreadable, and the cache is `ram` or `disk` with `on_bad_image: error`.
    """
    augmentation = Augment(augment, input_.size, input_.resize)
    factors = None if config.repeat_threshold is None else _image_repeat_factors(coco, config.repeat_threshold)
    sampler = EpochBatchSampler(len(coco), config.max_batch_size, config.seed, shard=shard, factors=factors)
    return build_loader(
        DetectionImages(coco, input_.size, input_.resize),
        lambda images: DetectionDataset(coco, images),
        lambda dataset: BuildTrainBatch(dataset, augmentation, config.seed, config.epochs - augment.close_mosaic),
        sampler,
        config,
        3 * math.prod(input_.size),
        device_type,
    )


def _image_repeat_factors(coco: CocoDataset, threshold: float) -> np.ndarray:
    """Return the (N,) repeat factor of each image, computed without crowds, which are not training targets."""
    image = np.repeat(np.arange(len(coco)), np.diff(coco.box_start))
    is_target = ~coco.box_crowd
    return repeat_factors(image[is_target], coco.box_class[is_target], len(coco), threshold)


def eval_loader(
    coco: CocoDataset,
    input_: InputConfig,
    config: EvalBatching,
    *,
    device_type: str = "cpu",
    shard: Shard = SINGLE_PROCESS,
) -> EvalLoader[Batch]:
    """Build the evaluation loader: images at input size in order, with all boxes, including crowds.

    Args:
        coco: The split to evaluate on.
        input_: Input size and resize mode.
        config: Images per batch of this process, and loader processes.
        device_type: Device of the batches: "cpu" or "cuda".
        shard: Rank and world size of this process, which loads the images rank, rank + world_size, ...
    """
    build_batch = BuildEvalBatch(EvalDataset(coco, input_.size, input_.resize))
    return EvalLoader(build_batch, len(coco), config, 3 * math.prod(input_.size), device_type, shard)
