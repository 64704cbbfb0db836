"""Open image files, and read format, size and orientation from their first bytes without decoding them.

Only regular files are opened: a pipe or a device may have no end. Files are read, not memory-mapped: on a failing disk,
a read raises an exception, but access to a memory map kills the process.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from cspdet.datasets.pillow_io import MAX_PIXELS, ORIENTATION_TAG, CorruptImageError, pillow_header
from cspdet.io.text import open_file

MAX_FILE_BYTES = 8 * MAX_PIXELS  # the largest image without compression: 4 channels of 16 bits
BOMB_PIXELS, BOMB_PIXELS_PER_BYTE = 50_000_000, 1000  # more pixels, and more per byte, are a decompression bomb
HEAD_BYTES = 1 << 16  # read first; longer headers have large color profiles
JPEG_SIGNATURE, PNG_SIGNATURE = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"

STANDALONE_MARKERS = frozenset((0x01, *range(0xD0, 0xD9)))  # JPEG markers without a length
FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0-SOF15, which carry the size


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


def open_image(path: str | Path) -> BinaryIO:
    """Open a regular file that can be an image.

    Raises:
        CorruptImageError: The file is empty or too large.
        OSError: The file is missing or not readable, or a pipe or device.
    """
    file = open_file(path)
    size = os.fstat(file.fileno()).st_size
    if 0 < size <= MAX_FILE_BYTES:
        return file
    file.close()
    limit = f"{size} bytes are more than the limit of {MAX_FILE_BYTES} for an image"
    raise CorruptImageError(limit if size else "the file is empty (0 bytes)")


def parse_header(file: BinaryIO) -> ImageHeader:
    """Read the header of an open file, and check the image size before memory is allocated for the pixels.

    Raises:
        CorruptImageError: The file is not an image, is a truncated JPEG or PNG, has an invalid header, has more than
            MAX_PIXELS, or is a decompression bomb.
    """
    head = file.read(HEAD_BYTES)
    if head.startswith(JPEG_SIGNATURE):
        header = _read_jpeg_header(head, file)
    elif head.startswith(PNG_SIGNATURE):
        header = _read_png_header(head, file)
    else:
        header = ImageHeader(*pillow_header(file), channels=0)
    height, width = header.stored_hw
    num_bytes = file.seek(0, os.SEEK_END)
    if height * width > MAX_PIXELS:
        raise CorruptImageError(f"{width}x{height} pixels are more than the limit of {MAX_PIXELS}")
    if height * width > max(BOMB_PIXELS, BOMB_PIXELS_PER_BYTE * num_bytes):
        raise CorruptImageError(f"{width}x{height} pixels in {num_bytes} bytes: a decompression bomb is not decoded")
    return header


def _read_jpeg_header(head: bytes, file: BinaryIO) -> ImageHeader:
    found = _jpeg_header(head) or _jpeg_header(head + file.read())
    if found is None:
        raise CorruptImageError("truncated JPEG: the file ends before the image data")
    header, scan_start = found
    # 0xFF in the coded data is followed by 0, so 0xFFD9 after the start of the scan is the end marker
    if not _contains(file, b"\xff\xd9", scan_start):
        raise CorruptImageError("truncated JPEG: the end marker is missing")
    return header


def _jpeg_header(data: bytes) -> tuple[ImageHeader, int] | None:
    """Return the header of a JPEG and the byte offset of its first scan (ITU T.81, B); None if `data` is too short."""
    at, orientation, frame = 2, 0, None
    while at < len(data) - 9:
        marker = data[at + 1]
        if data[at] != 0xFF or marker == 0xFF or marker == 0:
            at = data.find(b"\xff", at + 1)  # fill bytes, or invalid bytes between segments, which decoders skip
            if at < 0:
                return None
            continue
        if marker in STANDALONE_MARKERS:
            at += 2
            continue
        if marker in FRAME_MARKERS:
            frame = (_uint_be(data[at + 5 : at + 7]), _uint_be(data[at + 7 : at + 9])), data[at + 9]
        elif marker == 0xE1 and not orientation and data[at + 4 : at + 10] == b"Exif\0\0":
            orientation = exif_orientation(data[at + 10 : at + 2 + _uint_be(data[at + 2 : at + 4])])
        elif marker == 0xDA:
            return (ImageHeader("JPEG", frame[0], orientation or 1, frame[1]), at) if frame else None
        elif marker == 0xD9:
            return None
        at += 2 + _uint_be(data[at + 2 : at + 4])
    return None


def _read_png_header(head: bytes, file: BinaryIO) -> ImageHeader:
    """Read the IHDR chunk and, if it precedes the pixels, the eXIf chunk (PNG specification, third edition)."""
    orientation = _png_orientation(head) or _png_orientation(head + file.read())
    if head[12:16] != b"IHDR" or not _contains(file, b"IEND", 16):
        raise CorruptImageError("truncated PNG: the IHDR or IEND chunk is missing")
    return ImageHeader("PNG", (_uint_be(head[20:24]), _uint_be(head[16:20])), orientation or 1, 0)


def _png_orientation(data: bytes) -> int | None:
    for name, at, length in png_chunks(data):
        if name == b"eXIf":
            return exif_orientation(data[at : at + length])
        if name == b"IDAT":
            return 1
    return None  # `data` ends before the pixels


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, byte offset and length of the content of each chunk of a PNG, up to IEND.

    The length is the declared one: the content may end after `data`.
    """
    at, name = 8, b""
    while at + 8 <= len(data) and name != b"IEND":
        length, name = _uint_be(data[at : at + 4]), data[at + 4 : at + 8]
        yield name, at + 8, length
        at += 12 + length


def check_png_checksums(data: bytes) -> None:
    """Check the checksums of the critical chunks of a PNG, because not every decoder checks them.

    Raises:
        CorruptImageError: A checksum is wrong, or a chunk is incomplete.
    """
    for name, at, length in png_chunks(data):
        is_critical = not name[0] & 0x20  # an upper case letter
        if is_critical and zlib.crc32(data[at - 4 : at + length]) != _uint_be(data[at + length : at + length + 4]):
            raise CorruptImageError(f"damaged PNG: wrong checksum of the chunk {name.decode('latin-1')!r}")


def exif_orientation(tiff: bytes) -> int:
    """Return the orientation, 1 to 8, of an EXIF block; 1 if the block has none.

    The orientation is tag 0x0112 of the first directory (TIFF 6.0, section 2).
    """
    order = {b"II": "little", b"MM": "big"}.get(tiff[:2])
    if order is None:
        return 1
    start = int.from_bytes(tiff[4:8], order)  # type: ignore[arg-type]
    entries = int.from_bytes(tiff[start : start + 2], order)  # type: ignore[arg-type]
    for at in range(start + 2, min(start + 2 + 12 * entries, len(tiff)), 12):
        if int.from_bytes(tiff[at : at + 2], order) == ORIENTATION_TAG:  # type: ignore[arg-type]
            value = int.from_bytes(tiff[at + 8 : at + 10], order)  # type: ignore[arg-type]
            return value if value in range(2, 9) else 1
    return 1


def _contains(file: BinaryIO, marker: bytes, start: int) -> bool:
    """Return whether `marker` begins at or after byte `start` of the file; the file is searched from its end."""
    end = file.seek(0, os.SEEK_END)
    while end > start:
        begin = max(start, end - HEAD_BYTES)
        file.seek(begin)
        if marker in file.read(end - begin + len(marker) - 1):
            return True
        end = begin
    return False


def _uint_be(raw: bytes) -> int:
    return int.from_bytes(raw, "big")
