"""Batches for training and evaluation, the same for every number of loader processes.

The order of an epoch is a function of (seed, epoch), so that it can also be entered in its middle. Each of several
training processes has its part of every batch: a picture is varied in the same way, however many there are.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader

from cspdet.datasets.cached_dataset import Cache, DetectionDataset, OnBadImage, Resize
from cspdet.datasets.detection.albumentations_transforms import AlbumentationsHook
from cspdet.datasets.detection.augment import Augment, AugmentConfig
from cspdet.datasets.detection.batches import BatchDataset, EvalBatches, TrainBatches, WorkerResult
from cspdet.datasets.formats.coco import CocoDataset
from cspdet.datasets.sampler import EpochBatchSampler, local_world_size, repeat_factors
from cspdet.errors import DataError
from cspdet.structures import SINGLE_PROCESS, Batch, Shard

if TYPE_CHECKING:
    from cspdet.recipe import DetectionRecipe

Workers = int | Literal["auto"]
HAS_SIGWAITINFO = hasattr(signal, "sigwaitinfo")  # of signals: Linux, not macOS nor Windows
BatchT = TypeVar("BatchT", bound=tuple[object, ...])  # a batch, as a named tuple


def train_loader(
    coco: CocoDataset, recipe: DetectionRecipe, *, device_type: str = "cpu", shard: Shard = SINGLE_PROCESS
) -> TrainLoader:
    """One process's part of the training batches that a recipe describes.

    Raises:
        ConfigError: augmentation that cannot be built, a cache that does not fit, or batches that cannot be shared.
        DataError: with `cache: ram` or `disk`, the unreadable pictures.
    """
    train = recipe.train
    return TrainLoader(
        coco,
        size_hw=recipe.input.size,
        resize=recipe.input.resize,
        augment=train.augment,
        epochs=train.epochs,
        batch_size=train.max_batch_size,
        seed=train.seed,
        workers=resolve_num_workers(train.workers, device_type, local_world_size(shard)),
        cache=train.cache,
        on_bad_image=train.on_bad_image,
        device_type=device_type,
        shard=shard,
        repeat_threshold=train.repeat_threshold,
        cache_folder=train.cache_folder,
    )


def eval_loader(
    coco: CocoDataset,
    size_hw: tuple[int, int],
    resize: Resize = "letterbox",
    batch_size: int = 16,
    workers: Workers = 0,
    *,
    device_type: str = "cpu",
    shard: Shard = SINGLE_PROCESS,
) -> EvalLoader:
    """The pictures of a set as the network is judged on them, with all of their boxes, crowds included.

    shard  gives every world-th picture from number `rank` on, maybe none; `batch_size` is that of this process
    """
    num_workers = resolve_num_workers(workers, device_type, local_world_size(shard))
    return EvalLoader(coco, size_hw, resize, batch_size, num_workers, device_type, shard)


def resolve_num_workers(requested: Workers, device_type: str, num_processes: int = 1) -> int:
    """`auto`: all cores up to 8 beside a GPU; a quarter of them where the network itself runs on the CPU, since loader
    processes that take its cores away slow it down by more than they help. The cores are shared by `processes`.
    """
    if requested != "auto":
        return requested
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    cores //= num_processes
    return min(8, cores if device_type == "cuda" else cores // 4)


class EpochLoader(Generic[BatchT]):
    """The batches that `data` makes of the keys in `order`, epoch by epoch. The last batch of an epoch may be smaller:
    no picture is left out.

    `skipped` maps the pictures that could not be read so far to the reason (`on_bad_image: skip`).
    """

    def __init__(
        self,
        data: BatchDataset,
        path_of: Callable[[int], Path],
        batch_sampler: EpochBatchSampler,
        *,
        workers: int,
        device_type: str,
    ):
        self.skipped: dict[str, str] = {}
        self._path_of = path_of
        self._record_skipped(data.pop_new_errors())  # what a cache could not be filled with
        self._batch_sampler = batch_sampler
        self._batches = _data_loader(data, self._batch_sampler, workers, device_type, persistent=True)

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        return self._batch_sampler.num_batches

    def images_in_batch(self, batch_index: int) -> int:
        """Pictures in batch `number` of an epoch, over all processes."""
        return self._batch_sampler.images_in_batch(batch_index)

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[BatchT]:
        """The batches of epoch `epoch` (0-based) from number `start_batch` on; one epoch at a time.

        Raises:
            DataError: an unreadable picture (`on_bad_image: error`), or a loader process that died.
        """
        self._batch_sampler.epoch, self._batch_sampler.start_batch = epoch, start_batch
        for reply in _iter_results(self._batches):
            self._record_skipped(reply.skipped)
            yield cast(BatchT, _unwrap_batch(reply))

    def _record_skipped(self, skipped: dict[int, str]) -> None:
        self.skipped.update({str(self._path_of(i)): reason for i, reason in skipped.items()})


class TrainLoader(EpochLoader[Batch]):
    """Augmented batches of a CocoSet.

    batch_size     pictures a step, over all processes
    shard          which of these processes this is
    repeat_threshold  classes in a smaller share of the pictures than this are shown more often; None shows each picture
                   once an epoch
    cache_folder   where `cache: disk` keeps its files
    """

    def __init__(
        self,
        coco: CocoDataset,
        *,
        size_hw: tuple[int, int],
        augment: AugmentConfig,
        epochs: int,
        batch_size: int,
        resize: Resize = "letterbox",
        seed: int = 0,
        workers: int = 0,
        cache: Cache = "none",
        on_bad_image: OnBadImage = "error",
        device_type: str = "cpu",
        shard: Shard = SINGLE_PROCESS,
        repeat_threshold: float | None = None,
        cache_folder: Path | None = None,
    ):
        extra = AlbumentationsHook(augment.albumentations, size_hw) if augment.albumentations else None
        factors = None if repeat_threshold is None else _image_repeat_factors(coco, repeat_threshold)
        order = EpochBatchSampler(len(coco), batch_size, seed, shard=shard, factors=factors)
        dataset = DetectionDataset(
            coco, size_hw, resize, cache, on_bad_image, uses_spawn(workers),
            cache_folder=cache_folder, num_processes=local_world_size(shard),
        )  # fmt: skip
        data = TrainBatches(dataset, Augment(augment, size_hw, resize, extra), seed, epochs - augment.close_mosaic)
        super().__init__(data, coco.path, order, workers=workers, device_type=device_type)


def _image_repeat_factors(coco: CocoDataset, threshold: float) -> np.ndarray:
    """(N,) how often to show each picture; a crowd, which is never learned, asks for nothing."""
    image = np.repeat(np.arange(len(coco)), np.diff(coco.box_start))
    is_target = ~coco.box_crowd
    return repeat_factors(image[is_target], coco.box_class[is_target], len(coco), threshold)


class EvalLoader:
    """Letterboxed pictures with all of their boxes, in the order of the set, without augmentation."""

    def __init__(
        self,
        coco: CocoDataset,
        size_hw: tuple[int, int],
        resize: Resize,
        batch_size: int,
        workers: int,
        device_type: str,
        shard: Shard = SINGLE_PROCESS,
    ):
        local_indices = range(shard.rank, len(coco), shard.world_size)
        order = [
            [(0, i) for i in local_indices[at : at + batch_size]] for at in range(0, len(local_indices), batch_size)
        ]
        self._batches = _data_loader(EvalBatches(coco, size_hw, resize), order, workers, device_type, persistent=False)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        """Raises DataError at an unreadable picture, or when a loader process died."""
        return (cast(Batch, _unwrap_batch(reply)) for reply in _iter_results(self._batches))


def _data_loader(
    data: BatchDataset, batch_sampler: Any, workers: int, device_type: str, *, persistent: bool
) -> DataLoader[Any]:
    return DataLoader(
        data,
        batch_sampler=batch_sampler,
        num_workers=workers,
        collate_fn=identity_collate,  # it gets what the data set made of the keys
        pin_memory=device_type == "cuda",
        worker_init_fn=worker_init_fn,
        persistent_workers=persistent and workers > 0,
        multiprocessing_context=worker_context(workers),
        generator=torch.Generator(),  # its own: starting an epoch must leave the global one alone
    )


def worker_context(workers: int) -> str | None:
    """Forked processes share the annotations and the cache as they are; off Linux, forking is not safe."""
    can_fork = sys.platform == "linux" and "fork" in multiprocessing.get_all_start_methods()
    return "fork" if workers > 0 and can_fork else None


def uses_spawn(workers: int) -> bool:
    """Whether loader processes start anew, and share only what stands in shared memory."""
    return workers > 0 and worker_context(workers) is None


def identity_collate(batch: Any) -> Any:
    """For loaders whose data set makes whole batches itself."""
    return batch


def worker_init_fn(worker: int) -> None:
    """One thread computes. Ctrl-C and SIGTERM, which terminals and schedulers send to every process, are left to the
    training process, which ends the others.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if HAS_SIGWAITINFO and signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ()):
        threading.Thread(target=_exit_on_parent_sigterm, args=(os.getppid(),), daemon=True).start()
    else:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _exit_on_parent_sigterm(parent: int) -> None:
    """End this process at a SIGTERM of its parent.

    That is how a process whose loader was lost in a cycle of garbage, with the queue to its workers closed already, is
    rid of them: it waits for them when it ends, and would wait forever.
    """
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def worker_crash_error(error: Exception) -> DataError | None:
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


def start_workers(batches: DataLoader[Any]) -> Iterator[Any]:
    """The loader's iterator. Its processes are born with SIGTERM blocked, in all threads that they will ever have."""
    if not HAS_SIGWAITINFO:
        return iter(batches)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        return iter(batches)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _iter_results(batches: DataLoader[Any]) -> Iterator[WorkerResult]:
    try:
        yield from start_workers(batches)
    except (RuntimeError, EOFError, OSError) as error:
        raise worker_crash_error(error) or error from None


def _unwrap_batch(result: WorkerResult) -> tuple[object, ...]:
    if result.batch is None:
        raise DataError(*result.problems)
    return result.batch
