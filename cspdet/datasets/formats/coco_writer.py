"""Writing COCO detection JSON and its descriptor: what every converter and the built-in set end with."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cspdet.errors import DataError
from cspdet.io.atomic import write_text

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class CocoBox:
    """One object: its category's id and its box, x y width height in pixels from the top left corner."""

    category_id: int
    xywh: tuple[float, float, float, float]
    area: float  # square pixels; the box's where no outline is known
    is_crowd: bool = False


@dataclass(frozen=True)
class CocoImage:
    """One picture: its file, relative to the folder of its split, and its objects."""

    file_name: str
    size_hw: tuple[int, int]
    boxes: tuple[CocoBox, ...]


@dataclass(frozen=True)
class ConversionResult:
    """What a preparation left on disk."""

    config_path: Path
    counts: dict[str, dict[str, int]]  # split -> {"images", "boxes"}
    warnings: tuple[str, ...]  # counted summaries of what was skipped, clipped or kept


def coco_json(categories: dict[int, str], coco_images: Sequence[CocoImage], first_id: int = 1) -> str:
    """A COCO detection file as text; pictures are numbered from `first_id` on, boxes from 1."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, coco_image in enumerate(coco_images, first_id):
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
    named = [{"id": category_id, "name": name, "supercategory": ""} for category_id, name in categories.items()]
    return json.dumps({"images": images, "annotations": annotations, "categories": named})


def count_images_and_boxes(images: Sequence[CocoImage]) -> dict[str, int]:
    """How many pictures and boxes."""
    return {"images": len(images), "boxes": sum(len(image.boxes) for image in images)}


def format_dataset_config(converter: str, splits: dict[str, tuple[str, str]]) -> str:
    """The descriptor of `splits` (name -> images folder, annotation file); its first line names its maker."""
    lines = [_signature(converter)]
    for name in SPLITS:
        if name in splits:
            images, annotations = (json.dumps(path, ensure_ascii=False) for path in splits[name])
            lines.append(f"{name}: {{images: {images}, annotations: {annotations}}}")
    return "\n".join(lines) + "\n"


def _signature(converter: str) -> str:
    return f"# made by cspdet prepare-data {converter}; paths are relative to this file"


def was_written_by(config_path: Path, converter: str) -> bool:
    """Whether an earlier `prepare-data <maker>` wrote this descriptor."""
    try:
        return config_path.read_text(encoding="utf-8").startswith(_signature(converter))
    except (OSError, UnicodeDecodeError):
        return False


def check_output_folder(folder: Path, converter: str) -> None:
    """Refuse a folder that holds anything but an earlier output of the same maker.

    Raises:
        DataError: `folder` is a file, or has files of someone else in it.
    """
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: expected a folder to write to, found a file")
    if folder.is_dir() and any(folder.iterdir()) and not was_written_by(folder / f"{converter}.yaml", converter):
        raise DataError(
            f"{folder}: the folder has other files in it; give an empty or a new one to --output "
            f"(or one that `prepare-data {converter}` filled earlier, to replace that)"
        )


def write_coco_dataset(
    folder: Path,
    converter: str,
    categories: dict[int, str],
    splits: Mapping[str, tuple[Path, Sequence[CocoImage]]],
    warnings: Sequence[str],
) -> ConversionResult:
    """Write `annotations/instances_<split>.json` and `<maker>.yaml` into `folder`.

    `splits`: name -> folder of the pictures, pictures. Picture ids go on from one split to the next. The
    pictures stay where they are.
    """
    check_output_folder(folder, converter)
    described, first_id = {}, 1
    for name, (images, coco_images) in splits.items():
        file = f"annotations/instances_{name}.json"
        write_text(folder / file, coco_json(categories, coco_images, first_id))
        described[name] = (os.path.abspath(images), file)
        first_id += len(coco_images)
    config_path = folder / f"{converter}.yaml"
    write_text(config_path, format_dataset_config(converter, described))
    return ConversionResult(
        config_path,
        {name: count_images_and_boxes(coco_images) for name, (_, coco_images) in splits.items()},
        tuple(warnings),
    )


def hash_split(names: Iterable[str], fraction: float) -> set[str]:
    """The share `fraction` of `names` that goes to val: those whose hashes are the least.

    So order and place do not matter. Where there are two names, and the fraction is neither 0 nor 1, each
    side gets at least one.
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
    """x1 y1 x2 y2 cut to the picture, as x y width height rounded to a thousandth of a pixel.

    Returns the box and whether more than one pixel was cut off a side, or None when nothing of it is inside.
    """
    height, width = size_hw
    x1, y1, x2, y2 = corners
    left, top, right, bottom = max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
    cut = max(left - x1, top - y1, x2 - right, y2 - bottom) > 1.0
    xywh = (round(left, 3), round(top, 3), round(right - left, 3), round(bottom - top, 3))
    return (xywh, cut) if min(xywh[2:]) > 0 else None
