"""Paths of a YOLO dataset: the images of folders and list files, and the label file of an image."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from cspdet.datasets.image_io import IMAGE_SUFFIXES
from cspdet.io.text import other_forms, read_lines
from cspdet.io.walk import find_files

# Suffixes of files that YOLO datasets have beside their images
OTHER_FILES = frozenset((".txt", ".yaml", ".yml", ".names", ".data", ".cache", ".json", ".xml", ".csv", ".md", ".npy"))
IMAGE_FOLDERS = ("images", "jpegimages")  # in lower case; their labels are in the folder labels beside them
OPTIONAL_SPLIT = "test"  # exports name it even if they do not contain it
MAX_EXAMPLES = 3  # names in a message


class ImageFinder:
    """Finds the images of splits.

    Args:
        bases: The folders that paths are relative to, tried in order.
        problems: List to which a message is appended for each path that has no image.

    Attributes:
        warnings: One message per type of skipped file, and per missing test split.
        lists: The list files that were read.
    """

    def __init__(self, bases: list[Path], problems: list[str]):
        self._bases, self._problems = bases, problems
        self.warnings: list[str] = []
        self.lists: set[Path] = set()

    def find(self, entries: Iterable[str], where: str, split: str) -> list[Path]:
        """Find the images of a split, each once.

        Args:
            entries: Folders, list files or images.
            where: The place of the entries, for messages.
            split: Name of the split. A missing path is a warning in the split test, and an error in other splits.
        """
        images: list[Path] = []
        for entry in entries:
            path = first_existing(entry, self._bases)
            if path is None:
                missing = f"{where}: no such file or folder: {entry} (relative to {self._bases[0]})"
                if split == OPTIONAL_SPLIT:
                    self.warnings.append(f"{missing}; the split is left out")
                else:
                    self._problems.append(missing)
            elif path.is_dir():
                images += self.in_folder(path)
            elif path.suffix.lower() in IMAGE_SUFFIXES:
                images.append(path)
            else:
                images += self._in_list(path)
        return list(dict.fromkeys(images))

    def in_folder(self, folder: Path) -> list[Path]:
        """Find the images of a folder and its subfolders, sorted."""
        try:
            found = find_files(folder, IMAGE_SUFFIXES)
        except OSError as error:
            self._problems.append(f"{folder}: cannot be read: {error.strerror or error}")
            return []
        self._problems += [f"{folder}: cannot be read: {name}" for name in found.unreadable]
        self.warnings += [f"{folder}: {line}" for line in found.skipped(OTHER_FILES)]
        return [folder / name for name in found.names]

    def _in_list(self, file: Path) -> list[Path]:
        self.lists.add(file)
        images = []
        for line_number, line in enumerate(read_lines(file, lists_paths=True), 1):
            if line.strip():
                image = first_existing(line.strip(), [file.parent, *self._bases])
                if image is None or image.is_dir():
                    self._problems.append(f"{file}:{line_number}: no such image: {line.strip()}")
                else:
                    images.append(image)
        return images


def first_existing(entry: str, bases: Iterable[Path]) -> Path | None:
    """Find the file or folder `entry` in the folders `bases`; return its absolute path, or None if there is none.

    Forms of the path that other programs and operating systems write are also tried.
    """
    paths = (os.path.abspath(base / os.path.expanduser(form)) for form in _forms(entry) for base in bases)
    return next((Path(path) for path in paths if os.path.exists(path)), None)


def _forms(entry: str) -> Iterator[str]:
    """Yield `entry` as written, then other forms of the path that programs write.

    The other forms are a decoded file:// URL, other Unicode normal forms, slashes for backslashes, and no leading ../
    or data/.
    """
    yield entry
    if entry.startswith("file://"):
        yield url2pathname(urlsplit(entry).path)
    yield from other_forms(entry)
    form = entry.replace("\\", "/")
    yield form
    # Roboflow writes ../train/images although train/ is in the folder of data.yaml, CVAT writes data/train.txt
    for prefix in ("../", "data/"):
        if form.startswith(prefix):
            form = form.removeprefix(prefix)
            yield form


def label_candidates(image_path: Path) -> list[Path]:
    """Return the possible label files of an image, most probable first.

    The first has `labels` in place of the folder `images` or `JPEGImages`, if the path has one. The last is next to the
    image.
    """
    parts = list(image_path.with_suffix(".txt").parts)
    candidates = [image_path.with_suffix(".txt")]
    at = next((i for i in range(len(parts) - 2, -1, -1) if parts[i].lower() in IMAGE_FOLDERS), None)
    if at is not None:
        candidates.insert(0, Path(*parts[:at], "labels", *parts[at + 1 :]))
    return candidates


class LabelFinder:
    """Finds the label files (.txt or .TXT) of images; each folder is scanned only once."""

    def __init__(self) -> None:
        self._listed: dict[Path, dict[str, str]] = {}  # folder -> name in NFC with the suffix .txt -> its name
        self._used: set[Path] = set()

    def find(self, image_path: Path) -> Path | None:
        """Return the label file of an image; None if there is none."""
        for candidate in label_candidates(image_path):
            name = self._list(candidate.parent).get(unicodedata.normalize("NFC", candidate.name))
            if name is not None:
                self._used.add(candidate.parent / name)
                return candidate.parent / name
        return None

    def _list(self, folder: Path) -> dict[str, str]:
        if folder not in self._listed:
            try:
                names = [entry.name for entry in os.scandir(folder) if entry.name.lower().endswith(".txt")]
            except OSError:
                names = []
            names.sort()  # a.TXT, then a.txt, which replaces it
            self._listed[folder] = {unicodedata.normalize("NFC", f"{name[:-4]}.txt"): name for name in names}
        return self._listed[folder]

    def unused(self, known: set[Path]) -> list[str]:
        """Return the sorted names of the label files without an image, in the folders of used label files.

        Args:
            known: Text files that are not labels.
        """
        folders = {path.parent for path in self._used}
        unused = {folder / name for folder in folders for name in self._listed[folder].values()} - self._used - known
        return sorted(path.name for path in unused if not path.name.lower().startswith((".", "readme", "classes")))
