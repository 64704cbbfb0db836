"""Decode image files with Pillow, for formats and variants that OpenCV does not decode correctly.

Pillow drops the alpha channel without premultiplying, reads more TIFF variants, and reports the reason for a failure.
"""

from __future__ import annotations

import io
import itertools
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from cspdet.errors import DataError

# What Pillow may open, whatever the name of a file is: some of its other formats start programs, as EPS does.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF")
ANIMATED_FORMATS = frozenset(("GIF", "WEBP", "PNG"))
DEFAULT_DURATION_MS = 100  # of a frame without one, as in browsers
STRIP_ROWS = 1024  # rows that are converted to RGB at a time, to limit the memory of large images

MAX_PIXELS = 178_956_970  # 536 MB as RGB; Pillow raises DecompressionBombError for larger images
SUBFILE_TYPE_TAG = 254  # of TIFF; bit 0: a smaller copy of another page
ORIENTATION_TAG = 0x0112  # of EXIF
# Pillow raises these for damaged files, depending on the format.
PILLOW_ERRORS = (
    OSError, ValueError, SyntaxError, IndexError, KeyError, TypeError, AttributeError, EOFError, ArithmeticError,
    MemoryError, RuntimeError, NotImplementedError, struct.error, zlib.error,
)  # fmt: skip


class CorruptImageError(Exception):
    """A file is not a complete image. The message is the reason; callers add the file name."""


@contextmanager
def _pillow_errors() -> Iterator[None]:
    """Raise Pillow's errors in the block as CorruptImageError; ignore its warnings."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about invalid EXIF, and about large images below MAX_PIXELS
            yield
    except Image.DecompressionBombError:
        raise CorruptImageError(f"more pixels than the limit of {MAX_PIXELS}") from None
    except Image.UnidentifiedImageError:
        raise CorruptImageError(f"not an image of a known format ({', '.join(FORMATS)})") from None
    except PILLOW_ERRORS as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise CorruptImageError(f"cannot be read: {error.strerror}") from None  # a failing disk
        reason = (str(error) or repr(error)).splitlines()[0]
        raise CorruptImageError(f"corrupt or truncated image: {reason}") from None


@contextmanager
def _open_with_pillow(file: BinaryIO) -> Iterator[Image.Image]:
    """Open an image without decoding it; errors of Pillow inside the block become CorruptImageError."""
    file.seek(0)
    with _pillow_errors(), Image.open(file, formats=FORMATS) as image:
        yield image


def pillow_header(file: BinaryIO) -> tuple[str, tuple[int, int], int]:
    """Read the header of an open image file.

    Returns:
        Name of the format in Pillow; (height, width) as stored; EXIF orientation, 1 to 8. For TIFF, height and width
        are those of the upright image, and the orientation is 1.

    Raises:
        CorruptImageError: The file is not an image, or is invalid.
    """
    with _open_with_pillow(file) as image:
        # For TIFF, Pillow applies the orientation while decoding, and reports the size after that.
        orientation = 1 if image.format == "TIFF" else image.getexif().get(ORIENTATION_TAG, 1)
        return image.format or "", (image.height, image.width), orientation if orientation in range(2, 9) else 1


def decode_with_pillow(data: bytes) -> np.ndarray:
    """Decode an image and apply its EXIF orientation.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        CorruptImageError: The file is not an image, is truncated, or its pixel type has no fixed range.
    """
    with _open_with_pillow(io.BytesIO(data)) as image:
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return _to_rgb(image)


def pillow_to_rgb8(image: Image.Image, name: str) -> np.ndarray:
    """Convert an image of Pillow to (H, W, 3) uint8 RGB, with its EXIF orientation applied; `name` is for errors.

    Raises:
        DataError: The file of the image is truncated, or the type of its pixels has no fixed range.
    """
    try:
        with _pillow_errors():
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
    except CorruptImageError as error:
        raise DataError(f"{name}: {error}") from None


def is_animated(file: BinaryIO) -> bool:
    """Return whether an open GIF, WebP or PNG file has several frames.

    Raises:
        CorruptImageError: The file is not an image, or is invalid.
    """
    with _open_with_pillow(file) as image:
        return bool(getattr(image, "is_animated", False))


def animation_frames(file: BinaryIO) -> Iterator[tuple[np.ndarray, int]]:
    """Yield each frame of an animated image as (H, W, 3) uint8 RGB, with its duration in milliseconds.

    Raises:
        CorruptImageError: A frame is damaged or missing.
    """
    file.seek(0)
    with _pillow_errors():
        image = Image.open(file, formats=FORMATS)
    for index in itertools.count():
        with _pillow_errors():
            try:
                image.seek(index)
            except EOFError:
                return
            image.load()
            frame = _to_rgb(image), max(1, round(image.info.get("duration") or DEFAULT_DURATION_MS))
        yield frame


def count_pages(file: BinaryIO) -> int:
    """Return the number of pages of an open TIFF file, without reduced-resolution copies of other pages."""
    pages = 0
    with _open_with_pillow(file) as image:
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            pages += not image.tag_v2.get(SUBFILE_TYPE_TAG, 0) & 1  # type: ignore[attr-defined]
    return pages


def count_frames(file: BinaryIO) -> int:
    """Return the number of frames of an open image file; raise CorruptImageError if the file is not an image."""
    with _open_with_pillow(file) as image:
        return getattr(image, "n_frames", 1)


def _to_rgb(image: Image.Image) -> np.ndarray:
    """Convert a decoded image to (H, W, 3) uint8 RGB, some rows at a time."""
    if image.mode == "F" or image.mode.startswith("I"):
        return _grey16_to_rgb8(np.asarray(image))
    rgb = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, STRIP_ROWS):
        strip = image.crop((0, top, image.width, min(top + STRIP_ROWS, image.height)))
        if strip.mode in ("RGBa", "La"):
            strip = strip.convert("RGBA" if strip.mode == "RGBa" else "LA")
        rgb[top : top + strip.height] = np.asarray(strip.convert("RGB"))
    return rgb


def _grey16_to_rgb8(grey: np.ndarray) -> np.ndarray:
    """Convert 16-bit grayscale (H, W) to uint8 (H, W, 3).

    Raise CorruptImageError for floating-point values and for values outside 0 to 65535.
    """
    if grey.dtype.kind == "f" or int(grey.min()) < 0 or int(grey.max()) > 65535:
        raise CorruptImageError(f"pixels of type {grey.dtype} have no fixed range; expected 8 or 16 bits per channel")
    return np.repeat((grey.astype(np.uint32) // 256).astype(np.uint8)[..., None], 3, axis=-1)
