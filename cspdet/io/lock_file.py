"""Lock files: opened without following links and without changing their content."""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path
from typing import BinaryIO


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
