"""Pascal VOC xml to COCO JSON. The pictures stay where they are.

VOC counts pixels from 1 and both corners belong to the box, so x y width height is (xmin - 1, ymin - 1,
xmax - xmin + 1, ymax - ymin + 1). Many later sets count from 0 with the far corner outside: `one_based=False`
reads them as (xmin, ymin, xmax - xmin, ymax - ymin).
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from cspdet.datasets.formats.coco_writer import (
    SPLITS,
    CocoBox,
    CocoImage,
    ConversionResult,
    check_output_folder,
    clip_box,
    hash_split,
    write_coco_dataset,
)
from cspdet.datasets.formats.voc_xml import VocObject, parse_voc
from cspdet.datasets.image_io import IMAGE_SUFFIXES, image_size
from cspdet.errors import DataError, did_you_mean, truncate_list

Difficult = Literal["keep", "crowd", "skip"]


@dataclass(frozen=True)
class _VocImage:
    """One annotated picture, before the classes have numbers."""

    path: Path
    size_hw: tuple[int, int]
    boxes: list[tuple[str, CocoBox]]  # class name, box


def convert_voc(
    source: str | Path,
    output: str | Path,
    *,
    images: str | Path | None = None,
    val_fraction: float = 0.2,
    one_based: bool = True,
    difficult: Difficult = "keep",
    names: tuple[str, ...] | None = None,
) -> ConversionResult:
    """Convert a VOCdevkit-like folder, or any folder with xml files and pictures; write `output`/voc.yaml.

    Categories are numbered from 1 in the order of `names`, or of the alphabet. Splits are those of
    ImageSets/Main, otherwise `val_fraction` of the pictures, chosen by a hash of their names. `difficult`
    objects stay ordinary boxes, become crowds (never a goal, never a mistake, as in VOC's own evaluation), or
    are left out.

    Raises:
        DataError: with every mistake in the files, the first ten spelled out.
    """
    source, output = Path(source), Path(output)
    check_output_folder(output, "voc")
    roots = _find_voc_roots(source)
    folder = Path(images) if images is not None else _find_image_folder(roots, source)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of pictures")
    images_by_stem = _index_images(folder)
    reader = _VocReader(folder, images_by_stem, one_based, difficult, names)
    voc_images = {
        split: reader.read(files) for split, files in _read_splits(roots, val_fraction, reader.problems).items()
    }
    if reader.problems:
        raise DataError(*truncate_list(reader.problems))
    if not any(voc_images.values()):
        raise DataError(f"{source}: no xml annotations found")
    left_out = sum(map(len, images_by_stem.values())) - sum(map(len, voc_images.values()))
    if left_out:
        reader.counts["pictures left out: no xml file of these splits describes them"] = left_out
    ids = reader.category_ids()
    splits = {
        split: (folder, [reader.to_coco_image(item, ids) for item in items])
        for split, items in voc_images.items()
        if items or split != "test"
    }
    return write_coco_dataset(output, "voc", {i: n for n, i in ids.items()}, splits, reader.warnings())


def _find_voc_roots(source: Path) -> list[Path]:
    """The folders that hold Annotations/: `source` or its VOC2007, VOC2012 ...; else `source` as it is."""
    if not source.is_dir():
        raise DataError(f"{source}: no such folder")
    if (source / "Annotations").is_dir():
        return [source]
    return sorted(path.parent for path in source.glob("*/Annotations") if path.is_dir()) or [source]


def _find_image_folder(roots: list[Path], source: Path) -> Path:
    if len(roots) == 1:
        for name in ("JPEGImages", "images"):
            if (roots[0] / name).is_dir():
                return roots[0] / name
    return source


def _index_images(folder: Path) -> dict[str, list[Path]]:
    """Every picture below `folder`, by its name without suffix."""
    index: dict[str, list[Path]] = {}
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders.sort()
        for name in sorted(files):
            if Path(name).suffix.lower() in IMAGE_SUFFIXES:
                index.setdefault(Path(name).stem, []).append(Path(parent, name))
    return index


def _read_splits(roots: list[Path], val_fraction: float, problems: list[str]) -> dict[str, list[Path]]:
    """The xml files of each split."""
    splits: dict[str, list[Path]] = {name: [] for name in SPLITS}
    for root in roots:
        lists = root / "ImageSets" / "Main"
        if not any((lists / f"{name}.txt").is_file() for name in ("train", "val", "trainval")):
            _assign_splits(sorted(root.rglob("*.xml")), val_fraction, splits)
            continue
        listed = {name: _read_image_set(root, lists / f"{name}.txt", problems) for name in (*SPLITS, "trainval")}
        if listed["train"] and listed["val"]:
            splits["train"] += listed["train"]
            splits["val"] += listed["val"]
        else:
            _assign_splits(listed["trainval"] or listed["train"] or listed["val"], val_fraction, splits)
        splits["test"] += [xml for xml in listed["test"] if xml.is_file()]  # VOC 2012's test has no public xml
    return splits


def _assign_splits(xmls: list[Path], val_fraction: float, splits: dict[str, list[Path]]) -> None:
    val = hash_split((xml.stem for xml in xmls), val_fraction)
    for xml in xmls:
        splits["val" if xml.stem in val else "train"].append(xml)


def _read_image_set(root: Path, file: Path, problems: list[str]) -> list[Path]:
    if not file.is_file():
        return []
    xmls = []
    for line_number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        words = line.split()
        if not words:
            continue
        xml = root / "Annotations" / f"{PurePosixPath(words[0]).name}.xml"
        if file.stem != "test" and not xml.is_file():
            problems.append(f"{file}:{line_number}: no annotation file {xml}")
        xmls.append(xml)
    return xmls


class _VocReader:
    """Reads xml files, and collects what is wrong with them and what was mended."""

    def __init__(
        self,
        folder: Path,
        images_by_stem: dict[str, list[Path]],
        one_based: bool,
        difficult: Difficult,
        names: tuple[str, ...] | None,
    ):
        self.folder, self.images_by_stem = folder, images_by_stem
        self.one_based, self.difficult, self.names = one_based, difficult, names
        self.problems: list[str] = []
        self.counts: Counter[str] = Counter()
        self.classes: set[str] = set()

    def read(self, files: list[Path]) -> list[_VocImage]:
        """The picture, its size and its boxes (category 0 for now) of each file that has no mistake."""
        items = []
        for file in files:
            if not file.is_file():
                continue  # told by _listed
            before = len(self.problems)
            annotated = parse_voc(file, self.problems)
            if annotated is None:
                continue
            image_path = self._find_image(file, annotated.filename)
            size_hw = self._read_image_size(file, image_path, annotated.size_hw) if image_path else None
            if image_path and size_hw and len(self.problems) == before:
                items.append(_VocImage(image_path, size_hw, self._boxes(file, annotated.objects, size_hw)))
        return items

    def _find_image(self, file: Path, filename: str) -> Path | None:
        """The picture of the same name as the xml; otherwise the one that it names."""
        name = PurePosixPath(filename.replace("\\", "/")).name
        candidates = self.images_by_stem.get(file.stem) or self.images_by_stem.get(Path(name).stem) or []
        exact = [path for path in candidates if path.name == name]
        beside = [path for path in candidates if path.parent.parent == file.parent.parent]
        for choice in (exact, beside, candidates):
            if len(choice) == 1:
                return choice[0]
        if candidates:
            self.problems.append(f"{file}: {len(candidates)} pictures could be meant: {candidates[0]}, {candidates[1]}")
        else:
            self.problems.append(f"{file}: no picture {file.stem}.* or {name!r} below {self.folder}")
        return None

    def _read_image_size(
        self, file: Path, image_path: Path, declared: tuple[int, int] | None
    ) -> tuple[int, int] | None:
        try:
            size_hw = image_size(image_path)
        except DataError as error:
            self.problems.extend(error.problems)
            return None
        if declared is None:
            self.counts["files do not state their picture's size; the picture's own was taken"] += 1
        elif declared != size_hw:
            self.problems.append(
                f"{file}: size says {declared[1]}x{declared[0]} (width x height), "
                f"but {image_path} is {size_hw[1]}x{size_hw[0]}"
            )
            return None
        return size_hw

    def _boxes(self, file: Path, objects: tuple[VocObject, ...], size_hw: tuple[int, int]) -> list[tuple[str, CocoBox]]:
        boxes = []
        for item in objects:
            if self.names is not None and item.name not in self.names:
                self.problems.append(
                    f"{file}: class {item.name!r} is not in the names{did_you_mean(item.name, self.names)}"
                )
                continue
            self.classes.add(item.name)
            x1, y1, x2, y2 = item.corners
            if item.difficult and self.difficult == "skip":
                self.counts["difficult objects left out"] += 1
            elif x1 >= x2 or y1 >= y2:
                self.counts["boxes skipped: xmin >= xmax or ymin >= ymax"] += 1
            elif (clipped := self._clip(x1, y1, x2, y2, size_hw)) is not None:
                crowd = item.difficult and self.difficult == "crowd"
                boxes.append((item.name, CocoBox(0, clipped, round(clipped[2] * clipped[3], 3), crowd)))
        return boxes

    def _clip(
        self, x1: float, y1: float, x2: float, y2: float, size_hw: tuple[int, int]
    ) -> tuple[float, float, float, float] | None:
        if self.one_based:
            if min(x1, y1) < 1:
                self.counts[
                    "boxes begin at 0 though VOC counts from 1; if the set counts from 0, add --zero-based"
                ] += 1
            x1, y1 = x1 - 1, y1 - 1
        clipped = clip_box((x1, y1, x2, y2), size_hw)
        if clipped is None:
            self.counts["boxes skipped: outside their picture"] += 1
            return None
        if clipped[1]:
            self.counts["boxes clipped to their picture"] += 1
        return clipped[0]

    def category_ids(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.names or sorted(self.classes), 1)}

    def to_coco_image(self, item: _VocImage, ids: dict[str, int]) -> CocoImage:
        boxes = tuple(CocoBox(ids[name], box.xywh, box.area, box.is_crowd) for name, box in item.boxes)
        return CocoImage(item.path.relative_to(self.folder).as_posix(), item.size_hw, boxes)

    def warnings(self) -> list[str]:
        return [f"{count} {what}" for what, count in self.counts.items()]
