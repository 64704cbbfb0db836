"""Checks of names: class names of a dataset, and file names in annotations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PureWindowsPath
from posixpath import normpath
from typing import Any

from cspdet.errors import DataError, UserError
from cspdet.io.text import is_text, read_lines

MAX_NAMES_BYTES = 10_000_000


def class_name_problems(names: Sequence[str], where: str) -> list[str]:
    """Return one message per class name that is empty, not one line of valid text, or equal to an earlier one.

    Args:
        names: Class names, in order.
        where: The file, for messages.
    """
    problems, first = [], dict[str, int]()
    for index, name in enumerate(names):
        if not name.strip():
            problems.append(f"{where}: class {index} has no name")
        elif not is_text(name):
            problems.append(f"{where}: the name of class {index} is not valid text: {name!r}")
        elif "\n" in name or "\r" in name:
            problems.append(f"{where}: the name of class {index} has a line break: {name!r}")
        elif name in first:
            problems.append(f"{where}: {name!r} is the name of class {first[name]} and of class {index}")
        first.setdefault(name, index)
    return problems


def read_class_names(file: Path, *, error: type[UserError] = DataError) -> tuple[str, ...]:
    """Read class names, one per line; surrounding blanks and empty lines at the end are ignored.

    Raises:
        UserError: The file cannot be read as text, or has an empty line between names. Its class is `error`.
    """
    lines = [line.strip() for line in read_lines(file, max_bytes=MAX_NAMES_BYTES, error=error)]
    while len(lines) > 1 and not lines[-1]:
        lines.pop()
    empty = next((number for number, line in enumerate(lines, 1) if not line), None)
    if empty is not None:
        raise error(f"{file}:{empty}: expected a class name, found an empty line")
    return tuple(lines)


def file_name_error(name: Any) -> str:
    """Return why a file name in annotations is invalid; "" if it is valid.

    A valid name is text and stays inside the image folder on every operating system. Bytes that are not UTF-8 are valid
    as surrogate escapes, which Python's `os` functions use in file names.
    """
    if not isinstance(name, str) or not name.strip():
        return "must be text"
    if "\0" in name or not _is_path(name):
        return "is not valid text"
    if "/" in name or "\\" in name or ":" in name or name.startswith("."):
        for form in (name, name.replace("\\", "/")):
            first = normpath(form).split("/")[0]  # empty for absolute paths, `.` for the folder itself
            if first in ("", ".", "..") or PureWindowsPath(form).drive:
                return "must stay inside the image folder"
    return ""


def _is_path(name: str) -> bool:
    try:
        name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a surrogate pair
        return False
    return True
