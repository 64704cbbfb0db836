"""Integrity of files with weights: a damaged file is refused before its weights are used.

Checkpoints and TorchScript files are zip archives, which store a CRC-32 of each entry. torch does not verify the
CRC-32. ONNX and OpenVINO have no checksum, so `cspdet export` stores one in the metadata of the file: the SHA-256 of
the file with zeros in place of the checksum. For OpenVINO, the SHA-256 covers the .xml file followed by the .bin file.
`cspdet.io.safetensors_file` stores and checks such a checksum too.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
import zlib
from pathlib import Path

from cspdet.errors import CheckpointError

CHECKSUM_KEY = "checksum"
UNSET_CHECKSUM = '"' + "0" * 64 + '"'  # what an exporter stores, as JSON, for `write_checksum` to replace

# What precedes the digits of the checksum: the end of the key and the start of the value.
_ONNX_MARKER = b'checksum\x12\x42"'  # protobuf
_XML_SECTION, _XML_MARKER = (
    b"<cspdet>",
    b'<checksum value="&quot;',
)  # OpenVINO copies the keys of ONNX to other sections
_ZEROS = b"0" * 64
_HEX = re.compile(rb"[0-9a-f]{64}")

MAX_EXPANSION = 20  # ratio of the unpacked size of an archive to its file; torch compresses only code
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, NotImplementedError, ValueError)


def check_integrity(path: Path) -> None:
    """Raise CheckpointError if the content of a file does not match its checksum. Without checksum, accept the file."""
    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
    if is_zip:
        problem = _zip_problem(path)
        if problem is not None:
            raise CheckpointError(f"{path}: the file is damaged ({problem}); use an intact copy")
        return
    if path.suffix == ".xml" and not path.with_suffix(".bin").is_file():
        return  # the engine reports it
    data = path.read_bytes()
    position = _find_checksum(path, data)
    if position is not None and data[position : position + 64] != _compute_checksum(path, data, position):
        raise CheckpointError(
            f"{path}: the file is damaged, or was changed by another program: its content does not match the "
            f"{CHECKSUM_KEY} in its metadata; export the model again"
        )


def write_checksum(path: Path) -> None:
    """Replace `UNSET_CHECKSUM` in the metadata of an exported file by the checksum. Without this entry, do nothing."""
    data = path.read_bytes()
    position = _find_checksum(path, data)
    if position is not None:
        with path.open("rb+") as file:
            file.seek(position)
            file.write(_compute_checksum(path, data, position))


def _zip_problem(path: Path) -> str | None:
    """Return an error message if a zip archive is damaged or its compression ratio exceeds MAX_EXPANSION, else None."""
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_EXPANSION * path.stat().st_size:
                return "its entries are compressed too much"
            damaged = archive.testzip()
    except _ZIP_ERRORS as error:
        return str(error).splitlines()[0][:120] if str(error) else type(error).__name__
    return None if damaged is None else f"the checksum of {damaged!r} is wrong"


def _find_checksum(path: Path, data: bytes) -> int | None:
    """Return the byte offset of the checksum (64 hex digits) in `data`, the content of `path`; None: no checksum."""
    if path.suffix == ".xml":
        section = data.find(_XML_SECTION)
        position, length = data.find(_XML_MARKER, section) if section >= 0 else -1, len(_XML_MARKER)
    else:
        position, length = data.rfind(_ONNX_MARKER), len(_ONNX_MARKER)
    start = position + length
    return start if position >= 0 and _HEX.fullmatch(data, start, start + 64) else None


def _compute_checksum(path: Path, data: bytes, position: int) -> bytes:
    others = (path.with_suffix(".bin").read_bytes(),) if path.suffix == ".xml" else ()
    return digest_without(data, position, *others).encode()


def digest_without(data: bytes | bytearray, position: int, *others: bytes) -> str:
    """Return the hex SHA-256 of `data` followed by `others`; the 64 bytes of `data` at `position` count as zeros."""
    digest = hashlib.sha256(memoryview(data)[:position])
    digest.update(_ZEROS)
    digest.update(memoryview(data)[position + 64 :])
    for other in others:
        digest.update(other)
    return digest.hexdigest()
