"""Find files in a folder and its subfolders. Links are followed, and skipped entries are recorded."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

MAX_EXAMPLES = 3  # names in a message


@dataclass
class FoundFiles:
    """The files below a folder. All names are paths relative to the folder, with `/` as separator.

    Attributes:
        names: Files with the requested suffixes. The files of a folder come before those of its subfolders.
        other_suffixes: Files with other suffixes.
        hidden: Skipped because the name begins with a dot: folders, and files with the requested suffixes.
        special: Skipped named pipes, sockets and devices.
        repeated: Skipped links to folders that were already read.
        unreadable: Folders that cannot be read, each with the reason.
    """

    names: list[str] = field(default_factory=list)
    other_suffixes: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    special: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    def skipped(self, expected: Collection[str] = ()) -> list[str]:
        """Return one message per reason why files were skipped. Unreadable folders are not included.

        Args:
            expected: Suffixes in lower case; files with these suffixes are not reported.
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
    """Return the suffix of a file name in lower case (`.jpg` for `x/A.JPG`), or an empty string."""
    return os.path.splitext(name)[1].lower()


def find_files(folder: str | Path, suffixes: Collection[str]) -> FoundFiles:
    """Find the files with certain suffixes in a folder and its subfolders.

    Links to folders are followed after all real folders. A file below `folder` is therefore listed under its real path.
    Each folder is read once, so circular links end. Broken links are listed too: the reader of the file reports the
    error.

    Args:
        folder: The folder.
        suffixes: Suffixes with a dot, in lower case. Upper and lower case in file names are equivalent.

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
    """Whether an entry is a file or a broken link. The reader of the file reports broken links."""
    try:
        return entry.is_file() or not os.path.exists(entry.path)
    except OSError:
        return True


def _in_order_of_folders(name: str) -> tuple[list[str], str]:
    folder, _, file = name.rpartition("/")
    return folder.split("/"), file


def _walk(root: str, found: FoundFiles) -> Iterator[tuple[str, list[os.DirEntry[str]]]]:
    """Yield each folder that is not hidden once, as its path and the entries of its files.

    The path is relative to `root` and ends with `/`; it is empty for `root`. Hidden, repeated and unreadable folders
    are added to `found`.
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
    """Return the sorted entries of a folder. A repeated or unreadable folder is added to `found` and has no entries."""
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
    """Whether an entry is a folder or a link to a folder."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
