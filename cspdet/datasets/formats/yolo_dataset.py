"""Find the images and class names of a YOLO dataset.

The source can be a data.yaml of ultralytics or Roboflow, a Darknet .data file, an export of CVAT, or a folder with one
of these files. It can also be a folder with images/{train,val} and labels/{train,val}, or a flat folder of images with
txt files.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cspdet.datasets.formats.coco_writer import SPLITS
from cspdet.datasets.formats.names import class_name_problems, read_class_names
from cspdet.datasets.formats.yolo_paths import ImageFinder, first_existing
from cspdet.datasets.formats.yolo_yaml import PlainScalar, load_yaml
from cspdet.errors import DataError, did_you_mean, truncate_list
from cspdet.io.text import read_lines
from cspdet.io.walk import is_folder

CLASS_NAME_FILES = ("classes.txt", "obj.names", "names.txt", "labels/classes.txt", "data/obj.names")
SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
MAX_CLASSES = 2**20
Keypoints = tuple[int, int]  # number of keypoints of an object, and of values of a keypoint (2 or 3)


@dataclass(frozen=True)
class YoloDataset:
    """The images and class names of a YOLO dataset.

    `path` is the file or folder that describes the dataset.
    """

    path: Path
    names: tuple[str, ...]
    splits: dict[str, list[Path]]  # absolute image paths, sorted within a folder
    keypoints: Keypoints | None = None  # of a pose dataset
    warnings: list[str] = field(default_factory=list)  # what was skipped
    lists: set[Path] = field(default_factory=set)  # text files that are not labels


def find_yolo_dataset(source: Path, problems: list[str]) -> YoloDataset:
    """Find the images of each split.

    Args:
        source: A data.yaml, a .data file or a folder.
        problems: List to which errors about missing images are appended.

    Raises:
        DataError: The source does not exist, has no class names, or its class names are empty or not unique.
    """
    source = Path(os.path.abspath(source))
    if source.is_dir():
        described = _find_dataset_config(source)
        return find_yolo_dataset(described, problems) if described else _from_folder(source, problems)
    if not source.is_file():
        raise DataError(f"{source}: no such file or folder")
    if source.suffix.lower() in (".yaml", ".yml"):
        return _from_yaml(source, problems)
    if source.suffix.lower() == ".data":
        return _from_darknet(source, problems)
    raise DataError(f"{source}: expected a data.yaml, a Darknet .data file or a folder")


def is_yolo_dataset(source: Path) -> bool:
    """Return whether a file or folder looks like a YOLO dataset.

    Only file names and the keys of YAML files are checked.
    """
    try:
        if source.is_dir():
            described = _find_dataset_config(source)
            return _find_class_names(source) is not None or (described is not None and is_yolo_dataset(described))
        if source.suffix.lower() in (".yaml", ".yml"):
            values = load_yaml(source)
            return isinstance(values, dict) and not {"names", "nc"}.isdisjoint(values)
        return source.suffix.lower() == ".data"
    except DataError:
        return False


def _find_class_names(folder: Path) -> Path | None:
    return next((folder / name for name in CLASS_NAME_FILES if (folder / name).is_file()), None)


def _find_dataset_config(folder: Path) -> Path | None:
    """Return the file in `folder` that describes the dataset; None if there is no such file."""
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".yaml", ".yml", ".data"))
    preferred = ("data.yaml", "dataset.yaml")
    files.sort(key=lambda path: (path.name not in preferred, path.name != "data.yaml", path.suffix.lower() == ".data"))
    return next((file for file in files if file.is_file() and _describes_splits(file)), None)


def _describes_splits(file: Path) -> bool:
    if file.suffix.lower() == ".data":
        return True
    values = load_yaml(file)
    return isinstance(values, dict) and not {"train", "val"}.isdisjoint(values)


def _from_yaml(file: Path, problems: list[str]) -> YoloDataset:
    values = load_yaml(file)
    if not isinstance(values, dict):
        raise DataError(f"{file}: expected keys like path, train, val and names")
    if not any(values.get(split) for split in SPLITS):
        found = [str(key)[:60] for key in values]
        raise DataError(f"{file}: train: missing key{did_you_mean('train', found)}; found the keys {', '.join(found)}")
    base = values.get("path") or "."
    if not isinstance(base, str) or isinstance(base, PlainScalar):
        raise DataError(f"{file}: path: expected a folder as text, found {_describe(base)}")
    images = ImageFinder([file.parent / base, Path.cwd() / base, file.parent], problems)
    splits = {split: images.find(_entries(values, split, file), f"{file}: {split}", split) for split in SPLITS}
    names, keypoints = _parse_class_names(values, file), _parse_keypoints(values, file)
    return YoloDataset(file, names, splits, keypoints, images.warnings, images.lists)


def _entries(values: dict[str, Any], split: str, file: Path) -> list[str]:
    """Return the paths that a data.yaml gives for a split: folders, list files or images."""
    value = values.get(split) or (values.get("valid") if split == "val" else None)
    entries = value if isinstance(value, list) else [value] if value else []
    for entry in entries:
        if not isinstance(entry, str) or not entry:
            raise DataError(f"{file}: {split}: expected a folder or a list file as text, found {_describe(entry)}")
    return entries


def _describe(value: Any) -> str:
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "a mapping"
    return "nothing" if value is None else f"{value[:60]!r}"


def _parse_class_names(values: dict[str, Any], file: Path) -> tuple[str, ...]:
    names, count = values.get("names"), values.get("nc")
    if isinstance(names, dict) and names.keys() == {str(i) for i in range(len(names))}:
        names = [names[str(i)] for i in range(len(names))]
    if names is None and isinstance(count, str) and count.isascii() and count.isdecimal() and len(count) < 8:
        names = [f"class_{i}" for i in range(min(int(count), MAX_CLASSES + 1))]
    if not isinstance(names, list) or not names or any(isinstance(name, (list, dict)) for name in names):
        raise DataError(f"{file}: names: expected a list of class names, or a mapping of 0, 1, 2 ... to names")
    if len(names) > MAX_CLASSES:
        raise DataError(f"{file}: names: expected at most {MAX_CLASSES:,} classes")
    return _checked(tuple("" if name is None else str(name) for name in names), f"{file}: names")


def _checked(names: tuple[str, ...], where: str) -> tuple[str, ...]:
    problems = class_name_problems(names, where)
    if problems:
        raise DataError(*truncate_list(problems))
    return names


def _parse_keypoints(values: dict[str, Any], file: Path) -> Keypoints | None:
    shape = values.get("kpt_shape")
    if shape is None:
        return None
    if isinstance(shape, list) and len(shape) == 2 and all(isinstance(n, str) and n.isdecimal() for n in shape):
        count, length = (int(n[:6]) for n in shape)
        if length in (2, 3):
            return count, length
    raise DataError(f"{file}: kpt_shape: expected the number of keypoints and of their values (2 or 3), as in [17, 3]")


def _from_darknet(file: Path, problems: list[str]) -> YoloDataset:
    pairs = (line.split("=", 1) for line in read_lines(file, lists_paths=True) if "=" in line)
    values = {key.strip(): value.strip() for key, value in pairs if not key.lstrip().startswith("#")}
    missing = [key for key in ("train", "names") if not values.get(key)]
    if missing:
        raise DataError(*(f"{file}: {key}: missing key{did_you_mean(key, values)}" for key in missing))
    # Darknet resolves paths against the working directory, usually the parent of the folder of the .data file.
    bases = [file.parent, file.parent.parent, Path.cwd()]
    names = first_existing(values["names"], bases)
    if names is None:
        raise DataError(f"{file}: names: no such file {values['names']}")
    images = ImageFinder(bases, problems)
    keys = {"train": "train", "val": "valid", "test": "test"}
    splits = {
        split: images.find([values[key]] if values.get(key) else [], f"{file}: {key}", split)
        for split, key in keys.items()
    }
    class_names = _checked(read_class_names(names), str(names))
    return YoloDataset(file, class_names, splits, None, images.warnings, images.lists | {names})


def _subfolder(folder: Path, *names: str) -> Path | None:
    """Return the folder `names[0]/names[1]/...` below `folder`, ignoring case; None if there is none."""
    for name in names:
        inside = sorted(entry.name for entry in os.scandir(folder) if is_folder(entry) and entry.name.lower() == name)
        if not inside:
            return None
        folder = folder / (name if name in inside else inside[0])
    return folder


def _from_folder(folder: Path, problems: list[str]) -> YoloDataset:
    names = _find_class_names(folder)
    if names is None:
        expected = ", ".join(("data.yaml", *CLASS_NAME_FILES[:2]))
        raise DataError(f"{folder}: no class names; expected {expected} with one name per line")
    images = ImageFinder([folder], problems)
    splits: dict[str, list[Path]] = {}
    for split, folders in SPLIT_FOLDERS.items():
        candidates = [_subfolder(folder, *path) for name in folders for path in (("images", name), (name,))]
        splits[split] = next((found for path in candidates if path and (found := images.in_folder(path))), [])
    if not any(splits.values()):
        splits["train"] = images.in_folder(folder)
    class_names = _checked(read_class_names(names), str(names))
    return YoloDataset(folder, class_names, splits, None, images.warnings, images.lists | {names})
