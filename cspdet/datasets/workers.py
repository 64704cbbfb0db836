"""Loader processes: start, signals, crashes, and data errors that are returned as values.

If a loader process raises an exception, torch adds its traceback to the message. Therefore `WorkerDataset` returns
user errors as values, and `iter_batches` raises them in the training process. `SkipUnreadable` wraps a dataset and
replaces unreadable samples.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, cast

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from cspdet.datasets.worker_count import PREFETCH_FACTOR
from cspdet.errors import DataError, UserError, truncate_list

HAS_SIGWAITINFO = hasattr(signal, "sigwaitinfo")  # returns the sender of a signal; Linux, but not macOS and Windows
SampleT = TypeVar("SampleT")
SampleT_co = TypeVar("SampleT_co", covariant=True)
BatchT_co = TypeVar("BatchT_co", bound=tuple[object, ...], covariant=True)


class IndexedSamples(Protocol[SampleT_co]):
    """Interface of datasets: index -> sample."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> SampleT_co: ...


class BuildBatch(Protocol[BatchT_co]):
    """Interface of functions that build a batch (a named tuple) in the loader processes.

    The argument identifies the samples of the batch: keys of `EpochBatchSampler` in training, image indices in
    evaluation.
    """

    def __call__(self, keys: Sequence[Any], /) -> BatchT_co: ...


# --- errors --------------------------------------------------------------------------------------


class WorkerResult(NamedTuple):
    """Result of a loader process for one batch."""

    batch: tuple[object, ...] | None  # None if there are problems
    problems: tuple[str, ...]  # messages of a UserError, which ends the run
    skipped: dict[int, str]  # images found to be unreadable since the last result: index -> reason


def no_errors() -> dict[int, str]:
    """Return {}; replaces `pop_new_errors` for datasets that are not wrapped in `SkipUnreadable`."""
    return {}


class WorkerDataset(Dataset[Any]):
    """Dataset that builds whole batches.

    If building a batch raises a UserError, the result has the messages of the error instead of the batch.

    Args:
        build_batch: Builds a batch from the keys of its samples.
        pop_new_errors: Function that returns the images found to be unreadable since the last call: index -> reason.
    """

    def __init__(self, build_batch: BuildBatch[Any], pop_new_errors: Callable[[], dict[int, str]] = no_errors):
        self.build_batch, self.pop_new_errors = build_batch, pop_new_errors

    def __getitems__(self, keys: Sequence[Any]) -> WorkerResult:
        try:
            batch = self.build_batch(keys)
        except UserError as error:
            return WorkerResult(None, error.problems, self.pop_new_errors())
        return WorkerResult(batch, (), self.pop_new_errors())


class SkipUnreadable(Generic[SampleT]):
    """Wraps a dataset and replaces an unreadable sample by the next readable one.

    Args:
        dataset: The dataset to wrap.
        skipped: Samples known to be unreadable: index -> reason.
    """

    def __init__(self, dataset: IndexedSamples[SampleT], skipped: dict[int, str]):
        self.dataset, self.skipped = dataset, dict(skipped)
        self._reported: set[int] = set()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> SampleT:
        while True:
            row = self._replacement_index(index)
            try:
                return self.dataset[row]
            except DataError as error:
                self.skipped[row] = str(error)

    def _replacement_index(self, index: int) -> int:
        """Return `index`, or the next index that is not known to be unreadable; raise DataError if there is none."""
        for row in (*range(index, len(self)), *range(index)) if index in self.skipped else (index,):
            if row not in self.skipped:
                return row
        raise DataError(*truncate_list(["no image is readable", *self.skipped.values()]))

    def pop_new_errors(self) -> dict[int, str]:
        """Return the samples found to be unreadable since the last call: index -> reason."""
        new_errors = {index: why for index, why in self.skipped.items() if index not in self._reported}
        self._reported |= set(new_errors)
        return new_errors


# --- processes -----------------------------------------------------------------------------------


def build_data_loader(
    dataset: WorkerDataset, batch_sampler: Any, num_workers: int, device_type: str, *, persistent: bool
) -> DataLoader[Any]:
    """Build a torch DataLoader for a dataset that builds whole batches.

    Args:
        dataset: Builds the batches.
        batch_sampler: The keys of the samples of each batch.
        num_workers: Number of loader processes; 0 loads in this process.
        device_type: Device of the batches; "cuda" pins their memory.
        persistent: Keep the loader processes between epochs.
    """
    return DataLoader(
        dataset,
        batch_sampler=batch_sampler,
        num_workers=num_workers,
        prefetch_factor=PREFETCH_FACTOR if num_workers else None,
        collate_fn=identity_collate,
        pin_memory=device_type == "cuda",
        worker_init_fn=worker_init_fn,
        persistent_workers=persistent and num_workers > 0,
        multiprocessing_context=worker_context(num_workers),
        generator=torch.Generator(),  # separate, so that starting an epoch does not change the global generator
    )


def iter_batches(loader: DataLoader[Any], on_skipped: Callable[[dict[int, str]], None]) -> Iterator[Any]:
    """Yield the batches of a loader; raise the user errors of loader processes.

    Args:
        loader: The result of `build_data_loader`.
        on_skipped: Called with the images found to be unreadable: index -> reason.

    Raises:
        DataError: An image is unreadable, or a loader process died.
    """
    try:
        for result in start_workers(loader):
            if result.skipped:
                on_skipped(result.skipped)
            if result.batch is None:
                raise DataError(*result.problems)
            yield result.batch
    except (RuntimeError, EOFError, OSError) as error:
        raise worker_crash_error(error) or error from None


def worker_context(num_workers: int) -> str | None:
    """Return the start method of loader processes: "fork" on Linux, to share annotations and cache; elsewhere None.

    None stands for the default of `multiprocessing`. On Linux, None is also returned if the user has set "spawn".
    """
    can_fork = sys.platform == "linux" and "fork" in multiprocessing.get_all_start_methods()
    can_fork &= multiprocessing.get_start_method(allow_none=True) != "spawn"
    return "fork" if num_workers > 0 and can_fork else None


def uses_spawn(num_workers: int) -> bool:
    """Return whether loader processes are started without fork; they share only explicitly shared memory then."""
    return num_workers > 0 and worker_context(num_workers) is None


def identity_collate(batch: Any) -> Any:
    """Return the batch unchanged; collate function for datasets that build whole batches."""
    return batch


def worker_init_fn(worker: int) -> None:
    """Initialize a loader process: use one thread, and ignore SIGINT and SIGTERM.

    Terminals and schedulers send both signals to all processes, but the training process stops its loader processes
    itself. On Linux, SIGTERM from the training process still terminates a loader process.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if HAS_SIGWAITINFO and signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ()):
        threading.Thread(target=_exit_on_parent_sigterm, args=(os.getppid(),), daemon=True).start()
    else:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _exit_on_parent_sigterm(parent: int) -> None:
    """Exit this process when its parent sends SIGTERM.

    At exit, torch sends SIGTERM to loader processes whose DataLoader was garbage-collected without a shutdown, and then
    waits for them. If loader processes ignored this signal, the training process would not end.
    """
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def worker_crash_error(error: Exception) -> DataError | None:
    """Return a DataError with advice if `error` was caused by the death of a loader process; if not, return None."""
    lost = isinstance(error, (EOFError, ConnectionError, FileNotFoundError))
    if not lost and "DataLoader worker (pid" not in str(error):
        return None
    reason = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
    return DataError(
        "a loader process died, most often because memory or shared memory (/dev/shm) ran out: use fewer train.workers "
        f"or eval.workers, or train.cache=none ({reason})"
    )


def start_workers(loader: DataLoader[Any]) -> Iterator[WorkerResult]:
    """Start the loader processes, with SIGTERM blocked in all their threads; return the iterator of the loader."""
    if not HAS_SIGWAITINFO:
        return cast(Iterator[WorkerResult], iter(loader))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        return cast(Iterator[WorkerResult], iter(loader))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
