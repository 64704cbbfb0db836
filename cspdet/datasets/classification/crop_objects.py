"""Crop the objects of a detection dataset into class folders, to pretrain a backbone as a classifier."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np

from cspdet.datasets.descriptor import load_dataset_config
from cspdet.datasets.formats.coco import CocoDataset, load_coco
from cspdet.datasets.formats.coco_writer import ConversionResult
from cspdet.datasets.image_io import read_image
from cspdet.errors import ConfigError, DataError
from cspdet.io.atomic import write_bytes
from cspdet.io.progress import progress

MAX_NAME_BYTES = 255  # of the file systems in common use


def crop_objects(config_path: Path, output: Path, *, margin: float = 0.15, min_side: float = 8.0) -> ConversionResult:
    """Crop every object of the train and val splits to `output`/SPLIT/CLASS/IMAGE-BOX.png.

    IMAGE is the image id. BOX is the index of the box among the non-crowd boxes of the image.

    Args:
        config_path: The data descriptor of a detection dataset.
        output: A new or empty folder.
        margin: Margin on each side of a box, as a fraction of its width or height. Crops are clipped to the image.
        min_side: Minimum side in pixels. Boxes with a shorter side are skipped and counted; so are crowds.

    Raises:
        ConfigError: `margin` or `min_side` is invalid, or the output folder is not empty.
        DataError: A class name cannot be a folder name, or an image is unreadable.
    """
    if not 0 <= margin <= 4:
        raise ConfigError(f"--margin: expected a fraction from 0 to 4, found {margin:g}")
    if not min_side >= 1:
        raise ConfigError(f"--min-side: expected 1 or more, found {min_side:g}")
    if output.is_dir() and any(output.iterdir()):
        raise ConfigError(f"--output {output}: expected a new or empty folder")
    loaded = load_dataset_config(config_path)
    counts: dict[str, dict[str, int]] = {}
    warnings: list[str] = []
    for split in ("train", "val"):
        if getattr(loaded, split) is None:
            continue
        coco = load_coco(loaded.split(split), split)
        _check_class_names(coco)
        written, small = _crop_split(coco, output / split, margin, min_side)
        counts[split] = {"images": written, "boxes": len(coco.box_xyxy)}
        if crowds := int(coco.box_crowd.sum()):
            warnings.append(f"{split}: {crowds} crowds were left out")
        if small:
            warnings.append(f"{split}: {small} boxes with a side below {min_side:g} pixels were left out")
    return ConversionResult(output, counts, tuple(warnings))


def expand_box(box_xyxy: np.ndarray, margin: float, size_hw: tuple[int, int]) -> tuple[int, int, int, int]:
    """Expand a box (4,) on each side, clip it to the image and round it outward to whole pixels.

    Each side moves by `margin` times the width or height of the box.

    Returns:
        x1, y1, x2, y2; x2 and y2 are exclusive.
    """
    x1, y1, x2, y2 = (float(value) for value in box_xyxy)
    wide, high = margin * (x2 - x1), margin * (y2 - y1)
    height, width = size_hw
    return (
        max(0, int(np.floor(x1 - wide))),
        max(0, int(np.floor(y1 - high))),
        min(width, int(np.ceil(x2 + wide))),
        min(height, int(np.ceil(y2 + high))),
    )


def _check_class_names(coco: CocoDataset) -> None:
    for name in coco.classes.names:
        is_long = len(os.fsencode(name)) > MAX_NAME_BYTES
        if name.startswith(".") or os.sep in name or "\0" in name or "/" in name or is_long:
            raise DataError(f"{coco.files.annotations}: class {name!r}: cannot be the name of a folder")


def _crop_split(coco: CocoDataset, folder: Path, margin: float, min_side: float) -> tuple[int, int]:
    """Crop the objects of a split.

    Returns:
        The number of crops, and the number of objects that were skipped because they are small.
    """
    written = small = 0
    for i in progress(range(len(coco)), f"cropping {folder.name}", "image", len(coco)):
        boxes, classes, crowds = coco.boxes(i)
        if crowds.all():
            continue
        image = read_image(coco.path(i))
        for box_index, (box, class_id) in enumerate(zip(boxes[~crowds], classes[~crowds], strict=True)):
            if min(box[2] - box[0], box[3] - box[1]) < min_side:
                small += 1
                continue
            x1, y1, x2, y2 = expand_box(box, margin, image.shape[:2])
            _, data = cv2.imencode(".png", cv2.cvtColor(image[y1:y2, x1:x2], cv2.COLOR_RGB2BGR))
            name = f"{int(coco.image_id[i])}-{box_index}.png"
            write_bytes(folder / coco.classes.names[class_id] / name, data.tobytes())
            written += 1
    return written, small
