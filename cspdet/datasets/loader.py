"""Loaders of the training batches and of the evaluation batches, for detection and classification.

Batches do not depend on the number of loader processes. The order of an epoch is determined by (seed, epoch), so a run
can be resumed within an epoch. Each training process loads its part of every batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

from cspdet.datasets.cache import ImageFiles, Images, build_cache
from cspdet.datasets.config import EvalBatching, LoaderConfig
from cspdet.datasets.sampler import EpochBatchSampler, local_world_size, sequential_batches
from cspdet.datasets.worker_count import resolve_num_workers
from cspdet.datasets.workers import (
    BuildBatch,
    IndexedSamples,
    SkipUnreadable,
    WorkerDataset,
    build_data_loader,
    iter_batches,
    no_errors,
    uses_spawn,
)
from cspdet.structures import Shard

SampleT = TypeVar("SampleT")
BatchT = TypeVar("BatchT", bound=tuple[object, ...])


def build_loader(
    files: ImageFiles,
    build_dataset: Callable[[Images], IndexedSamples[SampleT]],
    batch_builder: Callable[[IndexedSamples[SampleT]], BuildBatch[BatchT]],
    sampler: EpochBatchSampler,
    config: LoaderConfig,
    image_bytes: int,
    device_type: str,
) -> EpochLoader[BatchT]:
    """Build the training loader: image files -> cache -> dataset -> skipping of unreadable images -> batches.

    Args:
        files: The image files.
        build_dataset: Function that builds the dataset of samples from the images (files or a cache).
        batch_builder: Function that takes the dataset and returns a `BuildBatch`, which runs in the loader processes.
        sampler: Sampler of the batches of this process.
        config: Cache, loader processes and `on_bad_image`.
        image_bytes: Size of an image in a batch, in bytes.
        device_type: Device of the batches: "cpu" or "cuda".

    Raises:
        ConfigError: The cache does not fit into memory or on the disk.
        DataError: Images are unreadable, and the cache is `ram` or `disk` with `on_bad_image: error`.
    """
    num_processes = local_world_size(sampler.shard)
    batch_bytes = image_bytes * min(sampler.batch_size, sampler.length) // sampler.shard.world_size
    num_workers = resolve_num_workers(config.workers, device_type, num_processes, batch_bytes)
    images = build_cache(files, config, shared=uses_spawn(num_workers), num_processes=num_processes)
    dataset = build_dataset(images)
    skip = SkipUnreadable(dataset, images.problems) if config.on_bad_image == "skip" else None
    build_batch = batch_builder(dataset if skip is None else skip)
    return EpochLoader(build_batch, sampler, files.path, skip=skip, num_workers=num_workers, device_type=device_type)


class EpochLoader(Generic[BatchT]):
    """Loads the batches of each epoch; the last batch may be smaller or larger, so that no image is omitted.

    Attributes:
        skipped: Unreadable images found so far (with `on_bad_image: skip`): path -> reason.
    """

    def __init__(
        self,
        build_batch: BuildBatch[BatchT],
        batch_sampler: EpochBatchSampler,
        path_of: Callable[[int], Path],
        *,
        skip: SkipUnreadable[Any] | None,
        num_workers: int,
        device_type: str,
    ):
        """Build the loader.

        Args:
            build_batch: Builds a batch from the keys of its samples; runs in the loader processes.
            batch_sampler: Keys of the samples of each batch of an epoch.
            path_of: Function from image index to path.
            skip: Wrapper that replaces unreadable samples; None: unreadable samples are errors.
            num_workers: Number of loader processes.
            device_type: Device of the batches; "cuda" pins their memory.
        """
        self.skipped: dict[str, str] = {}
        self._path_of = path_of
        pop_new_errors = no_errors if skip is None else skip.pop_new_errors
        self._record_skipped(pop_new_errors())  # unreadable images that the cache found
        self._batch_sampler = batch_sampler
        dataset = WorkerDataset(build_batch, pop_new_errors)
        self._batches = build_data_loader(dataset, batch_sampler, num_workers, device_type, persistent=True)

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return self._batch_sampler.num_batches

    def require_images(self, min_per_rank: int) -> None:
        """Merge the last two batches if a process would have fewer than `min_per_rank` images in the last one."""
        self._batch_sampler.require_images(min_per_rank)

    def images_in_batch(self, batch_index: int) -> int:
        """Return the number of images in a batch of an epoch, over all training processes."""
        return self._batch_sampler.images_in_batch(batch_index)

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[BatchT]:
        """Yield the batches of an epoch (0-based) from `start_batch`; only one epoch can be active at a time.

        Raises:
            DataError: An image is unreadable (with `on_bad_image: error`), or a loader process died.
        """
        self._batch_sampler.epoch, self._batch_sampler.start_batch = epoch, start_batch
        yield from iter_batches(self._batches, self._record_skipped)

    def _record_skipped(self, skipped: dict[int, str]) -> None:
        self.skipped.update({str(self._path_of(i)): reason for i, reason in skipped.items()})


class EvalLoader(Generic[BatchT]):
    """Loader of the evaluation batches: every image once, in order. The loader can be iterated more than once."""

    def __init__(
        self,
        build_batch: BuildBatch[BatchT],
        num_images: int,
        config: EvalBatching,
        image_bytes: int,
        device_type: str,
        shard: Shard,
    ):
        """Build the loader.

        Args:
            build_batch: Builds a batch from image indices; runs in the loader processes.
            num_images: Number of images in the dataset.
            config: Images per batch of this process, and loader processes.
            image_bytes: Size of an image in a batch, in bytes.
            device_type: Device of the batches: "cpu" or "cuda".
            shard: Rank and world size of this process, which loads the images rank, rank + world_size, ...
        """
        order = sequential_batches(num_images, config.batch_size, shard)
        batch_bytes = image_bytes * min(config.batch_size, num_images)
        num_workers = resolve_num_workers(config.workers, device_type, local_world_size(shard), batch_bytes)
        dataset = WorkerDataset(build_batch)
        self._batches = build_data_loader(dataset, order, num_workers, device_type, persistent=False)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[BatchT]:
        """Iterate over the batches; raises DataError if an image is unreadable or a loader process died."""
        return iter_batches(self._batches, lambda skipped: None)
