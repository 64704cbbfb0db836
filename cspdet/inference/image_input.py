"""Conversion of input images (files, bytes, arrays, tensors, PIL images) to uint8 RGB arrays."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cspdet.datasets.image_io import decode_image, read_image
from cspdet.datasets.pillow_io import pillow_to_rgb8

ImageInput = str | os.PathLike[str] | bytes | BinaryIO | np.ndarray | Tensor | Image.Image

EXPECTED = "expected a path, bytes, an array, a tensor, a PIL image, or a list of them"
CHANNELS = (1, 3, 4)  # grey, RGB, RGBA
BATCH_NDIM = 4


@dataclass(frozen=True, eq=False)
class LoadedImage:
    """An image with its origin.

    Attributes:
        pixels: (H, W, 3) uint8 RGB.
        name: The path, or `image` and the index in the list, for messages.
        path: The file; None: the image was not given as a path.
    """

    pixels: np.ndarray
    name: str
    path: Path | None = None

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[0], self.pixels.shape[1]


def is_single_image(x: object) -> bool:
    """Return whether `x` is one image, not a list or a batch (B, ...) of images.

    Raises:
        ValueError: `x` is of another type.
    """
    if isinstance(x, (np.ndarray, Tensor)):
        return x.ndim != BATCH_NDIM
    if isinstance(x, (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)) or hasattr(x, "read"):
        return True
    if not isinstance(x, Iterable) or isinstance(x, Mapping):
        raise ValueError(f"{EXPECTED}; got {type(x).__name__}")
    return False


def load_images(inputs: Iterable[ImageInput], *, bgr: bool = False) -> Iterator[LoadedImage]:
    """Load images of any supported type, one by one, in order."""
    for index, x in enumerate(inputs):
        yield load_image(x, f"image {index}", bgr=bgr)


def load_image(x: ImageInput, name: str = "image", *, bgr: bool = False) -> LoadedImage:
    """Load an image of any supported type.

    Grey is copied to all channels, alpha is dropped, 16 bits are scaled to 8, and the EXIF orientation of files and PIL
    images is applied.

    Args:
        x: A path; the content of an image file, or an open one; a PIL image; an array (H, W), (H, W, 1), (H, W, 3) or
            (H, W, 4); or a tensor (H, W) or (1 or 3 or 4, H, W). The values of arrays and tensors are uint8, uint16, or
            floats from 0 to 1.
        name: Name of the image for messages, if it is not a path.
        bgr: Whether the channels of arrays and tensors are BGR, as `cv2.imread` returns them, instead of RGB.

    Raises:
        ValueError: `x` has another type, shape or value range.
        DataError: The file is not a readable image.
    """
    if isinstance(x, (str, os.PathLike)):
        return LoadedImage(read_image(x if isinstance(x, str) else Path(x)), str(x), Path(x))
    if isinstance(x, (np.ndarray, Tensor)):
        pixels = _tensor_to_rgb8(x, name) if isinstance(x, Tensor) else _array_to_rgb8(x, name)
        return LoadedImage(np.ascontiguousarray(pixels[..., ::-1]) if bgr else pixels, name)
    if isinstance(x, Image.Image):
        return LoadedImage(pillow_to_rgb8(x, name), name)
    if isinstance(x, (bytes, bytearray, memoryview)) or hasattr(x, "read"):
        data = x.read() if hasattr(x, "read") else x
        if isinstance(data, str):
            raise ValueError(f"{name}: expected a file that is open in binary mode ('rb'), found text")
        return LoadedImage(decode_image(bytes(data), name), name)
    raise ValueError(f"{EXPECTED}; got {type(x).__name__}")


def _tensor_to_rgb8(tensor: Tensor, name: str) -> np.ndarray:
    on_cpu = tensor.detach().cpu()
    if on_cpu.dtype == torch.bfloat16:
        on_cpu = on_cpu.float()
    if tensor.ndim == 3:
        if tensor.shape[0] not in CHANNELS:
            hint = "; use tensor.permute(2, 0, 1)" if tensor.shape[2] in CHANNELS else ""
            raise ValueError(f"{name}: expected a tensor (3, H, W) or (H, W), found {tuple(tensor.shape)}{hint}")
        on_cpu = on_cpu.permute(1, 2, 0)
    return _array_to_rgb8(on_cpu.numpy(), name)


def _array_to_rgb8(array: np.ndarray, name: str) -> np.ndarray:
    shape = array.shape
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in CHANNELS or 0 in shape:
        hint = "; use array.transpose(1, 2, 0)" if array.ndim == 3 and shape[0] in CHANNELS else ""
        raise ValueError(f"{name}: expected an array (H, W, 3) or (H, W), found {shape} {array.dtype}{hint}")
    values = _to_uint8(array[..., :3], name)
    return np.ascontiguousarray(np.broadcast_to(values, (*shape[:2], 3)))


def _to_uint8(values: np.ndarray, name: str) -> np.ndarray:
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.uint16:
        return (values // 256).astype(np.uint8)
    if values.dtype.kind != "f":
        raise ValueError(f"{name}: expected uint8, uint16, or floats from 0 to 1, found {values.dtype}")
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):  # also if a value is not a number
        hint = "; divide by 255" if 1 < high <= 255 else ""
        raise ValueError(f"{name}: expected {values.dtype} values from 0 to 1, found {low:g} to {high:g}{hint}")
    return (values * 255).round().astype(np.uint8)
