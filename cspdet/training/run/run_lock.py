"""One run a folder: a lock that ends with its process, however that ends."""

from __future__ import annotations

import errno
import logging
import os
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from cspdet.errors import UserError
from cspdet.io.atomic import remove_abandoned
from cspdet.io.folders import free_folder

log = logging.getLogger("cspdet")

LOCK_FILE = ".run.lock"
# What file systems say that know no locks, such as some network shares.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class FolderInUse(UserError):
    """Another process trains into the folder."""


class RunLock:
    """Keeps other processes from training into a folder, from `take` until the `with` block or the process ends.

    The lock belongs to the process that took it. Forked loader processes do not hold it, so a run whose training
    process was killed can be resumed at once. It works between the machines that share a folder, where the file system
    has locks; where it has none, a warning tells so. Of a distributed run, only the first process is `active`.
    """

    def __init__(self, *, active: bool = True):
        self.active = active
        self._folder: Path | None = None
        self._file: BinaryIO | None = None
        self._made = False  # the folder, by `take`

    def take(self, folder: Path) -> None:
        """Lock `folder`, made where it is missing, and remove what killed saves left in it. Taking it twice is fine.

        Raises:
            FolderInUse: another process holds it, named as far as it is known.
            UserError: the folder cannot be made or written.
        """
        if not self.active or (self._file is not None and self._folder == folder.absolute()):
            return
        self.release()
        try:
            self._made = not folder.exists()
            folder.mkdir(parents=True, exist_ok=True)
            self._file = _lock(folder / LOCK_FILE)
        except OSError as error:
            raise UserError(f"{folder}: cannot be written: {error.strerror or error}") from None
        self._folder = folder.absolute()
        left = remove_abandoned(folder)
        if left:
            log.info("%s: removed what a killed run left of its save: %s", folder, ", ".join(left))

    def take_free(self, base: Path) -> Path:
        """Lock and return `base`, or `base-2`, `base-3` ... when it is taken; two that ask at once get two."""
        while True:
            folder = free_folder(base)
            try:
                self.take(folder)
            except FolderInUse:  # the other one was faster; its lock file makes the folder a taken one
                continue
            return folder

    def release(self) -> None:
        """Let others in, and leave no lock file, nor a folder that was made and stayed empty."""
        if self._file is None or self._folder is None:
            return
        with suppress(OSError):  # the folder may be gone, or not writable any more
            (self._folder / LOCK_FILE).unlink()
        if self._made:
            with suppress(OSError):  # it holds a run now
                self._folder.rmdir()
        self._file.close()
        self._file = self._folder = None

    def __enter__(self) -> RunLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _lock(path: Path) -> BinaryIO:
    """The open and locked file; raises FolderInUse, or OSError."""
    while True:
        file = open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)  # noqa: SIM115 it stays open
        try:
            if not _acquire(file):
                raise FolderInUse(f"{path.parent}: {_holder(file)}; wait for its end, or choose another --output")
            # Its holder may have removed the file between our two calls: then ours is none that others would see.
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                about = f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}"
                file.truncate(0)
                file.write(about.encode())
                return file
        except BaseException:
            file.close()
            raise
        file.close()


def _acquire(file: BinaryIO) -> bool:
    """Whether nobody else had the lock; true where there are no locks."""
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(2**30)  # a byte that nobody reads
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            file.seek(0)
        else:
            import fcntl

            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in NO_LOCKS:
            log.warning("%s: %s; take care that no second run writes into this folder", file.name, error.strerror)
            return True
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            return False
        raise
    return True


def _holder(file: BinaryIO) -> str:
    about = file.read(200).decode(errors="replace").strip()
    return f"another run writes into this folder ({about or 'it has only just started'})"
