r"""Read files whose paths come from users: regular files only, and text in UTF-8, UTF-16 or UTF-32.

A file name is a sequence of bytes. Python represents bytes that are not UTF-8 as lone surrogates (PEP 383).
`cspdet.io.atomic.write_text` writes a lone surrogate as an escape such as `\udcff`, which JSON and YAML parsers convert
back.
"""

from __future__ import annotations

import codecs
import errno
import os
import stat
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from cspdet.errors import DataError, UserError

MAX_TEXT_BYTES = 2**30  # a list of ten million images
# UTF-32 first: its mark begins with that of UTF-16
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
CONVERT_HINT = "save it as UTF-8, or convert it from its encoding (such as cp1252, GBK or Shift-JIS) to UTF-8"


def open_file(path: str | Path) -> BinaryIO:
    """Open a regular file for reading. Unlike `open`, never wait for the writer of a named pipe.

    Raises:
        OSError: The file does not exist, cannot be read, or is a folder, named pipe, socket or device.
    """
    try:
        mode = os.stat(path).st_mode
    except ValueError:  # a NUL byte in the path
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is a named pipe, socket or device; expected a regular file", str(path))
    return open(path, "rb")


def read_bytes(path: str | Path, max_bytes: int | None = None, *, error: type[UserError] = DataError) -> bytes:
    """Read a regular file of at most `max_bytes`; raise `error` if it cannot be read or is larger."""
    try:
        with open_file(path) as file:
            data = file.read(-1 if max_bytes is None else max_bytes + 1)
    except OSError as problem:
        raise error(f"{path}: {describe_os_error(problem)}") from None
    if max_bytes is not None and len(data) > max_bytes:
        raise error(f"{path}: expected at most {max_bytes:,} bytes, found more")
    return data


def read_text(
    path: str | Path, *, lists_paths: bool = False, max_bytes: int = MAX_TEXT_BYTES, error: type[UserError] = DataError
) -> str:
    r"""Read a text file; line ends become `\n`.

    Args:
        path: A regular file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark.
        lists_paths: Whether the text contains paths. If so, bytes that are not UTF-8 become lone surrogates (PEP 383).
        max_bytes: Maximum size of the file.
        error: Type of the error.

    Raises:
        UserError: The file cannot be read, is too large, or has another encoding; raised as `error`.
    """
    return decode_text(read_bytes(path, max_bytes, error=error), str(path), lists_paths=lists_paths, error=error)


def read_lines(
    path: str | Path, *, lists_paths: bool = False, max_bytes: int = MAX_TEXT_BYTES, error: type[UserError] = DataError
) -> list[str]:
    """Return the lines of a text file, without empty lines at the end. Arguments and errors: see `read_text`."""
    text = read_text(path, lists_paths=lists_paths, max_bytes=max_bytes, error=error)
    return text.rstrip("\n").split("\n")


def decode_text(data: bytes, where: str, *, lists_paths: bool = False, error: type[UserError] = DataError) -> str:
    """Decode the content of a text file; `where` is the file name for error messages. See `read_text`."""
    mark, encoding = next((pair for pair in BYTE_ORDER_MARKS if data.startswith(pair[0])), (b"", "utf-8"))
    data = data[len(mark) :]
    if encoding == "utf-8" and b"\0" in data:
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        raise error(f"{where}:{line}: not text: found a NUL byte; {CONVERT_HINT}")
    try:
        text = data.decode(encoding, "surrogateescape" if lists_paths and encoding == "utf-8" else "strict")
    except UnicodeDecodeError as problem:
        line = data[: problem.start].decode(encoding, "replace").count("\n") + 1
        found = f"found the byte 0x{data[problem.start]:02x}"
        raise error(f"{where}:{line}: not {encoding.upper()} text: {found}; {CONVERT_HINT}") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def describe_os_error(error: OSError) -> str:
    """Describe why a file cannot be read."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "is a folder; expected a file"
    return f"cannot be read: {error.strerror or error}"


def other_forms(path: str) -> Iterator[str]:
    """Yield the Unicode normal forms (NFC, NFD) of a path that differ from it.

    macOS may store file names with decomposed accents (NFD). Other systems keep the form that they are given.
    """
    for form in ("NFC", "NFD"):
        if not path.isascii() and not unicodedata.is_normalized(form, path):
            yield unicodedata.normalize(form, path)


def opencv_path(path: str | Path) -> str:
    """Return the absolute path as bytes for OpenCV. A `str` with lone surrogates would crash the process in OpenCV."""
    return cast("str", os.fsencode(os.path.abspath(path)))  # the type stubs of OpenCV do not know bytes


def is_text(text: str) -> bool:
    """Whether a string has no lone surrogate, so that it can be encoded as UTF-8."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)
