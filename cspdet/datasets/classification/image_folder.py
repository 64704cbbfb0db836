"""Pictures with a class each: folders as ImageNet has them, or list files, in a few flat arrays.

    DIR/train/CLASS/*, DIR/val/CLASS/*       pictures may lie in subfolders of their class
    DIR/train.txt, DIR/val.txt               lines of `path class`, paths relative to DIR
    DIR/classes.txt                          a name a line, the order of the classes; optional, but for lists that
                                             give the classes as numbers from 0

Nothing is decoded or even looked at here, so that a million pictures take seconds; a picture that cannot be read is
told by whoever reads it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from cspdet.datasets.image_io import IMAGE_SUFFIXES
from cspdet.datasets.issues import IssueCounter
from cspdet.errors import DataError, did_you_mean, truncate_list

Split = Literal["train", "val"]

SUFFIXES = tuple(IMAGE_SUFFIXES)
SCAN_THREADS = 8  # threads: a network disk answers several questions at a time
MAX_EXAMPLES = 3  # files told for a kind of mistake


@dataclass(frozen=True, eq=False)
class ImageFolderDataset:
    """N pictures, each of one class. No picture is a Python object, so forked workers share the memory."""

    root: Path
    split: str
    classes: tuple[str, ...]
    label: np.ndarray  # (N,) int32, index into `classes`
    names: bytes  # paths relative to `root`, one after the other, as the file system encodes them
    name_start: np.ndarray  # (N + 1,) int64, offsets into `names`
    warnings: tuple[str, ...]  # counted summaries of what was skipped

    def __len__(self) -> int:
        return len(self.label)

    def path(self, index: int) -> Path:
        """Where the picture is."""
        return self.root / self.name(index)

    def name(self, index: int) -> str:
        """The picture's path relative to `root`."""
        index = range(len(self))[index]
        return os.fsdecode(self.names[self.name_start[index] : self.name_start[index + 1]])

    @property
    def counts(self) -> np.ndarray:
        """(C,) int64, pictures of each class."""
        return np.bincount(self.label, minlength=len(self.classes))

    @property
    def nbytes(self) -> int:
        """Memory that the set takes."""
        return len(self.names) + self.label.nbytes + self.name_start.nbytes


def load_image_folder(root: str | Path, split: Split, classes: tuple[str, ...] | None = None) -> ImageFolderDataset:
    """The pictures of a split, sorted by class and path (folders), or in the order of the list.

    `classes` fixes names and order, as those of a training do for its validation. Without it they are those of
    classes.txt, else those of the train split where there is one, sorted, else those of the split itself.

    Raises:
        DataError: no such split, no pictures, a class without any, or classes that are not among those expected.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; expected one with train/CLASS/* and val/CLASS/*, or lists")
    folder, listing = root / split, root / f"{split}.txt"
    issues = IssueCounter(str(folder if folder.is_dir() else listing))
    if folder.is_dir():
        if listing.is_file():
            issues.add(f"read instead of {listing.name}, which stands beside it")
        return _from_folders(root, split, classes, issues)
    if listing.is_file():
        return _from_list(root, split, classes, issues)
    raise DataError(f"{root}: no {split} split; expected {folder}/CLASS/* or {listing}{_hint(root)}")


def has_split(root: str | Path, split: Split) -> bool:
    """Whether there is anything to read of this split."""
    return (Path(root) / split).is_dir() or (Path(root) / f"{split}.txt").is_file()


def _hint(root: Path) -> str:
    inside = sorted(entry.name for entry in os.scandir(root) if not entry.name.startswith("."))
    return f"; found {', '.join(inside[:5])}{', ...' if len(inside) > 5 else ''}" if inside else "; the folder is empty"


# --- folders -------------------------------------------------------------------------------------


class _ScannedFolder(NamedTuple):
    """What one class folder holds: paths relative to the root, sorted, and what was left out."""

    names: list[str]
    non_images: list[str]  # files that are no pictures by their suffix
    symlink_loops: list[str]  # links to a folder around them


def _from_folders(
    root: Path, split: Split, classes: tuple[str, ...] | None, issues: IssueCounter
) -> ImageFolderDataset:
    class_names, beside = _class_folders(root / split)
    for name in beside:
        issues.add("files beside the class folders skipped", name)
    if not class_names:
        raise DataError(f"{root / split}: no class folders; expected {root / split}/CLASS/*{_hint(root / split)}")
    classes = _resolve_classes(root, split, classes) or class_names
    _check_known_classes(root / split, class_names, classes)
    with ThreadPoolExecutor(SCAN_THREADS) as threads:
        scanned = dict(
            zip(class_names, threads.map(lambda name: _scan(root, f"{split}/{name}"), class_names), strict=True)
        )
    if empty := [name for name, inside in scanned.items() if not inside.names]:
        others = sum(len(scanned[name].non_images) for name in empty)
        raise DataError(
            f"{root / split / empty[0]}: no picture in this class folder" + _format_first_of(empty, "empty class folders")
            + (f"; {others} files in there are no pictures ({' '.join(sorted(SUFFIXES))})" if others else "")
        )  # fmt: skip
    for inside in scanned.values():
        for name in inside.non_images:
            issues.add("files that are no pictures by their suffix skipped", name)
        for name in inside.symlink_loops:
            issues.add("links to a folder around themselves skipped", name)
    for name in classes:
        if name not in scanned:
            issues.add("classes without a folder, so without a picture", name)
    names = [name for label in classes if label in scanned for name in scanned[label].names]
    counts = [len(scanned[name].names) if name in scanned else 0 for name in classes]
    return _pack_dataset(root, split, classes, np.repeat(np.arange(len(classes)), counts), names, issues)


def _class_folders(folder: Path) -> tuple[tuple[str, ...], list[str]]:
    """The names of the class folders, and of the files beside them, sorted; hidden ones are neither."""
    entries = [entry for entry in _entries(folder) if not entry.name.startswith(".")]
    folders = tuple(sorted(entry.name for entry in entries if entry.is_dir()))
    return folders, sorted(entry.name for entry in entries if not entry.is_dir())


def _scan(root: Path, inside: str) -> _ScannedFolder:
    """All pictures below root/inside, links followed."""
    scanned = _ScannedFolder([], [], [])
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


# --- lists ---------------------------------------------------------------------------------------


def _from_list(root: Path, split: Split, classes: tuple[str, ...] | None, issues: IssueCounter) -> ImageFolderDataset:
    listing = root / f"{split}.txt"
    names, words = _read_list(listing)
    classes = _resolve_classes(root, split, classes)
    if classes is None:
        classes = _infer_classes(words)
        if classes and classes[0] == "0":
            issues.add(
                f"no {root / 'classes.txt'}, so the classes are called by their numbers, 0 to {len(classes) - 1}"
            )
    label_by_word = {name: i for i, name in enumerate(classes)}
    label_by_word = {**{str(i): i for i in range(len(classes))}, **label_by_word}  # a class called "3" is not class 3
    _check_known_classes(listing, tuple(word for word in dict.fromkeys(words) if word not in label_by_word), classes)
    label = np.array([label_by_word[word] for word in words], np.int64)
    missing = [classes[i] for i in np.flatnonzero(np.bincount(label, minlength=len(classes)) == 0)]
    if missing and split == "train":
        raise DataError(
            f"{listing}: no picture of class {missing[0]!r}{_format_first_of(missing, 'classes without one')}"
        )
    for name in missing:
        issues.add("classes without a picture", name)
    kept = np.array([name.lower().endswith(SUFFIXES) for name in names])
    issues.add_where("lines whose file is no picture by its suffix skipped", ~kept, lambda i: names[i])
    if not kept.any():
        raise DataError(f"{listing}: no pictures; known are {' '.join(sorted(SUFFIXES))}")
    return _pack_dataset(root, split, classes, label[kept], [names[i] for i in np.flatnonzero(kept)], issues)


def _read_list(listing: Path) -> tuple[list[str], list[str]]:
    """The paths and the class words of a list; a tab, else the last space, stands between them."""
    names, words, problems = [], [], []
    for line_number, line in enumerate(_read_lines(listing), 1):
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


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _infer_classes(words: Sequence[str]) -> tuple[str, ...]:
    """Where no file names them: the words, sorted, or, where all are numbers, every number up to the largest."""
    distinct = set(words)
    if all(word.isascii() and word.isdecimal() for word in distinct):
        largest = max(int(word) for word in distinct)
        if largest < 10 * len(distinct) + 1000:  # years and other codes are names
            return tuple(str(i) for i in range(largest + 1))
    return tuple(sorted(distinct))


# --- classes -------------------------------------------------------------------------------------


def _resolve_classes(root: Path, split: Split, requested: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """The classes that are known before a split is read; None: its own."""
    if requested is not None:
        return requested
    if (root / "classes.txt").is_file():
        names = tuple(line.strip() for line in _read_lines(root / "classes.txt") if line.strip())
        duplicates = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
        if duplicates or not names:
            found = f"{duplicates[0]!r} twice" if duplicates else "none"
            raise DataError(f"{root / 'classes.txt'}: expected a class name a line, each once; found {found}")
        return names
    if split == "val" and (root / "train").is_dir():
        return _class_folders(root / "train")[0] or None
    if split == "val" and (root / "train.txt").is_file():
        return _infer_classes(_read_list(root / "train.txt")[1])
    return None


def _check_known_classes(where: Path, found: Iterable[str], classes: tuple[str, ...]) -> None:
    known = set(classes)
    unknown = [name for name in found if name not in known]
    if unknown:
        raise DataError(
            f"{where}: class {unknown[0]!r} is not one of the {len(classes)} classes expected here "
            f"({', '.join(classes[:5])}{', ...' if len(classes) > 5 else ''}){did_you_mean(unknown[0], classes)}"
            + _format_first_of(unknown, "such classes")
        )  # fmt: skip


def _format_first_of(items: Sequence[str], what: str) -> str:
    """` (the first of 7 such classes)` where there are several."""
    return f" (the first of {len(items)} {what})" if len(items) > 1 else ""


def _pack_dataset(
    root: Path, split: str, classes: tuple[str, ...], label: np.ndarray, names: Sequence[str], issues: IssueCounter
) -> ImageFolderDataset:
    encoded = [os.fsencode(name) for name in names]
    start = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(name) for name in encoded], out=start[1:])
    return ImageFolderDataset(
        root, split, classes, label.astype(np.int32), b"".join(encoded), start, tuple(issues.lines())
    )
