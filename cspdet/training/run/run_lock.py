"""Lock file for run folders; the operating system releases the lock when the process ends, even if it is killed."""

from __future__ import annotations

import errno
import logging
import os
import re
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from cspdet.errors import UserError
from cspdet.io.atomic import remove_stale_temp_files
from cspdet.io.folders import increment_path
from cspdet.io.lock_file import open_lock_file

log = logging.getLogger("cspdet")

LOCK_FILE = ".run.lock"
OWNER = re.compile(rb"(process \d.*)?")  # content of a lock file
# Error numbers of file systems without file locking, such as some network file systems.
LOCKS_UNSUPPORTED_ERRNOS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class RunDirInUseError(UserError):
    """Raised if another process is training in the folder."""


class RunLock:
    """Lock that prevents other processes from training in a folder, until the `with` block or the process ends.

    The lock belongs to the process that acquired it. Forked loader processes do not hold the lock, so a run can be
    resumed immediately after its training process was killed. On network file systems the lock also works between
    machines, if the file system supports locking; if not, a warning is logged. In a distributed run, only rank 0 is
    `active`.
    """

    def __init__(self, *, active: bool = True):
        self.active = active
        self._run_dir: Path | None = None
        self._file: BinaryIO | None = None
        self._created = False  # whether `acquire` created the folder

    def acquire(self, run_dir: Path) -> None:
        """Create the folder if it does not exist, lock it, and remove temporary files of killed processes.

        A second call for the same folder has no effect.

        Raises:
            RunDirInUseError: Another process holds the lock; the message names the process if it is known.
            UserError: The folder cannot be created, or is not writable.
        """
        if not self.active or (self._file is not None and self._run_dir == run_dir.absolute()):
            return
        self.release()
        try:
            self._created = not run_dir.exists()
            run_dir.mkdir(parents=True, exist_ok=True)
            self._file = _open_locked(run_dir / LOCK_FILE)
        except OSError as error:
            raise UserError(f"{run_dir}: cannot be written: {error.strerror or error}") from None
        self._run_dir = run_dir.absolute()
        left = remove_stale_temp_files(run_dir)
        if left:
            log.info("%s: removed temporary files of a killed run: %s", run_dir, ", ".join(left))

    def acquire_unused(self, base: Path) -> Path:
        """Create and lock an empty folder, and return its path: `base`, or the first free of `base-2`, `base-3`, ...

        A folder that is not empty, or that another run locks first, is skipped.
        """
        while True:
            run_dir = increment_path(base)
            try:
                self.acquire(run_dir)
            except RunDirInUseError:  # another process locked it first; increment_path now skips the folder
                continue
            return run_dir

    def release(self) -> None:
        """Release the lock and remove the lock file; remove the folder if `acquire` created it and it is empty."""
        if self._file is None or self._run_dir is None:
            return
        if sys.platform == "win32":  # an open file cannot be removed; elsewhere the lock is held until it is gone
            self._file.close()
        with suppress(OSError):  # the folder may have been removed, or be read-only now
            (self._run_dir / LOCK_FILE).unlink()
        if self._created:
            with suppress(OSError):  # fails if the folder is not empty: it contains a run
                self._run_dir.rmdir()
        self._file.close()
        self._file = self._run_dir = None

    def __enter__(self) -> RunLock:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _open_locked(path: Path) -> BinaryIO:
    """Open and lock a file; raise RunDirInUseError if another process holds the lock, OSError on other failures."""
    while True:
        file = open_lock_file(path, OWNER)
        try:
            if not _try_lock(file):
                raise RunDirInUseError(
                    f"{path.parent}: {_describe_holder(file)}; wait for its end, or choose another --output"
                )
            # The previous holder may have removed the file between open and lock. This process would then hold a lock
            # on a deleted file, which other processes cannot see; so check that the path is still the same file.
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                owner = f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}"
                file.truncate(0)
                file.write(owner.encode())
                return file
        except BaseException:
            file.close()
            raise
        file.close()


def _try_lock(file: BinaryIO) -> bool:
    """Try to lock the file without waiting; return False if another process holds the lock.

    If the file system does not support locks, a warning is logged and the result is True.
    """
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(2**30)  # lock a byte outside the text: a locked byte cannot be read on Windows
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            file.seek(0)
        else:
            import fcntl

            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in LOCKS_UNSUPPORTED_ERRNOS:
            log.warning("%s: %s; take care that no second run writes into this folder", file.name, error.strerror)
            return True
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            return False
        raise
    return True


def _describe_holder(file: BinaryIO) -> str:
    owner = file.read(200).decode(errors="replace").strip()
    return f"another run writes into this folder ({owner or 'it has only just started'})"
