"""Atomic file writes: a file is written under a temporary name in the same folder, flushed to disk, then renamed."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cspdet.errors import UnwritableFileError, UserError

MAX_NAME_BYTES = 255  # of the file systems in common use
# Errors that concern the whole disk; other errors concern one file, and the next one may be written.
DISK_ERRNOS = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ENODEV, errno.EMFILE, errno.ENFILE))
TMP_FILE_PATTERN = re.compile(r"\..+\.(?P<process>\d+)\.part(\.\w+)?")


@contextmanager
def atomic_write(path: str | Path, *, visible: bool = False) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`.

    At the end of the block, the file is renamed to `path`. If the block raises an error, the file is removed. A
    symbolic link at `path` is replaced, not followed.

    Args:
        path: The file to write.
        visible: Whether the temporary name has no leading dot. Use it for a file that is useful even if the process is
            killed.

    Raises:
        UnwritableFileError: The name is too long, `path` is a folder, or the folder is not writable.
        UserError: The disk is full or has an error. In both cases an existing file at `path` is kept.
    """
    path = Path(path)
    tmp_path = temp_path(path, visible=visible)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tmp_path.unlink(missing_ok=True)
        yield tmp_path
        with tmp_path.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(tmp_path, path)
    except OSError as error:
        with suppress(OSError):  # the folder may not exist
            tmp_path.unlink()
        kept = "; the file that was there before is kept" if _is_file(path) else ""
        error_type = UserError if error.errno is None or error.errno in DISK_ERRNOS else UnwritableFileError
        raise error_type(f"{path}: cannot be written: {describe_os_error(error)}{kept}") from None
    except BaseException:
        tmp_path.unlink(missing_ok=True)
        raise


def temp_path(path: Path, *, visible: bool = False) -> Path:
    """Return the temporary path in which `path` is written: `.NAME.PID.part.SUFFIX` in the same folder.

    PID is the process id. NAME is truncated if the file name is longer than 255 bytes. With `visible`, there is no
    leading dot.
    """
    suffix = path.suffix[:32]
    return path.with_name(fit_name(f"{'' if visible else '.'}{path.stem}", f".{os.getpid()}.part{suffix}"))


def fit_name(stem: str, end: str) -> str:
    """Return the file name `stem` + `end`. If it is longer than 255 bytes, `stem` is truncated."""
    room = MAX_NAME_BYTES - len(os.fsencode(end))
    encoded = os.fsencode(stem)
    return f"{stem if len(encoded) <= room else encoded[:room].decode('utf-8', 'ignore')}{end}"


def describe_os_error(error: OSError) -> str:
    """Return the reason of a file error, without the path of the file."""
    return error.strerror or str(error)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # the name is too long
        return False


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic_write(path) as tmp_path:
        tmp_path.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    r"""Write `text` as UTF-8 to `path` atomically.

    A lone surrogate is written as an escape such as `\udcff`, which JSON and YAML parsers convert back.
    """
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def remove_stale_temp_files(folder: str | Path) -> list[str]:
    """Remove the temporary files that killed processes left in `folder`; return their names.

    Temporary files of processes that still run are kept.
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
