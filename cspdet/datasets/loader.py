"""Batches for training and evaluation, the same for every number of loader processes.

The order of an epoch is a function of (seed, epoch), so that it can also be entered in its middle.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast

import cv2
import torch
from torch.utils.data import DataLoader, Sampler

from cspdet.datasets.albumentations_hook import AlbumentationsHook
from cspdet.datasets.augment import Augment, AugmentConfig
from cspdet.datasets.batches import BatchData, EvalData, Key, Reply, TrainData, random_stream
from cspdet.datasets.coco import CocoSet
from cspdet.datasets.source import BadPictures, Cache, PictureSource, Resize
from cspdet.errors import DataError
from cspdet.types import Batch

if TYPE_CHECKING:
    from cspdet.recipe import Recipe

Workers = int | Literal["auto"]
B = TypeVar("B", bound=tuple[object, ...])  # a batch, as a named tuple


def train_loader(coco: CocoSet, recipe: Recipe, *, device_type: str = "cpu") -> TrainLoader:
    """The training batches that a recipe describes.

    Raises:
        ConfigError: augmentation that cannot be built, or a cache that does not fit.
        DataError: with `cache: ram`, the unreadable pictures.
    """
    train = recipe.train
    return TrainLoader(
        coco,
        size_hw=recipe.input.size,
        resize=recipe.input.resize,
        augment=train.augment,
        epochs=train.epochs,
        batch_size=train.batch_size,
        seed=train.seed,
        workers=pick_workers(train.workers, device_type),
        cache=train.cache,
        bad_pictures=train.bad_pictures,
        device_type=device_type,
    )


def eval_loader(
    coco: CocoSet,
    size_hw: tuple[int, int],
    resize: Resize = "letterbox",
    batch_size: int = 16,
    workers: Workers = 0,
    *,
    device_type: str = "cpu",
) -> EvalLoader:
    """The pictures of a set as the network is judged on them, with all of their boxes, crowds included."""
    return EvalLoader(coco, size_hw, resize, batch_size, pick_workers(workers, device_type), device_type)


def pick_workers(wanted: Workers, device_type: str) -> int:
    """`auto`: all cores up to 8 beside a GPU; a quarter of them where the network itself runs on the CPU, since loader
    processes that take its cores away slow it down by more than they help.
    """
    if wanted != "auto":
        return wanted
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return min(8, cores if device_type == "cuda" else cores // 4)


class EpochLoader(Generic[B]):
    """The batches that `data` makes of `pictures` pictures, epoch by epoch. The last batch of an epoch may be smaller:
    no picture is left out.

    `skipped` maps the pictures that could not be read so far to the reason (`bad_pictures: skip`).
    """

    def __init__(
        self,
        data: BatchData,
        path_of: Callable[[int], Path],
        *,
        pictures: int,
        batch_size: int,
        seed: int,
        workers: int,
        device_type: str,
        least: int = 1,
    ):
        self.skipped: dict[str, str] = {}
        self._path_of = path_of
        self._note(data.news())  # what a cache could not be filled with
        self._order = EpochOrder(pictures, batch_size, seed, least)
        self._batches = _data_loader(data, self._order, workers, device_type, persistent=True)

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        return self._order.batches

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[B]:
        """The batches of epoch `epoch` (0-based) from number `start_batch` on; one epoch at a time.

        Raises:
            DataError: an unreadable picture (`bad_pictures: error`), or a loader process that died.
        """
        self._order.epoch, self._order.start_batch = epoch, start_batch
        for reply in _replies(self._batches):
            self._note(reply.skipped)
            yield cast(B, _batch_of(reply))

    def _note(self, skipped: dict[int, str]) -> None:
        self.skipped.update({str(self._path_of(i)): reason for i, reason in skipped.items()})


class TrainLoader(EpochLoader[Batch]):
    """Augmented batches of a CocoSet."""

    def __init__(
        self,
        coco: CocoSet,
        *,
        size_hw: tuple[int, int],
        augment: AugmentConfig,
        epochs: int,
        batch_size: int,
        resize: Resize = "letterbox",
        seed: int = 0,
        workers: int = 0,
        cache: Cache = "none",
        bad_pictures: BadPictures = "error",
        device_type: str = "cpu",
    ):
        extra = AlbumentationsHook(augment.albumentations, size_hw) if augment.albumentations else None
        source = PictureSource(coco, size_hw, resize, cache, bad_pictures, spawns(workers))
        data = TrainData(source, Augment(augment, size_hw, resize, extra), seed, epochs - augment.close_mosaic)
        super().__init__(
            data, coco.path, pictures=len(coco), batch_size=batch_size, seed=seed, workers=workers,
            device_type=device_type,
        )  # fmt: skip


class EvalLoader:
    """Letterboxed pictures with all of their boxes, in the order of the set, without augmentation."""

    def __init__(
        self,
        coco: CocoSet,
        size_hw: tuple[int, int],
        resize: Resize,
        batch_size: int,
        workers: int,
        device_type: str,
    ):
        order = [[(0, i) for i in range(at, min(at + batch_size, len(coco)))] for at in range(0, len(coco), batch_size)]
        self._batches = _data_loader(EvalData(coco, size_hw, resize), order, workers, device_type, persistent=False)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        """Raises DataError at an unreadable picture, or when a loader process died."""
        return (cast(Batch, _batch_of(reply)) for reply in _replies(self._batches))


class EpochOrder(Sampler[list[Key]]):
    """The keys of an epoch's batches: a permutation drawn from (seed, epoch), from `start_batch` on.

    Fewer than `least` pictures that are left over go into the batch before them.
    """

    def __init__(self, pictures: int, batch_size: int, seed: int, least: int = 1):
        self.pictures, self.batch_size, self.seed = pictures, batch_size, seed
        self.batches = max(1, pictures // batch_size + (pictures % batch_size >= least))
        self.epoch = self.start_batch = 0

    def __len__(self) -> int:
        return self.batches - self.start_batch

    def __iter__(self) -> Iterator[list[Key]]:
        # The spawn key keeps this stream apart from those of the pictures.
        order = random_stream(self.seed, self.epoch, spawn_key=(0,)).permutation(self.pictures).tolist()
        epoch, size = self.epoch, self.batch_size
        for number in range(self.start_batch, self.batches):
            end = (number + 1) * size if number + 1 < self.batches else self.pictures
            yield [(epoch, index) for index in order[number * size : end]]


def _data_loader(data: BatchData, order: Any, workers: int, device_type: str, *, persistent: bool) -> DataLoader[Any]:
    return DataLoader(
        data,
        batch_sampler=order,
        num_workers=workers,
        collate_fn=as_is,  # it gets what the data set made of the keys
        pin_memory=device_type == "cuda",
        worker_init_fn=quiet_worker,
        persistent_workers=persistent and workers > 0,
        multiprocessing_context=worker_context(workers),
        generator=torch.Generator(),  # its own: starting an epoch must leave the global one alone
    )


def worker_context(workers: int) -> str | None:
    """Forked processes share the annotations and the cache as they are; off Linux, forking is not safe."""
    can_fork = sys.platform == "linux" and "fork" in multiprocessing.get_all_start_methods()
    return "fork" if workers > 0 and can_fork else None


def spawns(workers: int) -> bool:
    """Whether loader processes start anew, and share only what stands in shared memory."""
    return workers > 0 and worker_context(workers) is None


def as_is(reply: Any) -> Any:
    """For loaders whose data set makes whole batches itself."""
    return reply


def quiet_worker(worker: int) -> None:
    """One thread a process, and Ctrl-C left to the training process, which ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def explain_death(error: Exception) -> DataError | None:
    """What shows when a loader process is killed, as one line for the user; None for any other error.

    torch may raise its RuntimeError wherever the training process is at that moment, not only while it waits
    for a batch. The others come from a batch whose memory was announced, but not yet handed over.
    """
    lost = isinstance(error, (EOFError, ConnectionError, FileNotFoundError))
    if not lost and "DataLoader worker (pid" not in str(error):
        return None
    return DataError(
        "a loader process died, most often because memory ran out: use fewer train.workers or eval.workers, "
        f"or train.cache=none ({str(error).strip().splitlines()[0] if str(error) else type(error).__name__})"
    )


def _replies(batches: DataLoader[Any]) -> Iterator[Reply]:
    try:
        yield from batches
    except (RuntimeError, EOFError, OSError) as error:
        raise explain_death(error) or error from None


def _batch_of(reply: Reply) -> tuple[object, ...]:
    if reply.batch is None:
        raise DataError(*reply.problems)
    return reply.batch
