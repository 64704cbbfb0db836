"""A text file that is written line by line, and locked, so that no other run writes it at the same time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, TextIO

from cspdet.errors import UserError
from cspdet.io.atomic import describe_os_error, temp_path
from cspdet.io.lock_file import lock_existing, require_lock


class LineFile:
    """Writes a text file line by line, with a flush after each call of `write`.

    `open` or the first call of `write` opens and locks the file. If `path` does not exist, the lines are written to
    `path`. If `path` exists, the lines are written to a temporary file in the same folder, and `close` replaces `path`
    by this file.

    Attributes:
        path: The output file.
        current_path: The file that contains the lines: `path` or the temporary file.
    """

    def __init__(self, path: Path):
        self.path = self.current_path = path
        self._file: TextIO | None = None
        self._earlier: BinaryIO | None = None  # the file that existed before, locked until `close`
        self._is_written = False

    def open(self) -> None:
        """Open and lock the file; a second call has no effect.

        Raises:
            UserError: Another run writes the file, or the file cannot be written.
        """
        try:
            if self._file is None:
                self._file = self._open()
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written to: {describe_os_error(error)}") from None

    def write(self, lines: Sequence[str]) -> None:
        """Write lines; a line feed is added to each line.

        Raises:
            UserError: Another run writes the file, the file cannot be written, or the disk is full.
        """
        self.open()
        assert self._file is not None
        try:
            self._is_written = True
            self._file.writelines(f"{line}\n" for line in lines)
            self._file.flush()
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written to: {describe_os_error(error)}") from None

    def _open(self) -> TextIO:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._is_written = False
        if os.path.lexists(self.path):
            self._earlier = lock_existing(self.path)
            self.current_path = temp_path(self.path)
        replaces = self.current_path != self.path
        # a lone surrogate, of a name that is not UTF-8, becomes its escape in JSON
        file = self.current_path.open("w" if replaces else "x", encoding="utf-8", errors="backslashreplace")
        if not replaces:
            require_lock(file, self.path)
        return file

    def close(self, *, failed: bool = False) -> None:
        """Close the file. If `path` existed before, replace it by the new file.

        If `write` was not called, an existing file at `path` is kept. If there is no such file, an empty file is
        created, unless the run failed.

        Args:
            failed: Whether the run failed. If so, a file that existed before is kept, and the new lines are removed.
        """
        if not failed and not os.path.lexists(self.path):
            self.open()
        if self._file is None:
            return
        self._file.close()
        self._file = None
        replaces = self.current_path != self.path
        try:
            if (replaces and not self._is_written) or (failed and (replaces or not self._is_written)):
                self.current_path.unlink(missing_ok=True)
            elif replaces:
                os.replace(self.current_path, self.path)
        except OSError as error:
            reason = describe_os_error(error)
            raise UserError(f"{self.path}: cannot be written: {reason}; see {self.current_path}") from None
        finally:
            if self._earlier is not None:
                self._earlier.close()
        self.current_path = self.path
