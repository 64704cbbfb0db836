"""Batches of an ImageSet as a classifier is judged on them: every picture once, in order, without augmentation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cspdet.datasets.classification.crops import ImageCrop
from cspdet.datasets.classification.image_folder import ImageFolderDataset
from cspdet.datasets.detection.loader import (
    Workers,
    identity_collate,
    resolve_num_workers,
    start_workers,
    worker_context,
    worker_crash_error,
    worker_init_fn,
)
from cspdet.datasets.image_io import read_image
from cspdet.datasets.sampler import local_world_size
from cspdet.errors import DataError
from cspdet.structures import SINGLE_PROCESS, Shard


class IndexedCropBatch(NamedTuple):
    """The pictures of a batch that could be read, and what is wrong with the others."""

    images: Tensor  # (B, views, 3, H, W) uint8 RGB
    indices: tuple[int, ...]  # of each picture in its set
    problems: tuple[str, ...]


class CropBatchDataset(Dataset[IndexedCropBatch]):
    """Makes whole batches; unreadable pictures travel as values, since raised they would bring a traceback."""

    def __init__(self, images: ImageFolderDataset, crop: ImageCrop):
        self.images, self.crop = images, crop

    def __getitem__(self, index: int) -> IndexedCropBatch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> IndexedCropBatch:
        views: list[Tensor] = []
        read: list[int] = []
        problems: list[str] = []
        for index in indices:
            path = self.images.path(index)
            try:
                image = read_image(path)
                views.append(torch.from_numpy(self.crop(image, str(path))))
                read.append(index)
            except DataError as error:
                problems += error.problems
        empty = torch.empty((0, self.crop.num_crops, 3, *self.crop.size_hw), dtype=torch.uint8)
        return IndexedCropBatch(torch.stack(views) if views else empty, tuple(read), tuple(problems))


def crop_batches(
    images: ImageFolderDataset,
    crop: ImageCrop,
    batch_size: int,
    workers: Workers = 0,
    *,
    device_type: str = "cpu",
    shard: Shard = SINGLE_PROCESS,
) -> Iterator[IndexedCropBatch]:
    """All pictures of the set in batches, read by `workers` processes; or of one process's shard of it, every world-th.

    Raises:
        DataError: a loader process died.
    """
    local_indices = range(shard.rank, len(images), shard.world_size)
    order = [list(local_indices[at : at + batch_size]) for at in range(0, len(local_indices), batch_size)]
    num_workers = resolve_num_workers(workers, device_type, local_world_size(shard))
    loader: DataLoader[IndexedCropBatch] = DataLoader(
        CropBatchDataset(images, crop),
        batch_sampler=order,
        num_workers=num_workers,
        collate_fn=identity_collate,
        pin_memory=device_type == "cuda",
        worker_init_fn=worker_init_fn,
        multiprocessing_context=worker_context(num_workers),
        generator=torch.Generator(),
    )
    try:
        yield from start_workers(loader)
    except (RuntimeError, EOFError, OSError) as error:
        raise worker_crash_error(error) or error from None
