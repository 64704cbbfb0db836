"""The content of a checkpoint as a safetensors file: tensors, and metadata as JSON text. Such a file has no code.

Weights in fp16 are converted to float32 when they are read. Tensors with at most one axis, such as the statistics of
batch normalization, are always stored in fp32. The metadata has a checksum: the SHA-256 of the file with zeros in place
of the checksum.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from cspdet.errors import CheckpointError
from cspdet.io.atomic import write_bytes
from cspdet.io.integrity import CHECKSUM_KEY, digest_without

MAX_HEADER_BYTES = 2**23  # of names, shapes and metadata; a network of 1,000 layers has about 500 KB
FORMAT = "cspdet 2"  # of checkpoints
METADATA_KEY = "__metadata__"
FORMAT_KEY = "format"
JSON_KEYS = ("program", "task", "config", "class_names", "category_ids", "info")
_ZEROS = "0" * 64


def write_content(path: Path, content: Mapping[str, Any], *, half: bool = False) -> None:
    """Write the content of a checkpoint, without its training state. Equal contents give equal files.

    Args:
        path: The file.
        content: The entries of `JSON_KEYS`, `format` and `weights`.
        half: Whether weights are stored in fp16.

    Raises:
        CheckpointError: A weight is too large for fp16.
        UserError: The file cannot be written.
    """
    weights = {name: _to_stored(name, value, half=half) for name, value in content["weights"].items()}
    metadata = {key: json.dumps(content[key], allow_nan=False) for key in JSON_KEYS} | {
        FORMAT_KEY: content[FORMAT_KEY],
        "precision": "fp16" if half else "fp32",
        "weights_sha256": weights_sha256(weights),
        CHECKSUM_KEY: _ZEROS,
    }
    data = bytearray(_serialize(weights, metadata))
    start = data.index(f'"{CHECKSUM_KEY}":"{_ZEROS}'.encode()) + len(CHECKSUM_KEY) + 4
    data[start : start + 64] = digest_without(data, start).encode()
    write_bytes(path, bytes(data))


def _to_stored(name: str, value: Tensor, *, half: bool) -> Tensor:
    value = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    if not (half and value.is_floating_point() and value.ndim > 1):
        return value
    if value.abs().max() > torch.finfo(torch.float16).max:
        raise CheckpointError(f"{name}: its values are too large for fp16; use --precision fp32")
    return value.half()


def _serialize(weights: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """Return the bytes of a file. The library writes the metadata in random order; here the keys are sorted."""
    data = safetensors.torch.save(weights, metadata)
    end = 8 + int.from_bytes(data[:8], "little")
    header = {METADATA_KEY: dict(sorted(metadata.items()))} | {
        name: value for name, value in json.loads(data[8:end]).items() if name != METADATA_KEY
    }
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[end:]


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the names, shapes and float32 values of weights; it is equal in every file format."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        plain = value.float() if value.is_floating_point() else value
        digest.update(f"{name} {plain.dtype} {list(plain.shape)}\n".encode("utf-8", "backslashreplace"))
        digest.update(plain.contiguous().numpy().tobytes())
    return digest.hexdigest()


def is_checkpoint(path: Path) -> bool:
    """Return whether a safetensors file has the metadata of cspdet.

    Raises:
        CheckpointError: The file is missing or damaged.
    """
    return str(read_metadata(path).get(FORMAT_KEY)).startswith("cspdet ")


def read_metadata(path: Path) -> dict[str, str]:
    """Read the metadata of a safetensors file; its tensors are not read.

    Raises:
        CheckpointError: The file is missing or damaged.
    """
    _check_exists(path)
    try:
        with path.open("rb") as file:
            return _read_metadata(file, path.stat().st_size)
    except (ValueError, OSError, RecursionError) as error:
        raise _damaged(path, error) from None


def _read_metadata(file: BinaryIO, file_size: int) -> dict[str, str]:
    size = int.from_bytes(file.read(8), "little")
    if file_size < 8 or size > file_size - 8:
        raise ValueError("it is shorter than its header says")
    if size > MAX_HEADER_BYTES:
        raise ValueError(f"expected a header of at most {MAX_HEADER_BYTES} bytes, found {size}")
    header = _parse_json(file.read(size).decode("utf-8"))
    metadata = header.get(METADATA_KEY, {}) if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("expected a header with metadata of text")
    return metadata


def _parse_json(text: str) -> Any:
    """Parse JSON. Raise ValueError for invalid JSON, duplicate keys, NaN and infinity."""
    return json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key occurs twice")
    return values


def _refuse_constant(name: str) -> None:
    raise ValueError(f"expected a finite number, found {name}")


def read_content(path: Path) -> dict[str, Any]:
    """Read the content of a checkpoint, with float32 weights on the CPU.

    Returns:
        The content. For a file of another program or of a later format, the dict has only `format` and `program`.

    Raises:
        CheckpointError: The file is missing or damaged.
    """
    metadata = read_metadata(path)
    if metadata.get(FORMAT_KEY) != FORMAT:
        return {FORMAT_KEY: metadata.get(FORMAT_KEY), "program": metadata.get("program", "")[:100].strip('"')}
    try:
        data = path.read_bytes()
        _check_checksum(data, metadata.get(CHECKSUM_KEY, ""))
        values = {key: _parse_json(metadata[key]) for key in JSON_KEYS if key in metadata}
        weights = safetensors.torch.load(data)
    except (SafetensorError, ValueError, LookupError, TypeError, RuntimeError, OSError) as error:
        raise _damaged(path, error) from None  # RecursionError is a RuntimeError
    floats = {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}
    return {FORMAT_KEY: metadata[FORMAT_KEY], **values, "weights": floats, "training": None}


def _check_checksum(data: bytes, checksum: str) -> None:
    start = data.find(f'"{CHECKSUM_KEY}":"{checksum}"'.encode()) + len(CHECKSUM_KEY) + 4
    if len(checksum) != 64 or data[start : start + 64] != checksum.encode() or digest_without(data, start) != checksum:
        raise ValueError("its content does not match its checksum; use an intact copy")


def _check_exists(path: Path) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; expected a .safetensors file")


def _damaged(path: Path, error: Exception) -> CheckpointError:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
    return CheckpointError(f"{path}: not a safetensors file, or damaged ({reason})")
