"""Mark annotated images and videos as written by cspdet, so that a later run can recognize and replace these files."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

TEXT = b"annotated by cspdet"


def mark_image(data: bytes) -> bytes:
    """Return an encoded image with TEXT added to it.

    TEXT is a comment segment in JPEG, and a text chunk in PNG. In other formats, TEXT follows the image.

    Args:
        data: The encoded image.
    """
    if data.startswith(b"\xff\xd8"):  # after the start of the image, and APP0 of JFIF, which has to be first
        at = 4 + int.from_bytes(data[4:6], "big") if data[2:4] == b"\xff\xe0" else 2
        return data[:at] + struct.pack(">2sH", b"\xff\xfe", len(TEXT) + 2) + TEXT + data[at:]
    if data.startswith(b"\x89PNG"):  # after IHDR, which is first and has 25 bytes
        chunk = b"tEXtComment\0" + TEXT
        return data[:33] + struct.pack(">I", len(TEXT) + 8) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]
    return data + TEXT


def mark_video(path: Path) -> None:
    """Append TEXT to an mp4 file, in a `free` box, which players skip."""
    with path.open("ab") as file:
        file.write(struct.pack(">I4s", 8 + len(TEXT), b"free") + TEXT)
