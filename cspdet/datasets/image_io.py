"""Decode image files to 8-bit RGB arrays, with their EXIF orientation applied.

The header of every file is read first (`image_header.py`), to detect truncated files, to check the size before memory
is allocated, and to get the orientation. JPEG files are decoded by libjpeg-turbo through simplejpeg, which reports
damaged data. PNG files are decoded by OpenCV. Four-channel JPEG files and all other formats are decoded by Pillow
(`pillow_io.py`).
"""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from cspdet.datasets.image_header import ImageHeader, check_png_checksums, open_image, parse_header
from cspdet.datasets.pillow_io import CorruptImageError, decode_with_pillow
from cspdet.errors import DataError

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"))

# EXIF orientation -> (whether to transpose first, flip code of cv2.flip); orientation 1 is upright
EXIF_TRANSFORMS = {
    2: (False, 1), 3: (False, -1), 4: (False, 0), 5: (True, None), 6: (True, 1), 7: (True, -1), 8: (True, 0)
}  # fmt: skip
# What libjpeg-turbo says of files that are complete but unusual; anything else means missing or wrong pixels.
UNUSUAL_JPEG = re.compile("subsampling|precision|process|color|Adobe|JFIF revision|SOS parameters", re.I)
PADDING = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0xd9")
MAX_PADDING_BYTES = 64

ResultT = TypeVar("ResultT")


def read_image(path: str | Path) -> np.ndarray:
    """Decode an image file, with its EXIF orientation applied. Of several frames or pages, the first is decoded.

    Grayscale is copied to all channels, alpha is dropped, 16 bits are scaled to 8, CMYK and palettes are converted.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        DataError: the file is missing, empty, not an image, truncated, damaged, or larger than MAX_PIXELS.
    """
    return _with_name(str(path), lambda: _read_image(path))


def decode_image(data: bytes, name: str) -> np.ndarray:
    """Decode the content of an image file, with its EXIF orientation applied.

    Args:
        data: The content of the file.
        name: Name of the image in error messages.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        DataError: The data are empty, not an image, truncated, damaged, or larger than MAX_PIXELS.
    """
    return _with_name(name, lambda: _decode(data))


def read_image_header(path: str | Path) -> ImageHeader:
    """Read format, size and orientation of an image file without decoding it.

    Raises:
        DataError: The file is missing, empty, not an image, larger than MAX_PIXELS, or a truncated JPEG or PNG.
    """
    return _with_name(str(path), lambda: _read_header(path))


def image_size(path: str | Path) -> tuple[int, int]:
    """Read the height and width of an upright image from its header.

    Raises:
        DataError: The file is missing, not an image, larger than MAX_PIXELS, or a truncated JPEG or PNG.
    """
    return read_image_header(path).size_hw


def _with_name(name: str, read: Callable[[], ResultT]) -> ResultT:
    """Call `read` and return its result; raise its errors as DataError with the name of the file."""
    try:
        return read()
    except OSError as error:
        raise DataError(f"{name}: {_describe_os_error(error)}") from None
    except (CorruptImageError, cv2.error, MemoryError) as error:
        raise DataError(f"{name}: {str(error) or 'not enough memory to decode it'}") from None


def _read_header(path: str | Path) -> ImageHeader:
    with open_image(path) as file:
        return parse_header(file)


def _read_image(path: str | Path) -> np.ndarray:
    with open_image(path) as file:
        header = parse_header(file)
        file.seek(0)
        return _decode(file.read(), header)


def _decode(data: bytes, header: ImageHeader | None = None) -> np.ndarray:
    if not data:
        raise CorruptImageError("the file is empty (0 bytes)")
    header = header or parse_header(io.BytesIO(data))
    image = None
    if header.file_format == "JPEG":
        image = _decode_jpeg(data, "CMYK" if header.channels == 4 else "RGB")
    elif header.file_format == "PNG":
        check_png_checksums(data)
        image = _decode_with_opencv(data)
    if image is None or image.shape[:2] != header.stored_hw:
        return decode_with_pillow(data)
    return _apply_exif_orientation(image, header.orientation)


def _decode_with_opencv(data: bytes) -> np.ndarray | None:
    with _opencv_silent():
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)


def _decode_jpeg(data: bytes, colorspace: str) -> np.ndarray | None:
    """Decode a JPEG to (H, W, 3) uint8 RGB; None for CMYK and other variants that Pillow has to decode.

    Raises:
        CorruptImageError: Pixels are missing or wrong, because a part of the coded data is damaged.
    """
    try:
        import simplejpeg
    except ImportError:  # built for no Python of this platform; damage is not found then
        return _decode_with_opencv(data) if colorspace == "RGB" else None
    try:
        image = simplejpeg.decode_jpeg(data, colorspace)
        return image if colorspace == "RGB" else None
    except ValueError as error:
        reason = str(error)
    if UNUSUAL_JPEG.search(reason) or _is_padded(data, reason):
        return None
    raise CorruptImageError(f"damaged JPEG: {reason.removeprefix('Corrupt JPEG data: ')}")


def _is_padded(data: bytes, message: str) -> bool:
    """Return whether the extraneous bytes that `message` reports are a few zeros, as written by some cameras."""
    match = PADDING.match(message)
    count, end = int(match[1]) if match else 0, data.rfind(b"\xff\xd9")
    return 0 < count <= MAX_PADDING_BYTES and not any(data[end - count : end])


def _describe_os_error(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such image"
    if isinstance(error, IsADirectoryError):
        return "is a folder, expected an image file"
    return f"cannot be read: {error.strerror or error}"


def _apply_exif_orientation(image: np.ndarray, orientation: int) -> np.ndarray:
    if orientation not in EXIF_TRANSFORMS:
        return image
    transpose, flip = EXIF_TRANSFORMS[orientation]
    if transpose:
        image = cv2.transpose(image)
    return image if flip is None else cv2.flip(image, flip)


_silence_lock = threading.Lock()
_silence = {"users": 0, "level": 0}


@contextmanager
def _opencv_silent() -> Iterator[None]:
    """Disable the log of OpenCV in the block, for all threads; the last thread to leave its block restores the log."""
    with _silence_lock:
        if _silence["users"] == 0:
            _silence["level"] = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        _silence["users"] += 1
    try:
        yield
    finally:
        with _silence_lock:
            _silence["users"] -= 1
            if _silence["users"] == 0:
                cv2.utils.logging.setLogLevel(_silence["level"])
