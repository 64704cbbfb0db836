"""Pascal VOC xml files: parse them, find their images, and convert their objects to boxes."""

from __future__ import annotations

import math
import os
import re
import unicodedata
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from cspdet.datasets.formats.coco_writer import CocoBox, CocoImage, clip_box
from cspdet.datasets.formats.safe_xml import safe_xml
from cspdet.datasets.image_io import image_size
from cspdet.errors import DataError, did_you_mean
from cspdet.io.text import describe_os_error

Difficult = Literal["keep", "crowd", "skip"]

NUMBER = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class VocObject:
    """Annotated object of an xml file."""

    name: str
    corners: tuple[float, float, float, float]  # xmin, ymin, xmax, ymax as in the file
    difficult: bool


@dataclass(frozen=True)
class VocAnnotation:
    """Content of one xml file."""

    filename: str  # name of the image file; may be empty
    size_hw: tuple[int, int] | None  # None if it is missing or 0
    objects: tuple[VocObject, ...]


@dataclass(frozen=True)
class VocImage:
    """Annotated image whose boxes have no category ids yet."""

    path: Path
    size_hw: tuple[int, int]
    boxes: list[tuple[str, CocoBox]]  # class name, box


def _read_root(file: Path, problems: list[str]) -> ElementTree.Element | None:
    try:
        root = safe_xml(file)
    except OSError as error:
        problems.append(f"{file}: {describe_os_error(error)}")
        return None
    except (ValueError, LookupError, ElementTree.ParseError) as error:
        problems.append(f"{file}: not readable as xml: {error}")
        return None
    if root.tag != "annotation":
        problems.append(f"{file}: expected <annotation> at the top, found <{root.tag}>")
        return None
    return root


def parse_voc(file: Path, problems: list[str]) -> VocAnnotation | None:
    """Parse an xml file; append its errors to `problems`. Returns None if the xml or the image size is invalid."""
    root = _read_root(file, problems)
    if root is None:
        return None
    objects = []
    for object_number, node in enumerate(root.findall("object"), 1):
        item = _parse_object(node, f"{file}: object {object_number}", problems)
        if item is not None:
            objects.append(item)
    size: list[float | None] = [0.0, 0.0]
    if root.find("size") is not None:
        size = [_parse_float(root, f"size/{side}", str(file), problems) for side in ("height", "width")]
    if size[0] is None or size[1] is None:
        return None
    declared = (int(size[0]), int(size[1])) if all(size) else None
    return VocAnnotation(root.findtext("filename", "").strip(), declared, tuple(objects))


def _parse_object(node: ElementTree.Element, where: str, problems: list[str]) -> VocObject | None:
    name = (node.findtext("name") or "").strip()
    if not name:
        problems.append(f"{where}: <name> is missing or empty")
    if node.find("bndbox") is None:
        problems.append(f"{where}: <bndbox> is missing")
        return None
    x1, y1, x2, y2 = (_parse_float(node, f"bndbox/{corner}", where, problems) for corner in CORNERS)
    if not name or x1 is None or y1 is None or x2 is None or y2 is None:
        return None
    return VocObject(name, (x1, y1, x2, y2), (node.findtext("difficult") or "").strip() in ("1", "true", "True"))


def _parse_float(node: ElementTree.Element, path: str, where: str, problems: list[str]) -> float | None:
    text = node.findtext(path)
    if text is None:
        problems.append(f"{where}: <{path}> is missing")
        return None
    if NUMBER.fullmatch(text.strip()) and math.isfinite(float(text)):
        return float(text)
    problems.append(f"{where}: <{path}> expected a number, found {text.strip()[:40]!r}")
    return None


class VocReader:
    """Reads xml files; collects errors (`problems`) and counts corrections by type (`counts`).

    Args:
        folder: The image folder.
        images_by_stem: All images below the folder, by file name without suffix.
        one_based: Whether coordinates start at 1 and both corners are inside the box.
        difficult: Conversion of objects marked difficult: keep, crowd or skip.
        names: The allowed class names, in the order of their ids; None: all classes, alphabetically.
    """

    def __init__(
        self,
        folder: Path,
        images_by_stem: dict[str, list[Path]],
        *,
        one_based: bool,
        difficult: Difficult,
        names: tuple[str, ...] | None,
    ):
        self.folder, self.images_by_stem = folder, images_by_stem
        self.one_based, self.difficult, self.names = one_based, difficult, names
        self.problems: list[str] = []
        self.counts: Counter[str] = Counter()
        self.classes: set[str] = set()

    def read(self, files: list[Path]) -> list[VocImage]:
        """Read the annotations of xml files; files with errors are left out and added to `problems`.

        The boxes have category id 0; `to_coco_image` assigns their ids after all files were read.
        """
        items = []
        for file in files:
            if not os.path.isfile(file):
                continue  # already reported
            before = len(self.problems)
            annotated = parse_voc(file, self.problems)
            if annotated is None:
                continue
            image_path = self._find_image(file, annotated.filename)
            size_hw = self._read_image_size(file, image_path, annotated.size_hw) if image_path else None
            if image_path and size_hw and len(self.problems) == before:
                items.append(VocImage(image_path, size_hw, self._boxes(file, annotated.objects, size_hw)))
        return items

    def _find_image(self, file: Path, filename: str) -> Path | None:
        """Find the image whose name without suffix is that of `file` or `filename`.

        If no image or several images match, add a problem and return None.
        """
        name = PurePosixPath(filename.replace("\\", "/")).name
        stems = (unicodedata.normalize("NFC", stem) for stem in (file.stem, Path(name).stem))
        candidates = next((found for stem in stems if (found := self.images_by_stem.get(stem))), [])
        exact = [path for path in candidates if path.name == name]
        beside = [path for path in candidates if path.parent.parent == file.parent.parent]
        for choice in (exact, beside, candidates):
            if len(choice) == 1:
                return choice[0]
        if candidates:
            self.problems.append(f"{file}: {len(candidates)} images match: {candidates[0]}, {candidates[1]}")
        else:
            self.problems.append(f"{file}: no image {file.stem}.* or {name!r} below {self.folder}")
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
            self.counts["files do not give the size of their image; it was read from the image"] += 1
        elif declared != size_hw:
            self.problems.append(
                f"{file}: <size> is {declared[1]}x{declared[0]} (width x height), "
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
            self.counts["boxes skipped: outside their image"] += 1
            return None
        if clipped[1]:
            self.counts["boxes clipped to their image"] += 1
        return clipped[0]

    def category_ids(self) -> dict[str, int]:
        """Return the category id of each class name, from 1; call this after all files were read."""
        return {name: i for i, name in enumerate(self.names or sorted(self.classes), 1)}

    def to_coco_image(self, item: VocImage, ids: dict[str, int]) -> CocoImage:
        """Convert an image, and assign the category ids of its boxes."""
        boxes = tuple(CocoBox(ids[name], box.xywh, box.area, box.is_crowd) for name, box in item.boxes)
        return CocoImage(item.path.relative_to(self.folder).as_posix(), item.size_hw, boxes)

    def warnings(self) -> list[str]:
        """Return one message per type of correction, with its count."""
        return [f"{count} {what}" for what, count in self.counts.items()]
