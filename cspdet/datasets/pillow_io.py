"""Decode image files with Pillow, for formats and variants that OpenCV does not decode correctly.

Pillow drops the alpha channel without premultiplying, reads more TIFF variants, and reports the reason for a failure.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

MAX_PIXELS = 178_956_970  # 536 MB as RGB; for larger images Pillow raises DecompressionBombError
ORIENTATION_TAG = 0x0112  # EXIF tag


class CorruptImageError(Exception):
    """A file is not a complete image. The message is the reason; callers add the file name."""


@contextmanager
def _open_with_pillow(file: BinaryIO) -> Iterator[Image.Image]:
    """Open an image without decoding it; errors of Pillow inside the `with` block become CorruptImageError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about invalid EXIF, and about large images below MAX_PIXELS
            with Image.open(file) as image:
                yield image
    except Image.DecompressionBombError:
        raise CorruptImageError(f"more pixels than the limit of {MAX_PIXELS}") from None
    except Image.UnidentifiedImageError:
        raise CorruptImageError("not an image of a known format") from None
    except (OSError, ValueError, SyntaxError, IndexError, TypeError, EOFError, ArithmeticError) as error:
        reason = (str(error) or repr(error)).splitlines()[0]
        raise CorruptImageError(f"corrupt or truncated image: {reason}") from None


def pillow_header(file: BinaryIO) -> tuple[str, tuple[int, int], int]:
    """Read the format, the stored (height, width) and the EXIF orientation (1 to 8) of an open image file.

    Raises:
        CorruptImageError: The file is not an image, or is invalid.
    """
    file.seek(0)
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
        upright = ImageOps.exif_transpose(image)
        if upright.mode == "F" or upright.mode.startswith("I"):
            return _grey16_to_rgb8(np.asarray(upright))
        if upright.mode in ("RGBa", "La"):
            upright = upright.convert("RGBA" if upright.mode == "RGBa" else "LA")
        return np.array(upright.convert("RGB"))


def _grey16_to_rgb8(grey: np.ndarray) -> np.ndarray:
    """Convert 16-bit grayscale (H, W), in any dtype that Pillow uses, to 8-bit (H, W, 3): 65535 becomes 255."""
    if grey.dtype.kind == "f" or int(grey.min()) < 0 or int(grey.max()) > 65535:
        raise CorruptImageError(f"pixels of type {grey.dtype} have no fixed range; expected 8 or 16 bits per channel")
    return np.repeat((grey.astype(np.uint32) // 256).astype(np.uint8)[..., None], 3, axis=-1)
