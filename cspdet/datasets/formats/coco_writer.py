"""Write COCO detection JSON and a data descriptor; used by every converter and by the built-in dataset."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cspdet.errors import DataError
from cspdet.io.atomic import write_text
from cspdet.io.text import is_text

SPLITS = ("train", "val", "test")
SPLIT_LINE = re.compile(
    r'(train|val|test): \{images: ".*", annotations: "annotations/[\w-]+\.json"\}'
)  # of a written descriptor
MAX_WRITE_SECONDS = 2.0  # by which annotations can be newer than the descriptor, which is written after them
_MADE_BY = "# made by cspdet prepare-data"
NOT_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


@dataclass(frozen=True)
class CocoBox:
    """One object: category id, and box x, y, width, height in image pixels."""

    category_id: int
    xywh: tuple[float, float, float, float]
    area: float  # square pixels; the area of the box if no segmentation is known
    is_crowd: bool = False


@dataclass(frozen=True)
class CocoImage:
    """One image: its file, relative to the image folder of its split, and its objects."""

    file_name: str
    size_hw: tuple[int, int]  # height, width of the upright image
    boxes: tuple[CocoBox, ...]
    image_id: int | None = None  # None: assigned when the file is written


@dataclass(frozen=True)
class ConversionResult:
    """Result of preparing or converting a dataset: the path of its descriptor, counts and warnings."""

    config_path: Path
    counts: dict[str, dict[str, int]]  # split -> {"images", "boxes"}
    warnings: tuple[str, ...]  # one message per type of skipped, clipped or kept entry, with its count


def coco_json(categories: Mapping[int, str], coco_images: Sequence[CocoImage], first_id: int = 1) -> str:
    """Return the text of a COCO file; images without an id get ids from `first_id`, boxes get ids from 1."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, coco_image in enumerate(coco_images, first_id):
        image_id = number if coco_image.image_id is None else coco_image.image_id
        height, width = coco_image.size_hw
        images.append({"id": image_id, "file_name": coco_image.file_name, "width": width, "height": height})
        for box in coco_image.boxes:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": box.category_id,
                    "bbox": list(box.xywh),
                    "area": box.area,
                    "iscrowd": int(box.is_crowd),
                }
            )
    categories_list = [
        {"id": category_id, "name": name, "supercategory": ""} for category_id, name in categories.items()
    ]
    return json.dumps({"images": images, "annotations": annotations, "categories": categories_list})


def count_images_and_boxes(images: Sequence[CocoImage]) -> dict[str, int]:
    """Count the images and boxes of a split, for `ConversionResult.counts`."""
    return {"images": len(images), "boxes": sum(len(image.boxes) for image in images)}


def format_dataset_config(converter: str, splits: dict[str, tuple[str, str]]) -> str:
    """Return the text of a data descriptor; its first line is a comment with `converter`.

    Args:
        converter: The arguments of `cspdet prepare-data`, for example `voc` or `convert --format mymodule:CSV`.
        splits: Split -> (image folder, annotation file).
    """
    lines = [f"{_MADE_BY} {converter}; relative paths start at the folder of this file"]
    for name in SPLITS:
        if name in splits:
            images, annotations = map(_quote, splits[name])
            lines.append(f"{name}: {{images: {images}, annotations: {annotations}}}")
    return "\n".join(lines) + "\n"


def _quote(path: str) -> str:
    """Quote text for YAML; characters that YAML forbids or reads as line breaks are escaped."""
    return NOT_IN_YAML.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps(path, ensure_ascii=False))


def config_file_name(converter: str) -> str:
    """Return the data descriptor's file name.

    `converter` "voc" gives `voc.yaml`; "convert --format mymodule:CSV" gives `csv.yaml`.
    """
    return f"{re.split('[ :]', converter)[-1].lower()}.yaml"


def was_written_by(config_path: Path, converter: str) -> bool:
    """Return whether an earlier run of `converter` wrote this descriptor, and nothing was added to it."""
    try:
        signature, *lines = config_path.read_text(encoding="utf-8").splitlines() or [""]
    except (OSError, UnicodeDecodeError):
        return False
    return signature.startswith(f"{_MADE_BY} {converter};") and all(SPLIT_LINE.fullmatch(line) for line in lines)


def _check_is_text(folder: Path) -> None:
    if not is_text(os.path.abspath(folder)):
        raise DataError(f"{folder}: a descriptor cannot name this folder: it is not UTF-8 text; rename it")


def check_output_folder(folder: Path, converter: str) -> None:
    """Check that an output folder is new, empty, or an earlier output of the same converter.

    Raises:
        DataError: `folder` is a file, contains other files, contains annotations that were changed after the
            conversion, or has a name that is not UTF-8.
    """
    _check_is_text(folder)
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: expected a folder to write to, found a file")
    if (
        folder.is_dir()
        and any(folder.iterdir())
        and not was_written_by(folder / config_file_name(converter), converter)
    ):
        raise DataError(
            f"{folder}: the folder has other files in it; expected a new or empty --output, "
            f"or an earlier output of `prepare-data {converter}`, which is replaced"
        )
    check_unchanged(folder, converter, folder.glob("annotations/instances_*.json"))


def check_unchanged(folder: Path, converter: str, files: Iterable[Path]) -> None:
    """Raise DataError if a file was changed after the conversion that wrote the descriptor in `folder`.

    Args:
        folder: The output folder of an earlier conversion.
        converter: The arguments of `cspdet prepare-data`, which determine the name of the descriptor.
        files: Files that the conversion wrote; folders among them are ignored.
    """
    for file in sorted(path for path in files if path.is_file()):
        if file.stat().st_mtime > (folder / config_file_name(converter)).stat().st_mtime + MAX_WRITE_SECONDS:
            raise DataError(f"{file}: was changed after the conversion; it is kept: expected another --output")


def write_coco_dataset(
    folder: Path,
    converter: str,
    categories: Mapping[int, str],
    splits: Mapping[str, tuple[Path, Sequence[CocoImage]]],
    warnings: Sequence[str],
) -> ConversionResult:
    """Write `annotations/instances_<split>.json` and `<converter>.yaml`; the images are not copied.

    Args:
        folder: The output folder.
        converter: The arguments of `cspdet prepare-data`, for example `voc` or `convert --format mymodule:CSV`.
        categories: Category id -> class name.
        splits: Split -> (image folder, images). Image ids continue from one split to the next.
        warnings: Messages for the result.

    Raises:
        DataError: `folder` has other files in it, or the name of a folder is not UTF-8.
    """
    check_output_folder(folder, converter)
    for images, _ in splits.values():
        _check_is_text(images)
    described, first_id = {}, 1
    for name, (images, coco_images) in splits.items():
        file = f"annotations/instances_{name}.json"
        write_text(folder / file, coco_json(categories, coco_images, first_id))
        described[name] = (os.path.abspath(images), file)
        first_id += len(coco_images)
    config_path = folder / config_file_name(converter)
    write_text(config_path, format_dataset_config(converter, described))
    counts = {name: count_images_and_boxes(coco_images) for name, (_, coco_images) in splits.items()}
    return ConversionResult(config_path, counts, tuple(warnings))


def hash_split(names: Iterable[str], fraction: float) -> set[str]:
    """Select a fraction of `names` for val: the names with the smallest hashes.

    The selection does not depend on the order and the folder of the files. If there are two or more names, and the
    fraction is neither 0 nor 1, both train and val get at least one name.
    """

    def rank(name: str) -> bytes:
        return hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()

    ranked = sorted(set(names), key=rank)
    num_val = round(fraction * len(ranked))
    if 0 < fraction < 1 and len(ranked) > 1:
        num_val = min(max(num_val, 1), len(ranked) - 1)
    return set(ranked[:num_val])


def clip_box(
    corners: tuple[float, float, float, float], size_hw: tuple[int, int]
) -> tuple[tuple[float, float, float, float], bool] | None:
    """Clip a box to its image.

    Args:
        corners: x1, y1, x2, y2 in image pixels.
        size_hw: Height and width of the image.

    Returns:
        (x, y, width, height) rounded to 0.001 pixels, and whether a side was clipped by more than one pixel. If the
        box is outside the image, the result is None.
    """
    height, width = size_hw
    x1, y1, x2, y2 = corners
    left, top, right, bottom = max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
    cut = max(left - x1, top - y1, x2 - right, y2 - bottom) > 1.0
    xywh = (round(left, 3), round(top, 3), round(right - left, 3), round(bottom - top, 3))
    return (xywh, cut) if min(xywh[2:]) > 0 else None
