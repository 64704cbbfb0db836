"""Training batches of an ImageSet: pictures with a class each, varied and mixed.

As for detectors, a batch is a function of (seed, keys of its pictures), never of the loader process that makes it.
Among several training processes each mixes the pictures of its own part of a batch with each other: how a picture is
varied does not depend on their number, which other it is mixed with does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from cspdet.datasets.cached_dataset import Cache, CachedDataset, OnBadImage
from cspdet.datasets.classification.augment import (
    MAX_CLASSES_PER_IMAGE,
    ImageAugment,
    ImageAugmentConfig,
    ImageSample,
    mix_batch,
)
from cspdet.datasets.classification.image_folder import ImageFolderDataset
from cspdet.datasets.detection.batches import BatchDataset, SampleKey, seeded_rng, stack_images_chw
from cspdet.datasets.detection.loader import EpochLoader, resolve_num_workers, uses_spawn
from cspdet.datasets.image_io import image_size, read_image
from cspdet.datasets.sampler import EpochBatchSampler, local_world_size, repeat_factors
from cspdet.errors import DataError
from cspdet.io.progress import progress
from cspdet.letterbox import resize_image
from cspdet.structures import SINGLE_PROCESS, Shard

if TYPE_CHECKING:
    from cspdet.recipe import ClassificationRecipe

MIN_BATCH = 2  # pictures in a batch: one alone has no spread where a network ends in a single cell
CACHE_SCALE = 2  # times the input's longer side: pictures whose short side is longer are shrunk before they are cropped
ResultT = TypeVar("ResultT")
CHUNK = 256  # files that one thread looks at in one go
SIZE_SAMPLE = 256  # pictures whose sizes stand for all when the size of a cache is estimated


class ImageBatch(NamedTuple):
    """What a classifier is trained on. A picture has up to M = MOST_PARTS classes; unused places have share 0."""

    images: Tensor  # (B, 3, H, W) uint8 RGB
    class_id: Tensor  # (B, M) int64
    label_weight: Tensor  # (B, M) float32, of the goal; rows sum to 1
    image_id: Tensor  # (B,) int64, number of the picture in its set


def image_loader(
    images: ImageFolderDataset, recipe: ClassificationRecipe, *, device_type: str = "cpu", shard: Shard = SINGLE_PROCESS
) -> ImageLoader:
    """One process's part of the training batches that a recipe describes.

    Raises:
        ConfigError: a cache that does not fit, or batches that the processes cannot share.
        DataError: with `cache: ram` or `disk`, the unreadable pictures.
    """
    train = recipe.train
    return ImageLoader(
        images, size_hw=recipe.input.size, augment=train.augment, epochs=train.epochs, batch_size=train.max_batch_size,
        seed=train.seed, workers=resolve_num_workers(train.workers, device_type, local_world_size(shard)), cache=train.cache,
        on_bad_image=train.on_bad_image, device_type=device_type, shard=shard, repeat_threshold=train.repeat_threshold,
        cache_folder=train.cache_folder,
    )  # fmt: skip


class ImageLoader(EpochLoader[ImageBatch]):
    """Varied and mixed batches of an ImageSet; the keywords mean what they mean in a TrainLoader."""

    def __init__(
        self,
        images: ImageFolderDataset,
        *,
        size_hw: tuple[int, int],
        augment: ImageAugmentConfig,
        epochs: int,
        batch_size: int,
        seed: int = 0,
        workers: int = 0,
        cache: Cache = "none",
        on_bad_image: OnBadImage = "error",
        device_type: str = "cpu",
        shard: Shard = SINGLE_PROCESS,
        repeat_threshold: float | None = None,
        cache_folder: Path | None = None,
    ):
        factors = None
        if repeat_threshold is not None:
            factors = repeat_factors(np.arange(len(images)), images.label, len(images), repeat_threshold)
        order = EpochBatchSampler(len(images), batch_size, seed, MIN_BATCH, shard, factors)
        dataset = ClassificationDataset(
            images, size_hw, cache, on_bad_image, uses_spawn(workers),
            cache_folder=cache_folder, num_processes=local_world_size(shard),
        )  # fmt: skip
        data = ImageBatchDataset(dataset, augment, size_hw, seed, epochs - augment.close_mixing)
        super().__init__(data, images.path, order, workers=workers, device_type=device_type)


class ClassificationDataset(CachedDataset[ImageSample]):
    """Picture `index` of a set and its class. Only pictures much larger than the input are shrunk: a crop of one
    should still be sharp.
    """

    def __init__(
        self,
        images: ImageFolderDataset,
        size_hw: tuple[int, int],
        cache: Cache = "none",
        on_bad_image: OnBadImage = "error",
        shared: bool = False,
        *,
        cache_folder: Path | None = None,
        num_processes: int = 1,
    ):
        super().__init__(len(images), on_bad_image)
        self.images, self.max_short_side = images, CACHE_SCALE * max(size_hw)
        self.build_cache(cache, shared, cache_folder, num_processes)

    def build_sample(self, index: int, image: np.ndarray) -> ImageSample:
        """The picture with its class."""
        return ImageSample(image, (int(self.images.label[index]),), (1.0,), index)

    def load(self, index: int) -> np.ndarray:
        """Decoded, upright, and shrunk to its stored size."""
        image = read_image(self.images.path(index))
        return resize_image(image, self._stored_hw((image.shape[0], image.shape[1])))

    def path(self, index: int) -> Path:
        """The picture's file."""
        return self.images.path(index)

    def cache_key(self) -> bytes:
        """The longest that a short side may be."""
        return f"short side {self.max_short_side}".encode()

    def stored_sizes(self) -> list[tuple[int, int]]:
        """By the headers of the files; 1x1 for one that cannot be read, which is told when it is loaded."""
        return self._sizes(range(len(self)))

    def estimate_cache_bytes(self) -> int:
        """Bytes, by the sizes of some pictures spread evenly over the set."""
        sampled = np.unique(np.linspace(0, len(self) - 1, SIZE_SAMPLE).astype(int)).tolist()
        mean = float(np.mean([3 * height * width for height, width in self._sizes(sampled)]))
        return round(mean * len(self))

    def _sizes(self, indices: Sequence[int]) -> list[tuple[int, int]]:
        def size_of(index: int) -> tuple[int, int]:
            try:
                return self._stored_hw(image_size(self.images.path(index)))
            except DataError:
                return 1, 1

        return list(_parallel_map(size_of, indices))

    def _stored_hw(self, image_hw: tuple[int, int]) -> tuple[int, int]:
        scale = min(1.0, self.max_short_side / min(image_hw))
        return max(1, round(image_hw[0] * scale)), max(1, round(image_hw[1] * scale))


class ImageBatchDataset(BatchDataset):
    """Varied samples, mixed within their batch before epoch `mixed_epochs`."""

    def __init__(
        self,
        dataset: ClassificationDataset,
        config: ImageAugmentConfig,
        size_hw: tuple[int, int],
        seed: int,
        mixed_epochs: int,
    ):
        self.dataset, self.config, self.seed, self.mixed_epochs = dataset, config, seed, mixed_epochs
        self.augment = ImageAugment(config, size_hw)

    def build_batch(self, keys: Sequence[SampleKey]) -> ImageBatch:
        """The batch of these pictures."""
        samples = [self._build_sample(key) for key in keys]
        if keys[0][0] < self.mixed_epochs:
            # The spawn key keeps these streams apart from those that vary the pictures.
            rngs = [seeded_rng(self.seed, *key, spawn_key=(1,)) for key in keys]
            samples = mix_batch(samples, self.config, rngs)
        return collate_images(samples)

    def pop_new_errors(self) -> dict[int, str]:
        return self.dataset.pop_new_errors()

    def _build_sample(self, key: SampleKey) -> ImageSample:
        sample = self.dataset[key[1]]
        image = self.augment(sample.image, seeded_rng(self.seed, *key))
        return ImageSample(image, sample.class_id, sample.label_weight, sample.index)


def collate_images(samples: Sequence[ImageSample]) -> ImageBatch:
    """Samples of one size to a batch."""
    class_id = torch.zeros(len(samples), MAX_CLASSES_PER_IMAGE, dtype=torch.int64)
    label_weight = torch.zeros(len(samples), MAX_CLASSES_PER_IMAGE)
    for i, sample in enumerate(samples):
        class_id[i, : len(sample.class_id)] = torch.tensor(sample.class_id)
        label_weight[i, : len(sample.label_weight)] = torch.tensor(sample.label_weight)
    index = torch.tensor([sample.index for sample in samples])
    return ImageBatch(stack_images_chw([sample.image for sample in samples]), class_id, label_weight, index)


def check_images(images: ImageFolderDataset) -> list[str]:
    """What is wrong with the files, by their headers: one line each for those that are missing or no pictures."""

    def problem(index: int) -> str | None:
        try:
            image_size(images.path(index))
        except DataError as error:
            return str(error)
        return None

    found = progress(_parallel_map(problem, range(len(images))), "looking at the files", "picture", len(images))
    return [line for line in found if line is not None]


def _parallel_map(function: Callable[[int], ResultT], indices: Sequence[int]) -> Iterator[ResultT]:
    """As `map`, for files on a disk that answers several questions at a time; a task for thousands, not for each."""
    chunks = [indices[at : at + CHUNK] for at in range(0, len(indices), CHUNK)]
    with ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1))) as threads:
        for found in threads.map(lambda chunk: [function(index) for index in chunk], chunks):
            yield from found
