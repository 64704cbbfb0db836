"""Pictures from files: whatever the file holds, 8-bit RGB comes out, turned the way its EXIF says.

JPEG and PNG, nearly all of every data set, are decoded by OpenCV after a look at their headers, which is
cheap and finds what OpenCV does not tell: truncation, the size before memory is spent on it, the orientation.
The rest is Pillow's: it drops alpha without multiplying by it, knows every TIFF, and says why it fails.
"""

from __future__ import annotations

import io
import mmap
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageOps

from cspdet.errors import DataError

MAX_PIXELS = 178_956_970  # beyond this Pillow, too, takes a file for a decompression bomb; 536 MB as RGB
IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"))

ORIENTATION_TAG = 0x0112
# EXIF orientation to (transpose first, then the code that cv2.flip takes); 1 is upright
EXIF_TRANSFORMS = {
    2: (False, 1), 3: (False, -1), 4: (False, 0), 5: (True, None), 6: (True, 1), 7: (True, -1), 8: (True, 0)
}  # fmt: skip
STANDALONE_MARKERS = frozenset((0x01, *range(0xD0, 0xD9)))  # JPEG markers without a length
FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0-SOF15, which carry the size

Buffer = bytes | mmap.mmap


class ImageHeader(NamedTuple):
    """What a picture file says about itself before it is decoded."""

    file_format: str  # "JPEG", "PNG", or Pillow's name of the format
    stored_hw: tuple[int, int]  # height, width as stored
    orientation: int  # EXIF, 1 to 8
    channels: int  # of a JPEG; 0 where it does not matter

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width once the EXIF orientation is applied."""
        return self.stored_hw[::-1] if self.orientation >= 5 else self.stored_hw


class _CorruptImageError(Exception):
    """Why a file is no whole picture, in words; the callers add its name."""


def read_image(path: str | Path) -> np.ndarray:
    """Decode a file to (H, W, 3) uint8 RGB with its EXIF orientation applied.

    Grey is repeated over the channels, alpha dropped, 16 bits scaled to 8, CMYK and palettes converted.

    Raises:
        DataError: one line naming the file: missing, empty, no picture, truncated, or larger than MAX_PIXELS.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
        if not data:
            raise _CorruptImageError("the file is empty (0 bytes)")
        header = _parse_header(data, io.BytesIO(data))
        image = None
        if header.file_format == "PNG" or (header.file_format == "JPEG" and header.channels != 4):
            with _opencv_silent():
                image = cv2.imdecode(
                    np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
                )
        if image is None or image.shape[:2] != header.stored_hw:
            return _decode_with_pillow(data)
        return _apply_exif_orientation(image, header.orientation)
    except OSError as error:
        raise DataError(f"{path}: {_describe_os_error(error)}") from None
    except (_CorruptImageError, cv2.error) as corrupt:
        raise DataError(f"{path}: {corrupt}") from None


def read_image_header(path: str | Path) -> ImageHeader:
    """Kind, size and orientation of a picture file, not decoded; a JPEG or PNG without its end is an error.

    Raises:
        DataError: as `read_picture`, as far as the header and the end of the file show it.
    """
    try:
        with open(path, "rb") as file:
            if not file.read(1):
                raise _CorruptImageError("the file is empty (0 bytes)")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _parse_header(data, file)
    except OSError as error:
        raise DataError(f"{path}: {_describe_os_error(error)}") from None
    except _CorruptImageError as corrupt:
        raise DataError(f"{path}: {corrupt}") from None


def image_size(path: str | Path) -> tuple[int, int]:
    """Height and width of what `read_picture` would return, from the header; raises DataError likewise."""
    return read_image_header(path).size_hw


def _describe_os_error(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such picture"
    if isinstance(error, IsADirectoryError):
        return "is a folder, expected a picture"
    return f"cannot be read: {error.strerror or error}"


def _parse_header(data: Buffer, file: BinaryIO) -> ImageHeader:
    if data[:2] == b"\xff\xd8":
        header = _jpeg_header(data)
    elif data[:8] == b"\x89PNG\r\n\x1a\n":
        header = _png_header(data)
    else:
        header = _pillow_header(file)
    height, width = header.stored_hw
    if height * width > MAX_PIXELS:
        raise _CorruptImageError(f"{width}x{height} pixels are more than the {MAX_PIXELS} that a picture may have")
    return header


def _jpeg_header(data: Buffer) -> ImageHeader:
    """Walk the marker segments up to the first scan (ITU T.81, annex B); the end marker must follow it."""
    at, orientation, frame = 2, 0, None
    end = len(data)
    while 0 <= at < end - 3:
        marker = data[at + 1]
        if data[at] != 0xFF or marker == 0xFF or marker == 0:
            at = data.find(b"\xff", at + 1)  # fill bytes, or rubbish between segments, which decoders skip
            continue
        if marker in STANDALONE_MARKERS:
            at += 2
            continue
        if marker in FRAME_MARKERS and at + 10 <= end:
            frame = (_big_endian_int(data[at + 5 : at + 7]), _big_endian_int(data[at + 7 : at + 9])), data[at + 9]
        elif marker == 0xE1 and not orientation and data[at + 4 : at + 10] == b"Exif\0\0":
            orientation = _exif_orientation(data[at + 10 : at + 2 + _big_endian_int(data[at + 2 : at + 4])])
        elif marker == 0xDA:
            if frame is None:
                break
            # 0xFF in the coded data is followed by 0, so behind the scan's start 0xFFD9 is the end marker
            if data.rfind(b"\xff\xd9", at) < 0:
                raise _CorruptImageError("truncated JPEG: the end marker is missing")
            return ImageHeader("JPEG", frame[0], orientation or 1, frame[1])
        elif marker == 0xD9:
            break
        at += 2 + _big_endian_int(data[at + 2 : at + 4])
    raise _CorruptImageError("truncated JPEG: the file ends before the picture begins")


def _png_header(data: Buffer) -> ImageHeader:
    """IHDR, and eXIf where it stands before the pixels (PNG specification, third edition)."""
    if data[12:16] != b"IHDR" or data.rfind(b"IEND") < 0:
        raise _CorruptImageError("truncated PNG: the IHDR or IEND chunk is missing")
    size_hw = _big_endian_int(data[20:24]), _big_endian_int(data[16:20])
    at, orientation = 33, 1
    while at < len(data):
        length, name = _big_endian_int(data[at : at + 4]), data[at + 4 : at + 8]
        if name == b"eXIf":
            orientation = _exif_orientation(data[at + 8 : at + 8 + length])
        if name in (b"eXIf", b"IDAT", b"IEND"):
            break
        at += 12 + length
    return ImageHeader("PNG", size_hw, orientation, 0)


def _big_endian_int(raw: bytes) -> int:
    return int.from_bytes(raw, "big")


def _exif_orientation(tiff: bytes) -> int:
    """The orientation in an EXIF block: entry 0x0112 of its first directory (TIFF 6.0, section 2), or 1."""
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


@contextmanager
def _open_with_pillow(file: BinaryIO) -> Iterator[Image.Image]:
    """The opened, not yet decoded picture; what Pillow raises inside the block becomes _Damage."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd EXIF blocks, sizes that MAX_PIXELS allows
            with Image.open(file) as image:
                yield image
    except Image.DecompressionBombError:
        raise _CorruptImageError(f"more than the {MAX_PIXELS} pixels that a picture may have") from None
    except Image.UnidentifiedImageError:
        raise _CorruptImageError("not a picture of a known format") from None
    except (OSError, ValueError, SyntaxError, IndexError, TypeError, EOFError, ArithmeticError) as error:
        reason = (str(error) or repr(error)).splitlines()[0]
        raise _CorruptImageError(f"damaged or truncated picture: {reason}") from None


def _pillow_header(file: BinaryIO) -> ImageHeader:
    file.seek(0)
    with _open_with_pillow(file) as image:
        # Pillow turns a TIFF itself while decoding it, and its size is that of the turned picture
        orientation = 1 if image.format == "TIFF" else image.getexif().get(ORIENTATION_TAG, 1)
        orientation = orientation if orientation in EXIF_TRANSFORMS else 1
        return ImageHeader(image.format or "", (image.height, image.width), orientation, 0)


def _decode_with_pillow(data: bytes) -> np.ndarray:
    with _open_with_pillow(io.BytesIO(data)) as image:
        image.load()
        upright = ImageOps.exif_transpose(image)
        if upright.mode == "F" or upright.mode.startswith("I"):
            return _grey16_to_rgb8(np.asarray(upright))
        if upright.mode in ("RGBa", "La"):
            upright = upright.convert("RGBA" if upright.mode == "RGBa" else "LA")
        return np.array(upright.convert("RGB"))


def _grey16_to_rgb8(grey: np.ndarray) -> np.ndarray:
    """(H, W) grey of 16 bits, in whatever type Pillow keeps it, to (H, W, 3) of 8 bits: 65535 becomes 255."""
    if grey.dtype.kind == "f" or int(grey.min()) < 0 or int(grey.max()) > 65535:
        raise _CorruptImageError(f"pixels of type {grey.dtype} have no fixed range; expected 8 or 16 bits a channel")
    return np.repeat((grey.astype(np.uint32) // 256).astype(np.uint8)[..., None], 3, axis=-1)


_silence_lock = threading.Lock()
_silence = {"users": 0, "level": 0}


@contextmanager
def _opencv_silent() -> Iterator[None]:
    """Keep OpenCV from logging what becomes a DataError anyway; the last to leave puts the level back."""
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
