"""Class names of Darknet networks, read from a .names file or chosen by the number of classes."""

from __future__ import annotations

from pathlib import Path

from cspdet.datasets.formats.coco_format import COCO_CLASSES
from cspdet.datasets.formats.names import read_class_names
from cspdet.errors import ConfigError, did_you_mean
from cspdet.structures import Categories

VOC_CLASSES = Categories(
    (
        *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
        *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
    ),
    tuple(range(1, 21)),
)

# Darknet's coco.names uses the VOC names of six classes.
_COCO_SPELLING = {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}


def read_names(path: str | Path) -> tuple[str, ...]:
    """Read class names, one per line; spaces around names and empty lines at the end are ignored.

    Raises:
        ConfigError: The file is missing or unreadable, or has an empty line between names.
    """
    path = Path(path)
    if not path.exists():
        siblings = [p.name for p in path.parent.glob("*.names")] if path.parent.is_dir() else []
        raise ConfigError(f"{path}: no such file{did_you_mean(path.name, siblings)}")
    return read_class_names(path, error=ConfigError)


def categories_from_names(names: tuple[str, ...]) -> Categories:
    """Create categories from class names.

    If the names are COCO's, in COCO's or Darknet's spelling, return COCO's categories. If not, the category ids count
    from 1.
    """
    if tuple(_COCO_SPELLING.get(name, name) for name in names) == COCO_CLASSES.names:
        return COCO_CLASSES
    return Categories(names, tuple(range(1, len(names) + 1)))


def categories_from_count(count: int) -> Categories:
    """Create default categories for a number of classes.

    80 classes get COCO's categories, 20 get VOC's. With any other number, all are `class 1`, `class 2`, ...
    """
    for known in (COCO_CLASSES, VOC_CLASSES):
        if len(known) == count:
            return known
    return Categories(tuple(f"class {i}" for i in range(1, count + 1)), tuple(range(1, count + 1)))
