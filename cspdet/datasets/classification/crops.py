"""Preprocessing of classifier images in evaluation and prediction: resize of the short side, then one or ten crops.

    Resize(short side) ── CenterCrop(input)                       one crop
                       └─ four corners, center, all mirrored      ten crops (Krizhevsky et al. 2012, section 4.1)

The transforms are those of torchvision, applied to Pillow images. This resize antialiases when downscaling; OpenCV's
bilinear resize does not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from cspdet.datasets.config import Interpolation
from cspdet.datasets.image_io import read_image
from cspdet.datasets.pillow_io import MAX_PIXELS
from cspdet.errors import ConfigError, DataError

if TYPE_CHECKING:
    from cspdet.config.input import InputConfig
    from cspdet.models.config import ClassifierEvalConfig

NUM_TEN_CROPS = 10
READ_THREADS = 4  # threads for decoding and resizing, which release the GIL


@dataclass(frozen=True)
class ImageCrop:
    """Resize the short side of an image, then take the center crop or ten crops.

    Raises:
        ConfigError: The short side is smaller than the crop.
    """

    size_hw: tuple[int, int]  # height and width of the crop
    resize: int  # short side in pixels
    ten_crop: bool = False
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        if self.resize < max(self.size_hw):
            raise ConfigError(
                f"resize: expected the {max(self.size_hw)} pixels of the input or more, found {self.resize}"
            )

    @property
    def num_crops(self) -> int:
        """Number of crops per image."""
        return NUM_TEN_CROPS if self.ten_crop else 1

    def __call__(self, image: np.ndarray, name: str) -> np.ndarray:
        """Resize and crop an image.

        Args:
            image: (H, W, 3) uint8 RGB.
            name: Name of the image for errors.

        Returns:
            (V, 3, h, w) uint8, V crops. Ten crops are the four corners (upper left, upper right, lower left, lower
            right), the center, and the mirror images of these five.

        Raises:
            DataError: The image is so narrow that it would be resized to more than MAX_PIXELS.
        """
        height, width = image.shape[:2]
        if self.resize**2 * max(height, width) > MAX_PIXELS * min(height, width):
            raise DataError(f"{name}: {width}x{height} pixels are too narrow for a short side of {self.resize}")
        mode = InterpolationMode.BICUBIC if self.interpolation == "bicubic" else InterpolationMode.BILINEAR
        resized = functional.resize(Image.fromarray(image), [self.resize], interpolation=mode, antialias=True)
        size = list(self.size_hw)
        crops = functional.ten_crop(resized, size) if self.ten_crop else [functional.center_crop(resized, size)]
        return np.stack([np.asarray(crop).transpose(2, 0, 1) for crop in crops])


def short_side(size_hw: tuple[int, int], crop_fraction: float) -> int:
    """Return the length to which the short side of an image is resized before the crop, in pixels.

    This is the longer side of the input, divided by `crop_fraction` and rounded down: 256 / 0.887 gives 288.
    """
    return max(*size_hw, math.floor(max(size_hw) / crop_fraction + 1e-9))


def build_image_crop(input_: InputConfig, eval_: ClassifierEvalConfig, interpolation: Interpolation) -> ImageCrop:
    """Build the crop from the config of a classifier.

    Args:
        input_: Input size of the network.
        eval_: Evaluation config. Its `resize` is the short side in pixels. If `resize` is None, the short side is
            computed from `crop`.
        interpolation: Interpolation of the resize.
    """
    resize = short_side(input_.size, eval_.crop) if eval_.resize is None else eval_.resize
    return ImageCrop(input_.size, resize, eval_.ten_crop, interpolation)


class CropBatch(NamedTuple):
    """The readable images of a batch of files, and one error message for each unreadable image."""

    paths: tuple[Path, ...]
    sizes_hw: tuple[tuple[int, int], ...]  # height and width of the original images
    images: np.ndarray  # (B, V, 3, H, W) uint8 RGB, V crops per image
    problems: tuple[str, ...]


def iter_crops(paths: Sequence[Path], crop: ImageCrop, batch_size: int) -> Iterator[CropBatch]:
    """Read image files in order, in threads, and yield batches of at most `batch_size` images.

    If all files of a batch are unreadable, the batch has B = 0 images.
    """
    empty = np.empty((0, crop.num_crops, 3, *crop.size_hw), np.uint8)
    with ThreadPoolExecutor(READ_THREADS) as threads:
        for first in range(0, len(paths), batch_size):
            batch = paths[first : first + batch_size]
            results = list(threads.map(lambda path: _read_crops(path, crop), batch))
            read = [(path, *result) for path, result in zip(batch, results, strict=True) if isinstance(result, tuple)]
            yield CropBatch(
                paths=tuple(path for path, _, _ in read),
                sizes_hw=tuple(size_hw for _, size_hw, _ in read),
                images=np.stack([crops for _, _, crops in read]) if read else empty,
                problems=tuple(line for result in results if isinstance(result, DataError) for line in result.problems),
            )


def _read_crops(path: Path, crop: ImageCrop) -> tuple[tuple[int, int], np.ndarray] | DataError:
    """Read an image file; return (height, width) of the image and its crops, or the error if the file is unreadable."""
    try:
        image = read_image(path)
        return (image.shape[0], image.shape[1]), crop(image, str(path))
    except DataError as error:
        return error
