"""Classification datasets from class folders, as in ImageNet, or from list files, stored as flat arrays.

    DIR/train/CLASS/*, DIR/val/CLASS/*   images, also in subfolders of the class folder
    DIR/train.txt, DIR/val.txt           lines of `path class`, paths relative to DIR
    DIR/classes.txt                      optional: one class name per line, in class order; without it, class indices in
                                         a list file are also the class names

Image files are not opened here, so a million images take a few seconds; unreadable images are reported when they are
decoded.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from cspdet.datasets.classification.scan import (
    SUFFIXES,
    ScannedFolder,
    class_folders,
    infer_classes,
    read_list,
    scan_class_folder,
)
from cspdet.datasets.formats.names import class_name_problems
from cspdet.datasets.issues import IssueCounter
from cspdet.errors import DataError, did_you_mean, truncate_list
from cspdet.io.text import read_lines

Split = Literal["train", "val"]

SCAN_THREADS = 8  # network file systems serve several requests in parallel


@dataclass(frozen=True, eq=False)
class ImageFolderDataset:
    """Classification split: N images with one class each.

    The arrays are flat, so that forked loader processes share them without a copy.
    """

    root: Path
    split: str
    classes: tuple[str, ...]
    label: np.ndarray  # (N,) int32, index into `classes`
    names: bytes  # concatenated paths relative to `root`, in the encoding of the file system
    name_start: np.ndarray  # (N + 1,) int64, offsets into `names`
    warnings: tuple[str, ...]  # one message per type of skipped entry, with its count

    def __len__(self) -> int:
        return len(self.label)

    def path(self, index: int) -> Path:
        """Return the path of an image."""
        return self.root / self.name(index)

    def name(self, index: int) -> str:
        """Return the path of an image relative to `root`."""
        index = range(len(self))[index]
        return os.fsdecode(self.names[self.name_start[index] : self.name_start[index + 1]])

    @property
    def counts(self) -> np.ndarray:
        """Return the number of images of each class, (C,) int64."""
        return np.bincount(self.label, minlength=len(self.classes))

    @property
    def nbytes(self) -> int:
        """Size of the dataset in memory, in bytes."""
        return len(self.names) + self.label.nbytes + self.name_start.nbytes


def load_image_folder(root: str | Path, split: Split, classes: tuple[str, ...] | None = None) -> ImageFolderDataset:
    """Load a split; images are sorted by class and path, or have the order of the list file.

    Args:
        root: The folder of the dataset.
        split: "train" or "val".
        classes: Class names in order. If None, they are the lines of classes.txt. If this file does not exist, they are
            the sorted classes of train; if train does not exist either, the sorted classes of this split.

    Raises:
        DataError: The split is missing or empty, one of its classes has no images, or a class is unknown.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; expected one with train/CLASS/* and val/CLASS/*, or lists")
    folder, listing = root / split, root / f"{split}.txt"
    issues = IssueCounter(str(folder if folder.is_dir() else listing))
    if folder.is_dir():
        if listing.is_file():
            issues.add(f"read instead of {listing.name} in the same folder")
        return _from_folders(root, split, classes, issues)
    if listing.is_file():
        return _from_list(root, split, classes, issues)
    raise DataError(f"{root}: no {split} split; expected {folder}/CLASS/* or {listing}{_hint(root)}")


def has_split(root: str | Path, split: Split) -> bool:
    """Return whether a split exists."""
    return (Path(root) / split).is_dir() or (Path(root) / f"{split}.txt").is_file()


def _hint(root: Path) -> str:
    inside = sorted(entry.name for entry in os.scandir(root) if not entry.name.startswith("."))
    return f"; found {', '.join(inside[:5])}{', ...' if len(inside) > 5 else ''}" if inside else "; the folder is empty"


# --- folders -------------------------------------------------------------------------------------


def _from_folders(
    root: Path, split: Split, classes: tuple[str, ...] | None, issues: IssueCounter
) -> ImageFolderDataset:
    class_names, other_files = class_folders(root / split)
    for name in other_files:
        issues.add("files outside of the class folders skipped", name)
    if not class_names:
        raise DataError(f"{root / split}: no class folders; expected {root / split}/CLASS/*{_hint(root / split)}")
    classes = _resolve_classes(root, split, classes) or class_names
    _check_known_classes(root / split, class_names, classes)
    scanned = _scan_class_folders(root, split, class_names)
    _count_skipped(scanned.values(), issues)
    for name in classes:
        if name not in scanned:
            issues.add("classes without a folder, so without images", name)
    names = [name for label in classes if label in scanned for name in scanned[label].names]
    counts = [len(scanned[name].names) if name in scanned else 0 for name in classes]
    return _pack_dataset(root, split, classes, np.repeat(np.arange(len(classes)), counts), names, issues)


def _count_skipped(scanned: Iterable[ScannedFolder], issues: IssueCounter) -> None:
    for inside in scanned:
        for name in inside.non_images:
            issues.add("files without an image suffix skipped", name)
        for name in inside.repeated:
            issues.add("links to folders that were already read skipped", name)
        for name in inside.special:
            issues.add("named pipes, sockets and devices skipped", name)


def _scan_class_folders(root: Path, split: Split, class_names: tuple[str, ...]) -> dict[str, ScannedFolder]:
    """Scan all class folders; return class name -> files found. Raises DataError if a folder has no images."""
    with ThreadPoolExecutor(SCAN_THREADS) as threads:
        folders = threads.map(lambda name: scan_class_folder(root, f"{split}/{name}"), class_names)
        scanned = dict(zip(class_names, folders, strict=True))
    if empty := [name for name, inside in scanned.items() if not inside.names]:
        others = sum(len(scanned[name].non_images) for name in empty)
        raise DataError(
            f"{root / split / empty[0]}: no image in this class folder" + _format_first_of(empty, "empty class folders")
            + (f"; {others} files in it are not images ({' '.join(sorted(SUFFIXES))})" if others else "")
        )  # fmt: skip
    return scanned


# --- lists ---------------------------------------------------------------------------------------


def _from_list(root: Path, split: Split, classes: tuple[str, ...] | None, issues: IssueCounter) -> ImageFolderDataset:
    listing = root / f"{split}.txt"
    names, words = read_list(listing)
    classes = _resolve_classes(root, split, classes)
    if classes is None:
        classes = infer_classes(words)
        if classes and classes[0] == "0":
            issues.add(f"no {root / 'classes.txt'}, so the classes are named by their indices, 0 to {len(classes) - 1}")
    label_by_word = {name: i for i, name in enumerate(classes)}
    label_by_word = {**{str(i): i for i in range(len(classes))}, **label_by_word}  # names precede indices
    _check_known_classes(listing, tuple(word for word in dict.fromkeys(words) if word not in label_by_word), classes)
    label = np.array([label_by_word[word] for word in words], np.int64)
    missing = [classes[i] for i in np.flatnonzero(np.bincount(label, minlength=len(classes)) == 0)]
    if missing and split == "train":
        raise DataError(
            f"{listing}: no image of class {missing[0]!r}{_format_first_of(missing, 'classes without one')}"
        )
    for name in missing:
        issues.add("classes without images", name)
    kept = np.array([name.lower().endswith(SUFFIXES) for name in names])
    issues.add_where("lines whose file has no image suffix skipped", ~kept, lambda i: names[i])
    if not kept.any():
        raise DataError(f"{listing}: no images; known suffixes are {' '.join(sorted(SUFFIXES))}")
    return _pack_dataset(root, split, classes, label[kept], [names[i] for i in np.flatnonzero(kept)], issues)


# --- classes -------------------------------------------------------------------------------------


def _resolve_classes(root: Path, split: Split, requested: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Return `requested`, the names in classes.txt or, for val, the classes of train; None if all are missing."""
    if requested is not None:
        return requested
    if (root / "classes.txt").is_file():
        names = tuple(line.strip() for line in read_lines(root / "classes.txt") if line.strip())
        repeated = [name for name, count in Counter(names).items() if count > 1]
        if repeated or not names:
            found = f"{repeated[0]!r} twice" if repeated else "none"
            raise DataError(f"{root / 'classes.txt'}: expected one class name per line, each once; found {found}")
        return names
    if split == "val" and (root / "train").is_dir():
        return class_folders(root / "train")[0] or None
    if split == "val" and (root / "train.txt").is_file():
        return infer_classes(read_list(root / "train.txt")[1])
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
    """Return, for example, ` (the first of 7 such classes)`; return "" if there are fewer than two items."""
    return f" (the first of {len(items)} {what})" if len(items) > 1 else ""


def _pack_dataset(
    root: Path, split: str, classes: tuple[str, ...], label: np.ndarray, names: Sequence[str], issues: IssueCounter
) -> ImageFolderDataset:
    if problems := class_name_problems(classes, str(root / split)):
        raise DataError(*truncate_list(problems))
    encoded = [os.fsencode(name) for name in names]
    start = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(name) for name in encoded], out=start[1:])
    return ImageFolderDataset(
        root, split, classes, label.astype(np.int32), b"".join(encoded), start, tuple(issues.lines())
    )
