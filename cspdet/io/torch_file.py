"""Checkpoint files (.pt) of torch: zip archives of tensors and plain values, read with `weights_only=True`."""

from __future__ import annotations

import logging
import pickle
import zipfile
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from cspdet.errors import CheckpointError
from cspdet.io.atomic import atomic_write
from cspdet.io.integrity import check_integrity

SAFE_TORCH = (2, 10)  # the first version without CVE-2026-24747, a flaw of torch.load(weights_only=True)

log = logging.getLogger("cspdet")


def write_torch_file(path: str | Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values atomically. If writing fails, for example on a full disk, the old file is kept.

    Raises:
        UserError: The file cannot be written.
    """
    with atomic_write(path) as tmp_path, tmp_path.open("wb") as file:
        sink = _ErrorRecordingFile(file)
        try:
            torch.save(content, cast(BinaryIO, sink))
        except RuntimeError as error:
            raise _root_cause(error) from None
        if sink.error is not None:
            raise sink.error


def _root_cause(error: BaseException) -> BaseException:
    """Return the original error, such as Ctrl-C or a crash of a loader process, that torch replaced by a file error."""
    while "inline_container" in str(error) and error.__context__ is not None:
        error = error.__context__
    return error


class _ErrorRecordingFile:
    """File wrapper that stores the first disk error. torch.save replaces this error by an error without the cause."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            if self.error is None:
                self.file.write(data)
        except OSError as error:
            self.error = error
        return len(data)

    def flush(self) -> None:
        pass


def read_torch_file(path: Path) -> Any:
    """Read the content of a checkpoint file, a zip archive of tensors and plain values.

    Raises:
        CheckpointError: The file is missing, damaged, or has more than tensors and plain values.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; expected a checkpoint (.pt) that cspdet train wrote")
    try:
        path.open("rb").close()  # is_zipfile hides the reason
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    if not zipfile.is_zipfile(path):  # torch.save writes a zip archive; bare pickles are not opened
        raise CheckpointError(f"{path}: not a checkpoint, or corrupt (not a zip archive)")
    check_integrity(path)
    _warn_if_torch_is_old()
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: contains more than tensors and plain values, so loading it could run code; not loaded "
            f"({str(error).splitlines()[0][:120]})"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: not a checkpoint, or corrupt ({reason})") from None


@cache
def _warn_if_torch_is_old() -> None:
    """Log once if `torch.load` of this version has a known flaw. The file is read nevertheless."""
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < SAFE_TORCH:
        log.warning(
            "torch %s has a flaw in reading .pt files (CVE-2026-24747): open only files that you trust. torch %d.%d "
            "fixed it; .safetensors files are not affected", torch.__version__, *SAFE_TORCH
        )  # fmt: skip
