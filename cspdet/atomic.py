"""Files that appear whole or not at all: written beside the target, flushed to disk, then renamed over it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cspdet.errors import UserError


@contextmanager
def temporary(path: str | Path) -> Iterator[Path]:
    """A path beside `path` (same suffix) to write to; renamed to `path` when the block ends, removed when it fails.

    Raises:
        UserError: the disk is full, or the folder cannot be written; what stood at `path` before is kept.
    """
    path = Path(path)
    draft = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        with draft.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError as error:
        with suppress(OSError):  # there may not even be a folder
            draft.unlink()
        kept = "; the file that was there before is kept" if path.exists() else ""
        raise UserError(f"{path}: cannot be written: {error.strerror or error}{kept}") from None
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with temporary(path) as draft:
        draft.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 to `path` atomically."""
    write_bytes(path, text.encode("utf-8"))
