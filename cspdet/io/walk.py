"""Find the files below a folder: links are followed, each folder is read once, and what is skipped is counted."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

MAX_EXAMPLES = 3  # names in a message


@dataclass
class FoundFiles:
    """The files below a folder; all names are relative to it, with `/` between their parts.

    Attributes:
        names: Files with the requested suffixes, sorted: those of a folder first, then those of its subfolders.
        other_suffixes: Files with other suffixes.
        hidden: Folders, and files with the requested suffixes, whose names begin with a dot; they are skipped.
        special: Named pipes, sockets and devices; they are skipped.
        repeated: Links to folders that have been read already; they are skipped.
        unreadable: Folders that cannot be read, each with the reason.
    """

    names: list[str] = field(default_factory=list)
    other_suffixes: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    special: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    def skipped(self, expected: Collection[str] = ()) -> list[str]:
        """One line for each reason why files were skipped, without the unreadable folders.

        Args:
            expected: Suffixes of files that need no message, in lower case.
        """
        counts = Counter(suffix_of(name) or "none" for name in self.other_suffixes)
        others = [f"{suffix} {count}" for suffix, count in sorted(counts.items()) if suffix not in expected]
        lines = [f"files with other suffixes skipped: {', '.join(others)}"] if others else []
        for what, names in (
            ("hidden files and folders skipped", self.hidden),
            ("named pipes, sockets and devices skipped", self.special),
            ("links to folders that were already read skipped", self.repeated),
        ):
            if names:
                lines.append(f"{what}: {len(names)}: {', '.join(names[:MAX_EXAMPLES])}")
        return lines


def suffix_of(name: str) -> str:
    """The suffix of a file name in lower case: `.jpg` for `x/A.JPG`; empty if it has none."""
    return os.path.splitext(name)[1].lower()


def find_files(folder: str | Path, suffixes: Collection[str]) -> FoundFiles:
    """Find the files with certain suffixes in a folder and its subfolders.

    Links to folders are followed after all real folders were read, so that a file is found by its own path if it has
    one below `folder`. Each folder is read once, so circles of links end. Broken links are among the names: the reader
    of the file reports them.

    Args:
        folder: The folder.
        suffixes: Suffixes with a dot, in lower case; those of the files may have upper case.

    Raises:
        OSError: `folder` itself cannot be read.
    """
    found = FoundFiles()
    for at, entries in _walk(os.fspath(folder), found):
        for entry in entries:
            _add_file(found, entry, f"{at}{entry.name}", suffix_of(entry.name) in suffixes)
    found.names.sort(key=_in_order_of_folders)
    for names in (found.other_suffixes, found.hidden, found.special):
        names.sort()
    return found


def _add_file(found: FoundFiles, entry: os.DirEntry[str], name: str, matches: bool) -> None:
    if entry.name.startswith("."):
        found.hidden += [name] if matches else []
    elif not _can_be_read(entry):
        found.special.append(name)
    else:
        (found.names if matches else found.other_suffixes).append(name)


def _can_be_read(entry: os.DirEntry[str]) -> bool:
    """False for a named pipe, socket or device; True for a broken link, because its reader reports the reason."""
    try:
        return entry.is_file() or not os.path.exists(entry.path)
    except OSError:
        return True


def _in_order_of_folders(name: str) -> tuple[list[str], str]:
    folder, _, file = name.rpartition("/")
    return folder.split("/"), file


def _walk(root: str, found: FoundFiles) -> Iterator[tuple[str, list[os.DirEntry[str]]]]:
    """Yield each folder that is not hidden, once; add hidden, repeated and unreadable folders to `found`.

    A folder is its path relative to `root` with a `/` at the end (empty for `root`), and the entries of its files.
    """
    visited: set[tuple[int, int]] = set()
    folders, links = [""], list[str]()
    while folders or links:
        at = folders.pop() if folders else links.pop(0)
        entries = _list_folder(root, at, visited, found)
        inside = [entry for entry in entries if is_folder(entry)]
        found.hidden += [f"{at}{entry.name}" for entry in inside if entry.name.startswith(".")]
        visible = [entry for entry in inside if not entry.name.startswith(".")]
        links += [f"{at}{entry.name}/" for entry in visible if entry.is_symlink()]
        folders += [f"{at}{entry.name}/" for entry in visible if not entry.is_symlink()]
        yield at, [entry for entry in entries if not is_folder(entry)]


def _list_folder(root: str, at: str, visited: set[tuple[int, int]], found: FoundFiles) -> list[os.DirEntry[str]]:
    """Return the sorted entries of a folder; none if it is in `visited` or unreadable, which is added to `found`."""
    try:
        status = os.stat(os.path.join(root, at))
        if (status.st_dev, status.st_ino) in visited:
            found.repeated.append(at[:-1])
            return []
        visited.add((status.st_dev, status.st_ino))
        with os.scandir(os.path.join(root, at)) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        if not at:
            raise
        found.unreadable.append(f"{at[:-1]} ({error.strerror or error})")
        return []


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
