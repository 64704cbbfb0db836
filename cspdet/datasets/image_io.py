"""Decode image files to 8-bit RGB arrays, with their EXIF orientation applied.

OpenCV decodes JPEG and PNG files. Their headers are read first, to detect truncated files, to check the size before
memory is allocated, and to get the orientation. Pillow decodes four-channel JPEG files and all other formats
(`pillow_io.py`).
"""

from __future__ import annotations

import io
import mmap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import cv2
import numpy as np

from cspdet.datasets.pillow_io import (
    MAX_PIXELS,
    ORIENTATION_TAG,
    CorruptImageError,
    decode_with_pillow,
    pillow_header,
)
from cspdet.errors import DataError

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"))

# EXIF orientation -> (whether to transpose first, flip code of cv2.flip); orientation 1 is upright
EXIF_TRANSFORMS = {
    2: (False, 1), 3: (False, -1), 4: (False, 0), 5: (True, None), 6: (True, 1), 7: (True, -1), 8: (True, 0)
}  # fmt: skip
STANDALONE_MARKERS = frozenset((0x01, *range(0xD0, 0xD9)))  # JPEG markers without a length
FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0-SOF15, which contain the size

Buffer = bytes | mmap.mmap


class ImageHeader(NamedTuple):
    """Metadata in the header of an image file."""

    file_format: str  # "JPEG", "PNG", or the name in Pillow
    stored_hw: tuple[int, int]  # height, width as stored
    orientation: int  # EXIF, 1 to 8
    channels: int  # of a JPEG; 0 for other formats

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width after the EXIF orientation is applied."""
        return self.stored_hw[::-1] if self.orientation >= 5 else self.stored_hw


def _decode(data: bytes) -> np.ndarray:
    """Decode with OpenCV if its result is exact; if not, with Pillow."""
    header = _parse_header(data, io.BytesIO(data))
    image = None
    if header.file_format == "PNG" or (header.file_format == "JPEG" and header.channels != 4):
        with _opencv_silent():
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None or image.shape[:2] != header.stored_hw:
        return decode_with_pillow(data)
    return _apply_exif_orientation(image, header.orientation)


def read_image(path: str | Path) -> np.ndarray:
    """Decode an image file, with its EXIF orientation applied.

    Grayscale is copied to all channels, alpha is dropped, 16 bits are scaled to 8, CMYK and palettes are converted.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        DataError: The file is missing, empty, not an image, truncated, or larger than MAX_PIXELS.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
        if not data:
            raise CorruptImageError("the file is empty (0 bytes)")
        return _decode(data)
    except OSError as error:
        raise DataError(f"{path}: {_describe_os_error(error)}") from None
    except (CorruptImageError, cv2.error) as corrupt:
        raise DataError(f"{path}: {corrupt}") from None


def read_image_header(path: str | Path) -> ImageHeader:
    """Read format, size and orientation of an image file without decoding it.

    Raises:
        DataError: The file is missing, empty, not an image, or larger than MAX_PIXELS, or a truncated JPEG or PNG file.
    """
    try:
        with open(path, "rb") as file:
            if not file.read(1):
                raise CorruptImageError("the file is empty (0 bytes)")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _parse_header(data, file)
    except OSError as error:
        raise DataError(f"{path}: {_describe_os_error(error)}") from None
    except CorruptImageError as corrupt:
        raise DataError(f"{path}: {corrupt}") from None


def image_size(path: str | Path) -> tuple[int, int]:
    """Read the height and width of an upright image from its header.

    Raises:
        DataError: The header cannot be read, see `read_image_header`.
    """
    return read_image_header(path).size_hw


def _describe_os_error(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such image"
    if isinstance(error, IsADirectoryError):
        return "is a folder, expected an image file"
    return f"cannot be read: {error.strerror or error}"


def _parse_header(data: Buffer, file: BinaryIO) -> ImageHeader:
    if data[:2] == b"\xff\xd8":
        header = _jpeg_header(data)
    elif data[:8] == b"\x89PNG\r\n\x1a\n":
        header = _png_header(data)
    else:
        header = ImageHeader(*pillow_header(file), channels=0)
    height, width = header.stored_hw
    if height * width > MAX_PIXELS:
        raise CorruptImageError(f"{width}x{height} pixels are more than the limit of {MAX_PIXELS}")
    return header


def _jpeg_header(data: Buffer) -> ImageHeader:
    """Read the marker segments up to the first scan (ITU T.81, annex B); the file must end with the end marker."""
    at, orientation, frame = 2, 0, None
    end = len(data)
    while 0 <= at < end - 3:
        marker = data[at + 1]
        if data[at] != 0xFF or marker == 0xFF or marker == 0:
            at = data.find(b"\xff", at + 1)  # fill bytes, or invalid bytes between segments, which decoders skip
            continue
        if marker in STANDALONE_MARKERS:
            at += 2
            continue
        if marker in FRAME_MARKERS and at + 10 <= end:
            frame = (_uint_be(data[at + 5 : at + 7]), _uint_be(data[at + 7 : at + 9])), data[at + 9]
        elif marker == 0xE1 and not orientation and data[at + 4 : at + 10] == b"Exif\0\0":
            orientation = _exif_orientation(data[at + 10 : at + 2 + _uint_be(data[at + 2 : at + 4])])
        elif marker == 0xDA:
            if frame is None:
                break
            # 0xFF in the coded data is followed by 0, so 0xFFD9 after the start of the scan is the end marker
            if data.rfind(b"\xff\xd9", at) < 0:
                raise CorruptImageError("truncated JPEG: the end marker is missing")
            return ImageHeader("JPEG", frame[0], orientation or 1, frame[1])
        elif marker == 0xD9:
            break
        at += 2 + _uint_be(data[at + 2 : at + 4])
    raise CorruptImageError("truncated JPEG: the file ends before the image data")


def _png_header(data: Buffer) -> ImageHeader:
    """Read IHDR, and eXIf if it precedes the pixels (PNG specification, third edition)."""
    if data[12:16] != b"IHDR" or data.rfind(b"IEND") < 0:
        raise CorruptImageError("truncated PNG: the IHDR or IEND chunk is missing")
    size_hw = _uint_be(data[20:24]), _uint_be(data[16:20])
    at, orientation = 33, 1
    while at < len(data):
        length, name = _uint_be(data[at : at + 4]), data[at + 4 : at + 8]
        if name == b"eXIf":
            orientation = _exif_orientation(data[at + 8 : at + 8 + length])
        if name in (b"eXIf", b"IDAT", b"IEND"):
            break
        at += 12 + length
    return ImageHeader("PNG", size_hw, orientation, 0)


def _uint_be(raw: bytes) -> int:
    return int.from_bytes(raw, "big")


def _exif_orientation(tiff: bytes) -> int:
    """Return the orientation in an EXIF block: tag 0x0112 of the first directory (TIFF 6.0, section 2), or 1."""
    order = {b"II": "little", b"MM": "big"}.get(tiff[:2])
    if order is None:
        return 1
    start = int.from_bytes(tiff[4:8], order)  # type: ignore[arg-type]
    entries = int.from_bytes(tiff[start : start + 2], order)  # type: ignore[arg-type]
    for at in range(start + 2, min(start + 2 + 12 * entries, len(tiff)), 12):
        if int.from_bytes(tiff[at : at + 2], order) == ORIENTATION_TAG:  # type: ignore[arg-type]
            value = int.from_bytes(tiff[at + 8 : at + 10], order)  # type: ignore[arg-type]
            return value if value in EXIF_TRANSFORMS else 1
    return 1


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
    """Disable the log of OpenCV, because errors are raised as DataError; the last thread restores the log level."""
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
