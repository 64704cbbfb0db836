"""What a classifier sees of a picture when it is judged or used: the short side resized, then a crop.

    Resize(short side) ── CenterCrop(input)                       one view
                       └─ four corners, center, all mirrored      ten views (Krizhevsky et al. 2012, section 4.1)

The pixels are those of torchvision's Resize, CenterCrop and TenCrop on a Pillow picture, which do the work: when
shrinking, every pixel counts (antialiased), unlike in OpenCV's bilinear resize.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from cspdet.datasets.image_io import MAX_PIXELS
from cspdet.errors import ConfigError, DataError

if TYPE_CHECKING:
    from cspdet.recipe import ClassifierEvalConfig, InputConfig

Interpolation = Literal["bilinear", "bicubic"]
INTERPOLATIONS: tuple[str, ...] = get_args(Interpolation)
NUM_TEN_CROPS = 10  # of a ten-crop


@dataclass(frozen=True)
class ImageCrop:
    """The short side becomes `resize` pixels, and `size_hw` are cut out of that: from the center, or ten times.

    Raises:
        ConfigError: a short side that the crop does not fit into.
    """

    size_hw: tuple[int, int]
    resize: int
    ten_crop: bool = False
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        if self.resize < max(self.size_hw):
            raise ConfigError(
                f"resize: expected the {max(self.size_hw)} pixels of the input or more, found {self.resize}"
            )

    @property
    def num_crops(self) -> int:
        """Crops of a picture."""
        return NUM_TEN_CROPS if self.ten_crop else 1

    def __call__(self, image: np.ndarray, name: str) -> np.ndarray:
        """(H, W, 3) uint8 RGB to (views, 3, h, w) uint8; a ten-crop is corners by rows, center, and these mirrored.

        Raises:
            DataError: picture `name` is so narrow that it would become larger than pictures may be.
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
    """The short side of which an input of `size_hw` shows `share`: 288 for 256x256 and 0.887."""
    return max(*size_hw, math.floor(max(size_hw) / crop_fraction + 1e-9))


def build_image_crop(input_: InputConfig, eval_: ClassifierEvalConfig, interpolation: Interpolation) -> ImageCrop:
    """Make the crop that a classifier's config describes.

    Args:
        input_: Input size of the network.
        eval_: Short side (`resize`, else the input's size over `crop`) and ten-crop.
        interpolation: Of the resizing.
    """
    resize = short_side(input_.size, eval_.crop) if eval_.resize is None else eval_.resize
    return ImageCrop(input_.size, resize, eval_.ten_crop, interpolation)
