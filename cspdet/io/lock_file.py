"""Lock files: opened without following links and without changing their content."""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
from pathlib import Path
from typing import BinaryIO, TextIO

from cspdet.errors import UserError


def open_lock_file(path: Path, content: re.Pattern[bytes] = re.compile(b"")) -> BinaryIO:
    """Open a lock file for reading and writing, or create it.

    Args:
        path: The file.
        content: Pattern of the content of a lock file. A file with other content is an error and is not changed.

    Returns:
        The unbuffered file, at its start.

    Raises:
        OSError: `path` is a symbolic or hard link, has other content, or cannot be opened for writing.
    """
    if path.is_symlink():  # O_NOFOLLOW does not exist on Windows
        raise OSError(errno.ELOOP, f"{path.name} is a symbolic link; expected a lock file", str(path))
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    file = open(os.open(path, flags, 0o666), "r+b", buffering=0)  # noqa: SIM115 the caller closes it
    try:
        info = os.fstat(file.fileno())
        start = file.read(200) if stat.S_ISREG(info.st_mode) and info.st_nlink == 1 else None
        if start is None or content.fullmatch(start) is None:
            raise OSError(errno.EEXIST, f"{path.name} is another file; expected a lock file", str(path))
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


def try_lock(file: BinaryIO | TextIO) -> bool:
    """Lock an open file until it is closed, or the process ends.

    Returns:
        False if another process, or another open file of this process, holds the lock. True also on Windows and on file
        systems without locks, where nothing is locked.
    """
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # the file system has no locks
        return True
    return True


def require_lock(file: BinaryIO | TextIO, path: Path) -> None:
    """Lock an open file; if another run holds the lock, close the file and raise UserError.

    Args:
        file: The open file.
        path: Its path, for the message.
    """
    if not try_lock(file):
        file.close()
        raise UserError(f"{path}: another run writes this file; wait for its end, or choose another --output")


def lock_existing(path: Path) -> BinaryIO | None:
    """Open and lock a file that a run is going to replace; close the result to release the lock.

    Returns:
        The open file; None if it cannot be opened, for example a link to a missing file. None on Windows, where an open
        file cannot be replaced.

    Raises:
        UserError: Another run still writes the file, or is going to replace it.
    """
    if sys.platform == "win32":
        return None
    try:
        file = path.open("rb")
    except OSError:
        return None
    require_lock(file, path)
    return file
