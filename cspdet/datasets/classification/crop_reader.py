"""Picture files as a classifier sees them, batch by batch; what cannot be read is told, and the others go on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cspdet.datasets.classification.crops import ImageCrop
from cspdet.datasets.image_io import read_image
from cspdet.errors import DataError

READ_THREADS = 4  # threads; decoding and resizing leave Python's lock alone


class CropBatch(NamedTuple):
    """The pictures of one batch that could be read, and what is wrong with the others."""

    paths: tuple[Path, ...]
    sizes_hw: tuple[tuple[int, int], ...]  # of the original pictures
    images: np.ndarray  # (B, views, 3, H, W) uint8 RGB
    problems: tuple[str, ...]


def iter_crops(paths: Sequence[Path], crop: ImageCrop, batch_size: int) -> Iterator[CropBatch]:
    """All files in order, up to `batch_size` at a time; a batch may be empty but for its problems."""
    empty = np.empty((0, crop.num_crops, 3, *crop.size_hw), np.uint8)
    with ThreadPoolExecutor(READ_THREADS) as threads:
        for first in range(0, len(paths), batch_size):
            batch = paths[first : first + batch_size]
            results = list(threads.map(lambda path: _read_crops(path, crop), batch))
            read = [(path, *found) for path, found in zip(batch, results, strict=True) if isinstance(found, tuple)]
            yield CropBatch(
                paths=tuple(path for path, _, _ in read),
                sizes_hw=tuple(size_hw for _, size_hw, _ in read),
                images=np.stack([views for _, _, views in read]) if read else empty,
                problems=tuple(line for found in results if isinstance(found, DataError) for line in found.problems),
            )


def _read_crops(path: Path, crop: ImageCrop) -> tuple[tuple[int, int], np.ndarray] | DataError:
    """Height and width of a picture, and its views."""
    try:
        image = read_image(path)
        return (image.shape[0], image.shape[1]), crop(image, str(path))
    except DataError as error:
        return error
