"""Find the files of a classification split, in class folders or list files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cspdet.datasets.image_io import IMAGE_SUFFIXES
from cspdet.errors import DataError, truncate_list

SUFFIXES = tuple(IMAGE_SUFFIXES)
MAX_EXAMPLES = 3  # invalid lines in an error message


class ScannedFolder(NamedTuple):
    """The content of a class folder: paths relative to the root, sorted."""

    names: list[str]
    non_images: list[str]  # files without an image suffix
    symlink_loops: list[str]  # links to a parent folder


def class_folders(folder: Path) -> tuple[tuple[str, ...], list[str]]:
    """Return the sorted names of the class folders in `folder`, and of its files; hidden ones are skipped."""
    entries = [entry for entry in _entries(folder) if not entry.name.startswith(".")]
    folders = tuple(sorted(entry.name for entry in entries if entry.is_dir()))
    return folders, sorted(entry.name for entry in entries if not entry.is_dir())


def scan_class_folder(root: Path, inside: str) -> ScannedFolder:
    """Find all images below root/inside, following symbolic links."""
    scanned = ScannedFolder([], [], [])
    waiting = [inside]
    while waiting:
        at = waiting.pop()
        for entry in _entries(root / at):
            name = f"{at}/{entry.name}"
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                circular = entry.is_symlink() and _is_ancestor(entry.path, root / at)
                (scanned.symlink_loops if circular else waiting).append(name)
            elif entry.name.lower().endswith(SUFFIXES):
                scanned.names.append(name)
            else:
                scanned.non_images.append(name)
    for names in scanned:
        names.sort()
    return scanned


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror or error}") from None


def _is_ancestor(link: str, folder: Path) -> bool:
    target, real = os.path.realpath(link), os.path.realpath(folder)
    return f"{real}{os.sep}".startswith(f"{target}{os.sep}")


def read_list(listing: Path) -> tuple[list[str], list[str]]:
    """Read the paths and classes of a list file.

    In each line, path and class are separated by a tab; if the line has no tab, by its last space.
    """
    names, words, problems = [], [], []
    for line_number, line in enumerate(read_lines(listing), 1):
        if not line.strip():
            continue
        path, _, word = (part.strip() for part in line.rpartition("\t" if "\t" in line else " "))
        if path and word:
            names.append(path)
            words.append(word)
        else:
            problems.append(f"{listing}:{line_number}: expected a path and a class, found {line.strip()[:60]!r}")
    if problems:
        raise DataError(*truncate_list(problems, MAX_EXAMPLES))
    if not names:
        raise DataError(f"{listing}: the list is empty; expected lines of a path and a class")
    return names, words


def read_lines(path: Path) -> list[str]:
    """Return the lines of a UTF-8 text file; raise DataError if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def infer_classes(words: Sequence[str]) -> tuple[str, ...]:
    """Return the sorted distinct classes of a list file.

    If all are integers, the result is all integers from 0 to the largest.
    """
    distinct = set(words)
    if all(word.isascii() and word.isdecimal() for word in distinct):
        largest = max(int(word) for word in distinct)
        if largest < 10 * len(distinct) + 1000:  # otherwise the integers are probably names, such as years or codes
            return tuple(str(i) for i in range(largest + 1))
    return tuple(sorted(distinct))
