"""Files that appear whole or not at all: written beside the target, flushed to disk, then renamed over it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cspdet.errors import UserError

DRAFT = re.compile(r"\..+\.(?P<process>\d+)\.part(\.\w+)?")


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


def remove_abandoned(folder: str | Path) -> list[str]:
    """Remove the drafts that processes left in `folder` when they were killed; the names of what was removed.

    Drafts of other processes of this machine that still live are left alone.
    """
    removed = []
    for path in sorted(Path(folder).iterdir()):
        draft = DRAFT.fullmatch(path.name)
        if draft is not None and path.is_file() and not _another_lives(int(draft["process"])):
            path.unlink(missing_ok=True)
            removed.append(path.name)
    return removed


def _another_lives(process: int) -> bool:
    if process == os.getpid() or os.name == "nt":  # there, os.kill would end it; and open files cannot be removed
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
