"""Which pictures an epoch shows, how often, in which order, and in which process.

All of it is a function of (seed, epoch): an epoch can be entered in its middle, and each of several processes finds
its part without asking the others.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from cspdet.datasets.detection.batches import Key, random_stream
from cspdet.errors import ConfigError, DataError
from cspdet.structures import WHOLE, Shard

# Spawn keys, which keep these streams apart from each other and from those of the pictures.
ORDER, REPEATS = (0,), (2,)


def repeat_factors(image: np.ndarray, class_id: np.ndarray, pictures: int, threshold: float) -> np.ndarray:
    """How often an epoch shows each picture, on average: (pictures,) float64, 1 or more.

    image, class_id  (M,) rows that say that this picture shows this class, as often as they like
    threshold        classes in a smaller share of the pictures than this are shown more often

    The repeat factor of LVIS (arXiv:1908.03195): a class in a share f of the pictures wants
    max(1, sqrt(threshold / f)), a picture what the one of its classes wants that wants most.
    """
    factors = np.ones(pictures)
    if len(image) == 0:
        return factors
    classes = int(class_id.max()) + 1
    shown, of_class = np.divmod(np.unique(image.astype(np.int64) * classes + class_id), classes)
    share = np.bincount(of_class, minlength=classes) / pictures
    wanted = np.sqrt(threshold / np.maximum(share, 1 / pictures))  # classes without a picture are asked for nothing
    np.maximum.at(factors, shown, wanted[of_class])
    return factors


class EpochOrder(Sampler[list[Key]]):
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
        pictures: int,
        batch_size: int,
        seed: int,
        least: int = 1,
        shard: Shard = WHOLE,
        factors: np.ndarray | None = None,
    ):
        self.batch_size, self.seed, self.shard = batch_size, seed, shard
        self._always = np.ones(pictures, np.int64) if factors is None else np.floor(factors).astype(np.int64)
        self._chance = np.zeros(pictures) if factors is None else factors - self._always
        self._drawn = round(float(self._chance.sum()))
        self.length = int(self._always.sum()) + self._drawn
        least *= shard.world
        if shard.world > 1:
            _check_parts(self.length, batch_size, least, shard)
        self.batches = max(1, self.length // batch_size + (self.length % batch_size >= least))
        self.epoch = self.start_batch = 0

    def __len__(self) -> int:
        return self.batches - self.start_batch

    def batch_pictures(self, number: int) -> int:
        """Pictures in batch `number` of an epoch, over all processes."""
        start, end = self._ends(range(self.batches)[number])
        return end - start

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, (rank, world) = self.epoch, self.shard
        index, repeat = self._shown(epoch)
        for number in range(self.start_batch, self.batches):
            start, end = self._ends(number)
            mine = slice(start + rank, end, world)
            pairs = zip(index[mine].tolist(), repeat[mine].tolist(), strict=True)
            # What is shown for the first time has the key that it would have without repeats.
            yield [(epoch, i, again) if again else (epoch, i) for i, again in pairs]

    def _ends(self, number: int) -> tuple[int, int]:
        """First and past-the-last place of a batch in the order."""
        return number * self.batch_size, self.length if number + 1 == self.batches else (number + 1) * self.batch_size

    def _shown(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """(length,) the numbers of the pictures in the epoch's order, and how often each was shown before."""
        times = self._times(epoch)
        index = np.repeat(np.arange(len(times)), times)
        repeat = np.arange(self.length) - np.repeat(np.cumsum(times) - times, times)
        order = random_stream(self.seed, epoch, spawn_key=ORDER).permutation(self.length)
        return index[order], repeat[order]

    def _times(self, epoch: int) -> np.ndarray:
        """(pictures,) how often this epoch shows each.

        The fractions of the factors are drawn by systematic sampling: laid end to end in a random order, on a line
        that is as long as the number to draw, a comb with a tooth at every whole number and a random start picks.
        """
        times = self._always
        if self._drawn:
            rng = random_stream(self.seed, epoch, spawn_key=REPEATS)
            order = rng.permutation(len(times))
            line = np.cumsum(self._chance[order])
            teeth = (rng.random() + np.arange(self._drawn)) * (line[-1] / self._drawn)
            picked = order[np.minimum(np.searchsorted(line, teeth, side="right"), len(order) - 1)]
            times = times + np.bincount(picked, minlength=len(times))
        return times


def _check_parts(length: int, batch_size: int, least: int, shard: Shard) -> None:
    """Every process needs its share of every batch."""
    each = least // shard.world
    if not 0 <= shard.rank < shard.world:
        raise ValueError(f"expected a rank from 0 to {shard.world - 1}, found {shard.rank}")
    if batch_size < least:
        raise ConfigError(
            f"train.batch_size: a step's pictures are shared by {shard.world} processes, {each} or more for each: "
            f"expected {least} or more, found {batch_size}"
        )
    if length < least:
        raise DataError(
            f"{shard.world} processes need {least} training pictures or more, {each} for each; found {length}"
        )


def local_processes(shard: Shard) -> int:
    """Processes that share this machine's memory and cores: LOCAL_WORLD_SIZE, which torchrun sets, else all of them."""
    told = os.environ.get("LOCAL_WORLD_SIZE", "")
    return min(shard.world, max(1, int(told))) if told.isdecimal() else shard.world
