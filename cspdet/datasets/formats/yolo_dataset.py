"""Find the images and class names of a YOLO dataset.

Supported: a data.yaml as written by ultralytics and Roboflow, a Darknet .data file, a folder with one of these, a
folder with images/{train,val} and labels/{train,val}, and a flat folder of images with txt files.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from cspdet.datasets.formats.coco_writer import SPLITS
from cspdet.datasets.image_io import IMAGE_SUFFIXES
from cspdet.errors import DataError, did_you_mean

CLASS_NAME_FILES = ("classes.txt", "obj.names", "names.txt", "labels/classes.txt", "data/obj.names")
SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


@dataclass(frozen=True)
class YoloDataset:
    """The images and class names of a YOLO dataset.

    `path` is the file or folder that describes the dataset.
    """

    path: Path
    names: tuple[str, ...]
    splits: dict[str, list[Path]]  # absolute image paths, sorted within a folder


def find_yolo_dataset(source: Path, problems: list[str]) -> YoloDataset:
    """Find the images of each split.

    Args:
        source: A data.yaml, a .data file or a folder.
        problems: List to which errors about missing images are appended.

    Raises:
        DataError: The source does not exist, or has no class names.
    """
    source = Path(os.path.abspath(source))
    if source.is_dir():
        described = _find_dataset_config(source)
        return find_yolo_dataset(described, problems) if described else _from_folder(source)
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
            values = _load_yaml(source)
            return isinstance(values, dict) and not {"names", "nc"}.isdisjoint(values)
        return source.suffix.lower() == ".data"
    except DataError:
        return False


def _find_class_names(folder: Path) -> Path | None:
    return next((folder / name for name in CLASS_NAME_FILES if (folder / name).is_file()), None)


def _find_dataset_config(folder: Path) -> Path | None:
    """Return the file in `folder` that describes the dataset; None if there is no such file."""
    for pattern in ("data.yaml", "dataset.yaml", "*.yaml", "*.yml", "*.data"):
        for file in sorted(folder.glob(pattern)):
            if file.suffix == ".data" or (
                isinstance(_load_yaml(file), dict) and {"train", "val"} & set(_load_yaml(file))
            ):
                return file
    return None


def _load_yaml(file: Path) -> Any:
    """Read a YAML file of another program; unlike in configs of cspdet, integer keys are allowed."""
    try:
        return YAML(typ="safe", pure=True).load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}" if mark else str(file)
        reason = getattr(error, "problem", None) or error
        raise DataError(f"{where}: not readable as YAML: {str(reason).splitlines()[0]}") from None


def _from_yaml(file: Path, problems: list[str]) -> YoloDataset:
    values = _load_yaml(file)
    if not isinstance(values, dict):
        raise DataError(f"{file}: expected keys like path, train, val and names")
    if not any(values.get(split) for split in SPLITS):
        found = [str(key) for key in values]
        raise DataError(f"{file}: train: missing key{did_you_mean('train', found)}; found the keys {', '.join(found)}")
    base = values.get("path") or "."
    bases = [file.parent / base, Path.cwd() / base, file.parent]
    splits = {}
    for split in SPLITS:
        value = values.get(split) or (values.get("valid") if split == "val" else None)
        entries = value if isinstance(value, list) else [value] if value else []
        splits[split] = _collect_images((str(entry) for entry in entries), bases, f"{file}: {split}", problems)
    return YoloDataset(file, _parse_class_names(values, file), splits)


def _parse_class_names(values: dict[Any, Any], file: Path) -> tuple[str, ...]:
    names = values.get("names")
    if isinstance(names, dict) and sorted(names) == list(range(len(names))) and names:
        return tuple(str(names[i]) for i in range(len(names)))
    if isinstance(names, list) and names:
        return tuple(str(name) for name in names)
    if names is None and isinstance(values.get("nc"), int):
        return tuple(f"class_{i}" for i in range(values["nc"]))
    raise DataError(f"{file}: names: expected a list of class names, or a mapping of 0, 1, 2 ... to names")


def _from_darknet(file: Path, problems: list[str]) -> YoloDataset:
    pairs = (line.split("=", 1) for line in file.read_text(encoding="utf-8").splitlines() if "=" in line)
    values = {key.strip(): value.strip() for key, value in pairs}
    missing = [key for key in ("train", "names") if key not in values]
    if missing:
        raise DataError(*(f"{file}: {key}: missing key{did_you_mean(key, values)}" for key in missing))
    # Darknet resolves paths against the working directory, usually the parent of the folder of the .data file.
    bases = [file.parent, file.parent.parent, Path.cwd()]
    names = _first_existing(values["names"], bases)
    if names is None:
        raise DataError(f"{file}: names: no such file {values['names']}")
    keys = {"train": "train", "val": "valid", "test": "test"}
    splits = {
        split: _collect_images([values[key]], bases, f"{file}: {key}", problems) if values.get(key) else []
        for split, key in keys.items()
    }
    return YoloDataset(file, _read_class_names(names), splits)


def _from_folder(folder: Path) -> YoloDataset:
    names = _find_class_names(folder)
    if names is None:
        expected = ", ".join(("data.yaml", *CLASS_NAME_FILES[:2]))
        raise DataError(f"{folder}: no class names; expected {expected} with one name per line")
    splits: dict[str, list[Path]] = {}
    for split, folders in SPLIT_FOLDERS.items():
        candidates = [candidate for name in folders for candidate in (folder / "images" / name, folder / name)]
        splits[split] = next((found for candidate in candidates if (found := _find_images(candidate))), [])
    if not any(splits.values()):
        splits["train"] = _find_images(folder)
    return YoloDataset(folder, _read_class_names(names), splits)


def _read_class_names(file: Path) -> tuple[str, ...]:
    lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    if not lines or not all(lines):
        raise DataError(f"{file}: expected a class name in every line")
    return tuple(lines)


def _collect_images(entries: Iterable[str], bases: list[Path], where: str, problems: list[str]) -> list[Path]:
    """Return the images of all entries; an entry is a folder, a list file or an image file."""
    images: list[Path] = []
    for entry in entries:
        # Roboflow writes ../train/images, although train/ is in the folder of data.yaml.
        path = _first_existing(entry, bases) or _first_existing(entry.removeprefix("../"), bases)
        if path is None:
            problems.append(f"{where}: no such file or folder: {entry} (relative to {bases[0]})")
        elif path.is_dir():
            images += _find_images(path)
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            images.append(path)
        else:
            images += _read_image_list(path, bases, problems)
    return list(dict.fromkeys(images))


def _read_image_list(file: Path, bases: list[Path], problems: list[str]) -> list[Path]:
    images = []
    for line_number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if line.strip():
            image = _first_existing(line.strip(), [file.parent, *bases])
            if image is None:
                problems.append(f"{file}:{line_number}: no such image: {line.strip()}")
            else:
                images.append(image)
    return images


def _first_existing(entry: str, bases: list[Path]) -> Path | None:
    entry = entry.replace("\\", "/")
    paths = (Path(os.path.abspath(base / os.path.expanduser(entry))) for base in bases)
    return next((path for path in paths if path.exists()), None)


def _find_images(folder: Path) -> list[Path]:
    found = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders.sort()
        found += [Path(parent, name) for name in sorted(files) if Path(name).suffix.lower() in IMAGE_SUFFIXES]
    return found
