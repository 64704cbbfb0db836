"""Atomic file writes: a file is written under a temporary name in the same folder, flushed to disk, then renamed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cspdet.errors import UserError

TMP_FILE_PATTERN = re.compile(r"\..+\.(?P<process>\d+)\.part(\.\w+)?")


@contextmanager
def atomic_write(path: str | Path, *, visible: bool = False) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`.

    At the end of the block, the file is renamed to `path`. If the block raises an error, the file is removed.

    Args:
        path: The file to write.
        visible: The temporary name has no leading dot, for a file that is of use if the process is killed.

    Raises:
        UserError: The disk is full, or the folder is not writable; an existing file at `path` is kept.
    """
    path = Path(path)
    tmp_path = path.with_name(f"{'' if visible else '.'}{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield tmp_path
        with tmp_path.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(tmp_path, path)
    except OSError as error:
        with suppress(OSError):  # the folder may not exist
            tmp_path.unlink()
        kept = "; the file that was there before is kept" if path.exists() else ""
        raise UserError(f"{path}: cannot be written: {error.strerror or error}{kept}") from None
    except BaseException:
        tmp_path.unlink(missing_ok=True)
        raise


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic_write(path) as tmp_path:
        tmp_path.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    r"""Write `text` as UTF-8 to `path` atomically; a lone surrogate becomes `\udcff`, its escape in JSON and YAML."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def remove_stale_temp_files(folder: str | Path) -> list[str]:
    """Remove the temporary files that killed processes left in `folder`; return their names.

    Temporary files of processes that still run on this machine are kept.
    """
    removed = []
    for path in sorted(Path(folder).iterdir()):
        match = TMP_FILE_PATTERN.fullmatch(path.name)
        if match is not None and path.is_file() and not _pid_is_alive(int(match["process"])):
            with suppress(PermissionError):  # on Windows, a file that a running process has open
                path.unlink(missing_ok=True)
                removed.append(path.name)
    return removed


def _pid_is_alive(pid: int) -> bool:
    if pid == os.getpid() or os.name == "nt":  # on Windows, os.kill ends a process, and open files cannot be removed
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
