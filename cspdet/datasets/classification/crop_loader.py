"""Batches of an ImageSet as a classifier is judged on them: every picture once, in order, without augmentation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cspdet.datasets.classification.crops import ImageCrop
from cspdet.datasets.classification.image_folder import ImageSet
from cspdet.datasets.detection.loader import (
    Workers,
    as_is,
    explain_death,
    pick_workers,
    quiet_worker,
    started,
    worker_context,
)
from cspdet.datasets.image_io import read_picture
from cspdet.datasets.sampler import local_processes
from cspdet.errors import DataError
from cspdet.structures import WHOLE, Shard


class CropBatch(NamedTuple):
    """The pictures of a batch that could be read, and what is wrong with the others."""

    images: Tensor  # (B, views, 3, H, W) uint8 RGB
    number: tuple[int, ...]  # of each picture in its set
    problems: tuple[str, ...]


class CropData(Dataset[CropBatch]):
    """Makes whole batches; unreadable pictures travel as values, since raised they would bring a traceback."""

    def __init__(self, images: ImageSet, crop: ImageCrop):
        self.images, self.crop = images, crop

    def __getitem__(self, index: int) -> CropBatch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> CropBatch:
        views: list[Tensor] = []
        read: list[int] = []
        problems: list[str] = []
        for index in indices:
            path = self.images.path(index)
            try:
                image = read_picture(path)
                views.append(torch.from_numpy(self.crop(image, str(path))))
                read.append(index)
            except DataError as error:
                problems += error.problems
        empty = torch.empty((0, self.crop.views, 3, *self.crop.size_hw), dtype=torch.uint8)
        return CropBatch(torch.stack(views) if views else empty, tuple(read), tuple(problems))


def crop_batches(
    images: ImageSet,
    crop: ImageCrop,
    batch_size: int,
    workers: Workers = 0,
    *,
    device_type: str = "cpu",
    shard: Shard = WHOLE,
) -> Iterator[CropBatch]:
    """All pictures of the set in batches, read by `workers` processes; or of one process's shard of it, every world-th.

    Raises:
        DataError: a loader process died.
    """
    mine = range(shard.rank, len(images), shard.world)
    order = [list(mine[at : at + batch_size]) for at in range(0, len(mine), batch_size)]
    processes = pick_workers(workers, device_type, local_processes(shard))
    loader: DataLoader[CropBatch] = DataLoader(
        CropData(images, crop),
        batch_sampler=order,
        num_workers=processes,
        collate_fn=as_is,
        pin_memory=device_type == "cuda",
        worker_init_fn=quiet_worker,
        multiprocessing_context=worker_context(processes),
        generator=torch.Generator(),
    )
    try:
        yield from started(loader)
    except (RuntimeError, EOFError, OSError) as error:
        raise explain_death(error) or error from None
