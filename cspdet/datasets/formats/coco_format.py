"""COCO JSON dataset format: an annotation file, or a folder in the layout of COCO 2017; also the 80 classes of COCO."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from pydantic import Field

from cspdet.datasets.descriptor import SplitFiles
from cspdet.datasets.formats.base import DatasetContent, DatasetFormat, SplitContent
from cspdet.datasets.formats.coco_json import read_annotations
from cspdet.datasets.formats.coco_writer import SPLITS, CocoBox, CocoImage, hash_split
from cspdet.errors import DataError, truncate_list
from cspdet.structures import Categories

SPLIT_FILE = re.compile(r"instances_(train|val|test)")  # annotations/instances_train2017.json


class CocoFormat(DatasetFormat):
    """COCO format: an annotation file, or a folder with annotations/instances_{train,val,test}*.json.

    For a single file, `val_fraction` of the images are used for val, selected by a hash of their names. Image and
    category ids are kept. Segmentations are not read. A missing or negative `area` is replaced by the area of the box.
    """

    name: str = Field("coco", description="Name of the format.")
    images: Path | None = Field(None, description="Image folder; null: images/ next to the file, else its folder.")
    val_fraction: float = Field(
        0.2, ge=0, lt=1, description="Fraction of the images of a single file that are used for val."
    )

    @classmethod
    def recognizes(cls, source: Path) -> bool:
        """Return whether `source` is a JSON file, or a folder with annotations/instances_*.json."""
        return source.suffix.lower() == ".json" if source.is_file() else bool(_find_split_files(source))

    def read(self, source: Path) -> DatasetContent:
        """Read the annotations of all splits.

        Raises:
            DataError: The files have errors, which are reported together, or the splits have different categories.
        """
        if source.is_file():
            return self._read_single(source)
        files = _find_split_files(source)
        if not files:
            raise DataError(f"{source}: expected a COCO JSON file, or a folder with annotations/instances_train*.json")
        read = {split: _read_file(file, _find_image_folder(source, file)) for split, file in files.items()}
        categories = next(iter(read.values())).categories
        for split, (others, _, _) in read.items():
            if others != categories:
                raise DataError(f"{source}: {next(iter(read))} and {split} have different categories")
        notes = tuple(note for file in read.values() for note in file.notes)
        return DatasetContent(categories, {split: file.content for split, file in read.items()}, notes)

    def _read_single(self, file: Path) -> DatasetContent:
        folder = self.images or (file.parent / "images" if (file.parent / "images").is_dir() else file.parent)
        categories, content, notes = _read_file(file, folder)
        val = hash_split((image.file_name for image in content.images), self.val_fraction)
        splits = {
            "train": tuple(image for image in content.images if image.file_name not in val),
            "val": tuple(image for image in content.images if image.file_name in val),
        }
        contents = {name: SplitContent(folder, images) for name, images in splits.items()}
        return DatasetContent(categories, contents, notes)


class _CocoFile(NamedTuple):
    """The content of an annotation file."""

    categories: dict[int, str]
    content: SplitContent
    notes: tuple[str, ...]


def _find_split_files(folder: Path) -> dict[str, Path]:
    """Return split -> annotation file. If a split has several files, the last one in alphabetical order is used."""
    files = sorted((folder / "annotations").glob("instances_*.json"))
    matches = [(match[1], file) for file in files if (match := SPLIT_FILE.match(file.stem))]
    return {split: file for name in SPLITS for split, file in matches if split == name}


def _find_image_folder(root: Path, file: Path) -> Path:
    """Find the image folder of an annotation file.

    For instances_train2017.json, the candidates are train2017, images/train2017, images/train and images, in this
    order.
    """
    name = file.stem.removeprefix("instances_")
    split = next(split for split in SPLITS if name.startswith(split))
    candidates = [root / name, root / "images" / name, root / "images" / split]
    return next((folder for folder in candidates if folder.is_dir()), root / "images")


def _read_file(file: Path, folder: Path) -> _CocoFile:
    annotations = read_annotations(SplitFiles(folder, file), allow_empty=True)
    if annotations.problems:
        raise DataError(*truncate_list(list(annotations.problems)))
    categories = dict(zip(annotations.classes.category_ids, annotations.classes.names, strict=True))
    boxes: list[list[CocoBox]] = [[] for _ in annotations.image_id]
    for index, record in zip(annotations.image_index.tolist(), annotations.records, strict=True):
        x, y, width, height = record["xywh"].tolist()
        category_id, is_crowd = int(record["category_id"]), bool(record["crowd"])
        boxes[index].append(CocoBox(category_id, (x, y, width, height), float(record["area"]), is_crowd))
    names = [
        annotations.names[start:end].decode("utf-8", "surrogateescape")
        for start, end in zip(annotations.name_start[:-1], annotations.name_start[1:], strict=True)
    ]
    sizes = [(height, width) for height, width in annotations.size_hw.tolist()]
    image_ids = annotations.image_id.tolist()
    images = zip(names, sizes, boxes, image_ids, strict=True)
    content = SplitContent(folder, tuple(CocoImage(n, hw, tuple(b), i) for n, hw, b, i in images))
    return _CocoFile(categories, content, annotations.notes)


_COCO_NAMES = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella,
handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard,
surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange,
broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv,
laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase,
scissors, teddy bear, hair drier, toothbrush"""

# Category ids are 1 to 90; these ten belong to classes without released annotations.
_UNUSED = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}

# Default classes of a network without a dataset.
COCO_CLASSES = Categories(
    names=tuple(name.strip() for name in _COCO_NAMES.replace("\n", " ").split(",")),
    category_ids=tuple(i for i in range(1, 91) if i not in _UNUSED),
)
