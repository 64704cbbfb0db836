"""Checks of output files before anything is written: a command replaces only its own earlier results.

An existing file at an output path is replaced only if its content shows that cspdet wrote it, and if it is not an input
of the command. Every command calls `check_outputs` before it opens a file. It writes with `cspdet.io.atomic` or
`LineFile`. Both keep an existing file until the new file is complete, and never write through a symbolic link.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cspdet.errors import UserError, truncate_list
from cspdet.io.atomic import describe_os_error

SEARCHED_BYTES = 2**16  # at each end of a file, in which its mark is searched

# Marks of the results that cspdet writes: patterns in the content of the file.
EXPORTED = re.compile(rb'("|&quot;)cspdet \d[\w.+-]*\1')  # `program` in the metadata, not a path in a graph
PAGE = re.compile(rb"<footer>Created by cspdet")
RUN_CONFIG = re.compile(rb"\A# written by cspdet train")
ANNOTATED = re.compile(rb"annotated by cspdet")  # images and videos
IMPORTED = re.compile(rb"cspdet \d[\w.+-]* import-darknet")  # `program` of a checkpoint that was not trained
PLOT = re.compile(rb"Software\0cspdet|<dc:title>cspdet")  # the metadata of PNG and SVG
METRICS_JSON = re.compile(rb'\A\{\s*"(AP|top1)"')
PREDICTIONS_JSON = re.compile(rb'\A(\[\]|\[?\s*\{\s*"source": )')
DETECTIONS_JSONL = re.compile(rb'\A\{"source": ')
DETECTIONS_CSV = re.compile(rb"\Asource,frame,time_s,width,height,class_id")
NOT_REPLACED = re.compile(rb"(?!)")  # no file has this mark
MOT = re.compile(rb"\A\d+,-?\d+,(-?\d+\.\d\d,){4}[01]\.\d{6},-1,-1,-1\n")
ANALYSIS_JSON = re.compile(rb'\A\{"runs": ')
SUBMISSION_ZIP = re.compile(rb"\APK.*_results\.json", re.DOTALL)
NUMPY_FEATURES = re.compile(rb"\A(\x93NUMPY|PK.*(features|names|stride\d+)\.npy)", re.DOTALL)


@dataclass(frozen=True)
class OutputFile:
    """A file that a command is going to write.

    Attributes:
        path: The file.
        mark: Pattern that identifies an earlier result of cspdet. An existing file is replaced only if the pattern
            matches in its first or last 64 KiB. None: any existing file is replaced.
        others: Files that are written together with `path`. If one of them exists, `path` must be an earlier result
            too.
        is_one_of_many: Whether the check accepts a file that cannot be written, because the command skips such files.
    """

    path: Path
    mark: re.Pattern[bytes] | None
    others: tuple[Path, ...] = ()
    is_one_of_many: bool = False


def check_outputs(outputs: Iterable[OutputFile], inputs: Iterable[str | Path | None] = ()) -> None:
    """Check that a command can write its output files without replacing a file of the user.

    Args:
        outputs: The files that the command is going to write.
        inputs: Files that the command reads. None and missing files are ignored. A link to an input counts as the
            input.

    Raises:
        UserError: An output is an input or a folder, is named twice, cannot be written, or is a file that cspdet did
            not write. The message has one line per output.
    """
    checks = _Checks(inputs)
    problems = [problem for output in outputs if (problem := checks.find_problem(output)) is not None]
    if problems:
        raise UserError(*truncate_list(problems))


class _Checks:
    """Checks the outputs of one command. The inputs are examined only if an output exists."""

    def __init__(self, inputs: Iterable[str | Path | None]):
        self._inputs = inputs
        self._used: set[str] = set()  # absolute paths of the outputs so far
        self._input_ids: set[tuple[int, int]] | None = None
        self._checked_folders: set[Path] = set()
        self._real_folders: dict[Path, Path] = {}

    def find_problem(self, output: OutputFile) -> str | None:
        try:
            self._check_used(output.path)
            existing = [path for path in (output.path, *output.others) if self._exists(path)]
            if existing and output.mark is not None:
                is_own = existing[0] == output.path and has_mark(output.path, output.mark)
                if not is_own:
                    return f"{existing[0]}: exists, and cspdet did not write it; it is kept: expected another output"
        except OSError as error:
            if not output.is_one_of_many:
                return f"{error.filename or output.path}: cannot be written: {describe_os_error(error)}"
        except UserError as error:
            return str(error)
        return None

    def _check_used(self, path: Path) -> None:
        name = os.path.normcase(self._real_folder(path.parent) / path.name)
        if name in self._used:
            raise UserError(f"{path}: is named for two outputs; expected different files")
        self._used.add(name)

    def _real_folder(self, folder: Path) -> Path:
        if folder not in self._real_folders:
            self._real_folders[folder] = Path(os.path.realpath(folder))
        return self._real_folders[folder]

    def _exists(self, path: Path) -> bool:
        """Whether there is a non-empty file at `path`.

        Raises:
            OSError: `path` is a folder or another special file, or files cannot be created in its folder.
            UserError: `path` is an input.
        """
        try:
            info = path.stat()
        except FileNotFoundError:  # also a link to a missing file, which is replaced itself
            self._check_folder(path.parent)
            return False
        if not stat.S_ISREG(info.st_mode):
            kind = "a folder" if stat.S_ISDIR(info.st_mode) else "not a regular file"
            raise OSError(errno.EISDIR, f"it is {kind}; expected a file", str(path))
        if (info.st_dev, info.st_ino) in self._read_input_ids():
            raise UserError(f"{path}: is an input of this command; it is kept: expected another output")
        return info.st_size > 0

    def _check_folder(self, folder: Path) -> None:
        """Raise OSError if files cannot be created in the folder; check the nearest existing parent of a new folder."""
        while folder not in self._checked_folders:
            self._checked_folders.add(folder)
            if folder.is_dir():
                if not os.access(folder, os.W_OK | os.X_OK):
                    raise OSError(errno.EACCES, "the folder is not writable", str(folder))
                return
            if folder.exists():
                raise OSError(errno.ENOTDIR, "it is a file; expected a folder", str(folder))
            folder = folder.parent

    def _read_input_ids(self) -> set[tuple[int, int]]:
        if self._input_ids is None:
            self._input_ids = set()
            for path in self._inputs:
                try:
                    info = os.stat(path) if path is not None else None
                except (OSError, ValueError):
                    continue
                if info is not None:
                    self._input_ids.add((info.st_dev, info.st_ino))
        return self._input_ids


def has_mark(path: Path, mark: re.Pattern[bytes]) -> bool:
    """Whether the pattern `mark` matches in the first or last 64 KiB of a file; False if the file does not exist.

    Raises:
        OSError: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            if mark.search(file.read(SEARCHED_BYTES)):
                return True
            if mark.pattern.startswith(rb"\A"):
                return False
            file.seek(max(0, os.fstat(file.fileno()).st_size - SEARCHED_BYTES))
            return mark.search(file.read(SEARCHED_BYTES)) is not None
    except FileNotFoundError:
        return False


def is_other_file(path: Path, mark: re.Pattern[bytes]) -> bool:
    """Whether there is a non-empty file at `path` in which the pattern `mark` does not match."""
    try:
        return path.stat().st_size > 0 and path.is_file() and not has_mark(path, mark)
    except OSError:  # it is missing, or its name is too long
        return False
