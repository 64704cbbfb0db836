"""Which pictures an epoch shows, how often, in which order, and in which process.

All of it is a function of (seed, epoch): an epoch can be entered in its middle, and each of several processes finds
its part without asking the others.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from cspdet.errors import ConfigError, DataError
from cspdet.structures import SINGLE_PROCESS, Shard

# A sample is a function of (seed, key): epoch, image index, and for repeats within an epoch the number of the repeat.
SampleKey = tuple[int, int] | tuple[int, int, int]

# Spawn keys, which keep these random streams apart from each other and from those of the samples.
ORDER_SPAWN_KEY, REPEAT_SPAWN_KEY = (0,), (2,)


def seeded_rng(*entropy: int, spawn_key: tuple[int, ...] = ()) -> np.random.Generator:
    """A generator that depends on nothing but the numbers given."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy, spawn_key=spawn_key)))


def repeat_factors(image: np.ndarray, class_id: np.ndarray, num_images: int, threshold: float) -> np.ndarray:
    """How often an epoch shows each picture, on average: (pictures,) float64, 1 or more.

    image, class_id  (M,) rows that say that this picture shows this class, as often as they like
    threshold        classes in a smaller share of the pictures than this are shown more often

    The repeat factor of LVIS (arXiv:1908.03195): a class in a share f of the pictures wants
    max(1, sqrt(threshold / f)), a picture what the one of its classes wants that wants most.
    """
    factors = np.ones(num_images)
    if len(image) == 0:
        return factors
    classes = int(class_id.max()) + 1
    image_index, of_class = np.divmod(np.unique(image.astype(np.int64) * classes + class_id), classes)
    image_fraction = np.bincount(of_class, minlength=classes) / num_images
    class_factors = np.sqrt(
        threshold / np.maximum(image_fraction, 1 / num_images)
    )  # classes without a picture are asked for nothing
    np.maximum.at(factors, image_index, class_factors[of_class])
    return factors


class EpochBatchSampler(Sampler[list[SampleKey]]):
    """The keys of one process's part of an epoch's batches, from number `start_batch` on, in an order of its own.

    pictures    in the set
    batch_size  pictures a batch over all processes
    least       pictures that each process has in a batch, or more; those left over go into the batch before them
    factors     (pictures,) 1 or more: how often an epoch shows each picture on average; None shows each once

    Each process takes every `world`-th picture of a batch, so that together they have exactly that batch. All epochs
    are of one length.

    Raises:
        ConfigError: batches that the processes cannot share.
        DataError: fewer pictures than that.
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
        min_per_rank *= shard.world_size
        if shard.world_size > 1:
            _check_shards(self.length, batch_size, min_per_rank, shard)
        self.num_batches = max(1, self.length // batch_size + (self.length % batch_size >= min_per_rank))
        self.epoch = self.start_batch = 0

    def __len__(self) -> int:
        return self.num_batches - self.start_batch

    def images_in_batch(self, batch_index: int) -> int:
        """Pictures in batch `number` of an epoch, over all processes."""
        start, end = self._batch_bounds(range(self.num_batches)[batch_index])
        return end - start

    def __iter__(self) -> Iterator[list[SampleKey]]:
        epoch, (rank, world) = self.epoch, self.shard
        index, repeat = self._epoch_indices(epoch)
        for batch_index in range(self.start_batch, self.num_batches):
            start, end = self._batch_bounds(batch_index)
            local_slice = slice(start + rank, end, world)
            pairs = zip(index[local_slice].tolist(), repeat[local_slice].tolist(), strict=True)
            # What is shown for the first time has the key that it would have without repeats.
            yield [(epoch, i, repeat_index) if repeat_index else (epoch, i) for i, repeat_index in pairs]

    def _batch_bounds(self, batch_index: int) -> tuple[int, int]:
        """First and past-the-last place of a batch in the order."""
        return batch_index * self.batch_size, self.length if batch_index + 1 == self.num_batches else (
            batch_index + 1
        ) * self.batch_size

    def _epoch_indices(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """(length,) the numbers of the pictures in the epoch's order, and how often each was shown before."""
        times = self._repeat_counts(epoch)
        index = np.repeat(np.arange(len(times)), times)
        repeat = np.arange(self.length) - np.repeat(np.cumsum(times) - times, times)
        order = seeded_rng(self.seed, epoch, spawn_key=ORDER_SPAWN_KEY).permutation(self.length)
        return index[order], repeat[order]

    def _repeat_counts(self, epoch: int) -> np.ndarray:
        """(pictures,) how often this epoch shows each.

        The fractions of the factors are drawn by systematic sampling: laid end to end in a random order, on a line
        that is as long as the number to draw, a comb with a tooth at every whole number and a random start picks.
        """
        times = self._whole_repeats
        if self._num_extra_repeats:
            rng = seeded_rng(self.seed, epoch, spawn_key=REPEAT_SPAWN_KEY)
            order = rng.permutation(len(times))
            line = np.cumsum(self._fractional_repeats[order])
            teeth = (rng.random() + np.arange(self._num_extra_repeats)) * (line[-1] / self._num_extra_repeats)
            picked = order[np.minimum(np.searchsorted(line, teeth, side="right"), len(order) - 1)]
            times = times + np.bincount(picked, minlength=len(times))
        return times


def _check_shards(length: int, batch_size: int, min_batch_size: int, shard: Shard) -> None:
    """Every process needs its share of every batch."""
    min_per_rank = min_batch_size // shard.world_size
    if not 0 <= shard.rank < shard.world_size:
        raise ValueError(f"expected a rank from 0 to {shard.world_size - 1}, found {shard.rank}")
    if batch_size < min_batch_size:
        raise ConfigError(
            f"train.batch_size: a step's pictures are shared by {shard.world_size} processes, {min_per_rank} or more for each: "
            f"expected {min_batch_size} or more, found {batch_size}"
        )
    if length < min_batch_size:
        raise DataError(
            f"{shard.world_size} processes need {min_batch_size} training pictures or more, {min_per_rank} for each; found {length}"
        )


def local_world_size(shard: Shard) -> int:
    """Processes that share this machine's memory and cores: LOCAL_WORLD_SIZE, which torchrun sets, else all of them."""
    env_value = os.environ.get("LOCAL_WORLD_SIZE", "")
    return min(shard.world_size, max(1, int(env_value))) if env_value.isdecimal() else shard.world_size
