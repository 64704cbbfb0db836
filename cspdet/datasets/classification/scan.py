"""Find the files of a classification split, in class folders or list files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cspdet.datasets.image_io import IMAGE_SUFFIXES
from cspdet.errors import DataError, truncate_list
from cspdet.io.text import read_lines
from cspdet.io.walk import find_files, is_folder

SUFFIXES = tuple(IMAGE_SUFFIXES)
MAX_EXAMPLES = 3  # invalid lines in an error message


class ScannedFolder(NamedTuple):
    """The files below a class folder, as sorted paths relative to the dataset folder."""

    names: list[str]
    non_images: list[str]  # files without an image suffix
    repeated: list[str]  # links to folders that were already read
    special: list[str]  # named pipes, sockets and devices


def class_folders(folder: Path) -> tuple[tuple[str, ...], list[str]]:
    """List the entries of a folder, without hidden entries.

    Returns:
        The sorted names of the class folders, and the sorted names of all other entries. Each subfolder is a class
        folder. A link to `folder` or to one of its parents is one of the other entries.
    """
    entries = [entry for entry in _entries(folder) if not entry.name.startswith(".")]
    real = os.path.realpath(folder)
    classes = {entry.name for entry in entries if is_folder(entry) and not _is_ancestor(entry, real)}
    return tuple(sorted(classes)), sorted({entry.name for entry in entries} - classes)


def _is_ancestor(entry: os.DirEntry[str], folder: str) -> bool:
    target = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
    return f"{folder}{os.sep}".startswith(f"{target}{os.sep}")


def scan_class_folder(root: Path, inside: str) -> ScannedFolder:
    """Find all files below root / inside, following symbolic links.

    Raises:
        DataError: A folder cannot be read.
    """
    try:
        found = find_files(root / inside, SUFFIXES)
    except OSError as error:
        raise DataError(f"{root / inside}: cannot be read: {error.strerror or error}") from None
    if found.unreadable:
        raise DataError(*(f"{root / inside}: cannot be read: {name}" for name in found.unreadable[:MAX_EXAMPLES]))
    kinds = (found.names, found.other_suffixes, found.repeated, found.special)
    return ScannedFolder(*([f"{inside}/{name}" for name in sorted(names)] for names in kinds))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror or error}") from None


def read_list(listing: Path) -> tuple[list[str], list[str]]:
    """Read a list file with a path and a class on each line.

    Path and class are separated by the last tab of the line or, in a line without a tab, by the last space.

    Returns:
        The path of each line, and the class of each line: its name or index.
    """
    names, words, problems = [], [], []
    for line_number, line in enumerate(read_lines(listing, lists_paths=True), 1):
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


def infer_classes(words: Sequence[str]) -> tuple[str, ...]:
    """Return the sorted distinct classes of a list file, given the class of each line.

    If all classes are integers, the result is all integers from 0 to the largest. If the largest is at least 10 times
    the number of classes plus 1000, the integers are treated as names.
    """
    distinct = set(words)
    if all(word.isascii() and word.isdecimal() and len(word) < 10 for word in distinct):
        largest = max(int(word) for word in distinct)
        if largest < 10 * len(distinct) + 1000:  # otherwise the integers are probably names, such as years or codes
            return tuple(str(i) for i in range(largest + 1))
    return tuple(sorted(distinct))
