"""Batch sampler: the images of an epoch, their repeats, order and distribution over processes.

The result is determined by the seed and the epoch, so a run can be resumed within an epoch, and each process computes
its part without communication.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from cspdet.errors import ConfigError, DataError
from cspdet.structures import SINGLE_PROCESS, Shard

# Epoch, image index and, for repeats within an epoch, repeat index. A sample is determined by (seed, key).
SampleKey = tuple[int, int] | tuple[int, int, int]

# Spawn keys make these random streams independent of each other and of the streams of the samples.
ORDER_SPAWN_KEY, REPEAT_SPAWN_KEY = (0,), (2,)


def seeded_rng(*entropy: int, spawn_key: tuple[int, ...] = ()) -> np.random.Generator:
    """Create a random generator; its stream depends only on the integers `entropy` and on `spawn_key`."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy, spawn_key=spawn_key)))


def repeat_factors(image: np.ndarray, class_id: np.ndarray, num_images: int, threshold: float) -> np.ndarray:
    """Compute the repeat factor of each image, as in LVIS (arXiv:1908.03195).

    The factor of a class that occurs in a fraction f of the images is max(1, sqrt(threshold / f)). The factor of an
    image is the highest factor of its classes.

    Args:
        image: (M,) image index of each object.
        class_id: (M,) class of each object.
        num_images: Number of images.
        threshold: Images with a class that occurs in less than this fraction of the images are repeated.

    Returns:
        (num_images,) float64, the mean number of occurrences of each image in an epoch, at least 1.
    """
    factors = np.ones(num_images)
    if len(image) == 0:
        return factors
    classes = int(class_id.max()) + 1
    image_index, of_class = np.divmod(np.unique(image.astype(np.int64) * classes + class_id), classes)
    image_fraction = np.bincount(of_class, minlength=classes) / num_images
    # classes without images have no effect
    class_factors = np.sqrt(threshold / np.maximum(image_fraction, 1 / num_images))
    np.maximum.at(factors, image_index, class_factors[of_class])
    return factors


class EpochBatchSampler(Sampler[list[SampleKey]]):
    """Yields one list of sample keys per batch of an epoch, for one process, from batch `start_batch` on.

    A key is (epoch, image index) or, from the second occurrence of an image on, (epoch, image index, repeat index).
    Each process takes every world_size-th image of a batch, so the processes together cover the whole batch. All epochs
    have the same length.

    Args:
        num_images: Number of images in the dataset.
        batch_size: Number of images per batch, over all processes.
        seed: Seed of the order.
        min_per_rank: Minimum number of images per process and batch; a smaller last batch is merged into the previous
            one.
        shard: Rank and world size of this process.
        factors: (num_images,) repeat factors, from `repeat_factors`; None: each image once per epoch.

    Raises:
        ConfigError: The batch size is too small for the processes.
        DataError: There are too few images for the processes.
    """

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        seed: int,
        min_per_rank: int = 1,
        shard: Shard = SINGLE_PROCESS,
        factors: np.ndarray | None = None,
    ):
        self.batch_size, self.seed, self.shard = batch_size, seed, shard
        self._whole_repeats = np.ones(num_images, np.int64) if factors is None else np.floor(factors).astype(np.int64)
        self._fractional_repeats = np.zeros(num_images) if factors is None else factors - self._whole_repeats
        self._num_extra_repeats = round(float(self._fractional_repeats.sum()))
        self.length = int(self._whole_repeats.sum()) + self._num_extra_repeats
        self.epoch = self.start_batch = 0
        self.require_images(min_per_rank)

    def require_images(self, min_per_rank: int) -> None:
        """Merge the last two batches if a process would have fewer than `min_per_rank` images in the last one.

        Raises:
            ConfigError: The batch size is too small for the processes.
            DataError: There are too few images for the processes.
        """
        world_size, min_batch_size = self.shard.world_size, min_per_rank * self.shard.world_size
        if world_size > 1:
            _check_shards(self.length, self.batch_size, min_batch_size, self.shard)
        whole, rest = divmod(self.length, self.batch_size)
        self.num_batches = max(1, whole + (rest >= min_batch_size))

    def __len__(self) -> int:
        return self.num_batches - self.start_batch

    def images_in_batch(self, batch_index: int) -> int:
        """Return the number of images in a batch of an epoch, over all processes."""
        start, end = self._batch_bounds(range(self.num_batches)[batch_index])
        return end - start

    def __iter__(self) -> Iterator[list[SampleKey]]:
        epoch, (rank, world) = self.epoch, self.shard
        index, repeat = self._epoch_indices(epoch)
        for batch_index in range(self.start_batch, self.num_batches):
            start, end = self._batch_bounds(batch_index)
            local_slice = slice(start + rank, end, world)
            pairs = zip(index[local_slice].tolist(), repeat[local_slice].tolist(), strict=True)
            # The key of the first occurrence of an image is the same as without repeats.
            yield [(epoch, i, repeat_index) if repeat_index else (epoch, i) for i, repeat_index in pairs]

    def _batch_bounds(self, batch_index: int) -> tuple[int, int]:
        """Return start and end (exclusive) of a batch in the order of the epoch."""
        return batch_index * self.batch_size, self.length if batch_index + 1 == self.num_batches else (
            batch_index + 1
        ) * self.batch_size

    def _epoch_indices(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the order of the epoch: (length,) image indices and (length,) repeat indices, from 0."""
        times = self._repeat_counts(epoch)
        index = np.repeat(np.arange(len(times)), times)
        repeat = np.arange(self.length) - np.repeat(np.cumsum(times) - times, times)
        order = seeded_rng(self.seed, epoch, spawn_key=ORDER_SPAWN_KEY).permutation(self.length)
        return index[order], repeat[order]

    def _repeat_counts(self, epoch: int) -> np.ndarray:
        """Return the number of occurrences of each image in this epoch, (num_images,).

        An image with the repeat factor 2.3 occurs twice, or three times with a probability of about 0.3 (systematic
        sampling). The total is the same in every epoch.
        """
        times = self._whole_repeats
        if self._num_extra_repeats:
            rng = seeded_rng(self.seed, epoch, spawn_key=REPEAT_SPAWN_KEY)
            order = rng.permutation(len(times))
            line = np.cumsum(self._fractional_repeats[order])
            points = (rng.random() + np.arange(self._num_extra_repeats)) * (line[-1] / self._num_extra_repeats)
            picked = order[np.minimum(np.searchsorted(line, points, side="right"), len(order) - 1)]
            times = times + np.bincount(picked, minlength=len(times))
        return times


def _check_shards(length: int, batch_size: int, min_batch_size: int, shard: Shard) -> None:
    """Raise an error if a process would have too few images in a batch, or if the rank is invalid."""
    min_per_rank = min_batch_size // shard.world_size
    if not 0 <= shard.rank < shard.world_size:
        raise ValueError(f"expected a rank from 0 to {shard.world_size - 1}, found {shard.rank}")
    if batch_size < min_batch_size:
        raise ConfigError(
            f"train.batch_size: the images of a step are split over {shard.world_size} processes, "
            f"{min_per_rank} or more each: expected {min_batch_size} or more, found {batch_size}"
        )
    if length < min_batch_size:
        raise DataError(
            f"{shard.world_size} processes need {min_batch_size} training images or more, {min_per_rank} for each; "
            f"found {length}"
        )


def sequential_batches(num_images: int, batch_size: int, shard: Shard) -> list[list[int]]:
    """Return the image indices of each evaluation batch of one process, which takes every world_size-th image."""
    local_indices = range(shard.rank, num_images, shard.world_size)
    return [list(local_indices[at : at + batch_size]) for at in range(0, len(local_indices), batch_size)]


def local_world_size(shard: Shard) -> int:
    """Return the number of training processes on this machine, from the variable LOCAL_WORLD_SIZE that torchrun sets.

    Without this variable, all processes are assumed to run on this machine.
    """
    env_value = os.environ.get("LOCAL_WORLD_SIZE", "")
    return min(shard.world_size, max(1, int(env_value))) if env_value.isdecimal() else shard.world_size
