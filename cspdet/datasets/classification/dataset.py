"""Classification dataset: index -> image with its class."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from cspdet.datasets.cache import Images
from cspdet.datasets.classification.augment import ImageSample
from cspdet.datasets.classification.image_folder import ImageFolderDataset
from cspdet.datasets.image_io import image_size, read_image
from cspdet.errors import DataError
from cspdet.io.progress import progress
from cspdet.letterbox import resize_image

MAX_SIDE_RATIO = 2  # maximum short side of a stored image, relative to the longer side of the input
CHUNK = 256  # files per task of a thread
SIZE_SAMPLE = 256  # number of images from which the size of a cache is estimated
ResultT = TypeVar("ResultT")


class ClassificationImages:
    """Images of a folder dataset, downscaled to a short side of at most MAX_SIDE_RATIO times the longer input side.

    Args:
        images: The files and their classes.
        size_hw: Input height and width in pixels.
    """

    def __init__(self, images: ImageFolderDataset, size_hw: tuple[int, int]):
        self.images, self.max_short_side = images, MAX_SIDE_RATIO * max(size_hw)
        self.problems: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> np.ndarray:
        """Decode an image, apply its EXIF orientation and downscale it.

        Returns:
            (h, w, 3) uint8 RGB.
        """
        image = read_image(self.images.path(index))
        return resize_image(image, self._stored_hw((image.shape[0], image.shape[1])))

    def path(self, index: int) -> Path:
        """Return the path of an image."""
        return self.images.path(index)

    def cache_key(self) -> bytes:
        """Return the maximum short side of the downscaled images as bytes; only this value determines the pixels."""
        return f"short side {self.max_short_side}".encode()

    def sizes_hw(self) -> list[tuple[int, int]]:
        """Return the height and width of every downscaled image, from the file headers.

        The size of an unreadable image is (1, 1).
        """
        return self._sizes(range(len(self)))

    def estimate_cache_bytes(self) -> int:
        """Estimate the size of all decoded images in bytes from a sample."""
        sampled = np.unique(np.linspace(0, len(self) - 1, SIZE_SAMPLE).astype(int)).tolist()
        mean = float(np.mean([3 * height * width for height, width in self._sizes(sampled)]))
        return round(mean * len(self))

    def _sizes(self, indices: Sequence[int]) -> list[tuple[int, int]]:
        def size_of(index: int) -> tuple[int, int]:
            try:
                return self._stored_hw(image_size(self.images.path(index)))
            except DataError:
                return 1, 1

        return list(_parallel_map(size_of, indices))

    def _stored_hw(self, image_hw: tuple[int, int]) -> tuple[int, int]:
        scale = min(1.0, self.max_short_side / min(image_hw))
        return max(1, round(image_hw[0] * scale)), max(1, round(image_hw[1] * scale))


class ClassificationDataset:
    """Dataset of images with their classes, for training.

    Args:
        labels: (N,) class index of each image.
        images: The images by index: `ClassificationImages`, or a cache of them.
    """

    def __init__(self, labels: np.ndarray, images: Images):
        self.labels, self.images = labels, images

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> ImageSample:
        """Return an image with its class; raise DataError if it is unreadable."""
        return ImageSample(self.images[index], (int(self.labels[index]),), (1.0,), index)


def check_images(images: ImageFolderDataset) -> list[str]:
    """Check the headers of all files; no image is decoded.

    Returns:
        One message for each file that is missing or not an image.
    """

    def problem(index: int) -> str | None:
        try:
            image_size(images.path(index))
        except DataError as error:
            return str(error)
        return None

    problems = progress(_parallel_map(problem, range(len(images))), "checking the files", "image", len(images))
    return [line for line in problems if line is not None]


def _parallel_map(function: Callable[[int], ResultT], indices: Sequence[int]) -> Iterator[ResultT]:
    """Apply a function to all indices in threads, CHUNK indices per task; yield the results in order."""
    chunks = [indices[at : at + CHUNK] for at in range(0, len(indices), CHUNK)]
    with ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1))) as threads:
        for results in threads.map(lambda chunk: [function(index) for index in chunk], chunks):
            yield from results
