"""YOLO dataset format: txt labels in the layout of ultralytics or Darknet; images are not copied.

A label line is `class center_x center_y width height`, as fractions of the image width and height. A polygon
(`class x1 y1 x2 y2 x3 y3 ...`) is replaced by its bounding box. Keypoints after a box (`kpt_shape` in data.yaml) are
skipped. The index of a class, from 0, is its category id.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import Field

from cspdet.datasets.formats.base import DatasetContent, DatasetFormat, SplitContent
from cspdet.datasets.formats.coco_writer import CocoBox, CocoImage, clip_box, hash_split
from cspdet.datasets.formats.yolo_dataset import YoloDataset, find_yolo_dataset, is_yolo_dataset
from cspdet.datasets.formats.yolo_paths import MAX_EXAMPLES, LabelFinder, label_candidates
from cspdet.datasets.image_io import image_size
from cspdet.errors import DataError, truncate_list
from cspdet.io.text import read_lines

COORDINATE_TOLERANCE = 1e-4  # values may be outside [0, 1] by this amount because of rounding to few digits
VISIBILITIES = (0.0, 1.0, 2.0)  # of a keypoint: not labeled, hidden, visible


class YoloFormat(DatasetFormat):
    """YOLO format: a data.yaml, a Darknet .data file, or a folder with images and txt labels.

    If the source has no val split, `val_fraction` of train is used for val, selected by a hash of the file names. An
    image without a label file has no objects.
    """

    name: str = Field("yolo", description="Name of the format.")
    val_fraction: float = Field(
        0.2, ge=0, lt=1, description="Fraction of the images that are used for val if the source has no val split."
    )

    @property
    def converter(self) -> str:
        """Arguments with which `cspdet prepare-data` converts this format."""
        return "yolo"

    @classmethod
    def recognizes(cls, source: Path) -> bool:
        """Return whether `source` is a data.yaml, a .data file, or a folder with such a file or with class names."""
        return is_yolo_dataset(source)

    def read(self, source: Path) -> DatasetContent:
        """Read all label files, and the sizes of their images.

        Raises:
            DataError: The files have errors, which are reported together, the first ten in full.
        """
        problems: list[str] = []
        dataset = find_yolo_dataset(source, problems)
        if not any(dataset.splits.values()):
            raise DataError(*truncate_list(problems or [f"{dataset.path}: no images found"]))
        reader = _YoloReader(dataset, problems)
        splits = {}
        for split, paths in _add_val_split(dataset, self.val_fraction).items():
            folder = _common_folder(paths)
            images = [image for path in paths if (image := reader.read(path, folder)) is not None]
            splits[split] = SplitContent(folder, tuple(images))
        if not reader.label_files:
            first = next((path for paths in dataset.splits.values() for path in paths), dataset.path)
            problems.append(f"{dataset.path}: no label file found; expected {label_candidates(first)[0]} for {first}")
        reader.check_keypoints()
        if problems:
            raise DataError(*truncate_list(problems))
        return DatasetContent(dict(enumerate(dataset.names)), splits, tuple(reader.warnings()))


def _add_val_split(dataset: YoloDataset, val_fraction: float) -> dict[str, list[Path]]:
    splits = {name: paths for name, paths in dataset.splits.items() if paths}
    if "train" in splits and "val" not in splits:
        val = hash_split((path.name for path in splits["train"]), val_fraction)
        train = splits["train"]
        splits["train"] = [path for path in train if path.name not in val]
        splits["val"] = [path for path in train if path.name in val]
    return splits


def _common_folder(paths: list[Path]) -> Path:
    return Path(os.path.commonpath([path.parent for path in paths])) if paths else Path.cwd()


def _parse_floats(words: list[str]) -> list[float] | None:
    """Parse the words as floats; return None if a word is not a finite number."""
    try:
        values = [float(word) for word in words]
    except ValueError:
        return None
    return values if all(math.isfinite(value) for value in values) else None


def _looks_like_keypoints(values: Sequence[float]) -> bool:
    """Return whether the values after the class can be a box and at least two keypoints (x, y, visibility)."""
    if len(values) < 10 or len(values) % 3 != 1 or any(value not in VISIBILITIES for value in values[6::3]):
        return False
    x, y, w, h = values[:4]
    return w > 0 and h > 0 and min(x - w / 2, y - h / 2, 1 - x - w / 2, 1 - y - h / 2) >= -COORDINATE_TOLERANCE


class _YoloReader:
    """Reads label files; collects errors (`problems`) and counts corrections by type (`counts`)."""

    def __init__(self, dataset: YoloDataset, problems: list[str]):
        self.dataset, self.problems = dataset, problems
        self.counts: Counter[str] = Counter()
        self.labels = LabelFinder()
        self.label_files = 0
        self._keypoint_lines: list[tuple[str, int]] = []  # place and length of polygons that may be keypoints

    def read(self, path: Path, folder: Path) -> CocoImage | None:
        """Read one image with its boxes; if the image is missing or corrupt, add a problem and return None."""
        try:
            size_hw = image_size(path)
        except DataError as error:
            self.problems.extend(error.problems)
            return None
        labels = self.labels.find(path)
        boxes: tuple[CocoBox, ...] = ()
        if labels is None:
            self.counts["images without a label file, taken as empty"] += 1
        else:
            self.label_files += 1
            boxes = tuple(self._read_boxes(labels, size_hw))
        return CocoImage(path.relative_to(folder).as_posix(), size_hw, boxes)

    def _read_boxes(self, file: Path, size_hw: tuple[int, int]) -> Iterator[CocoBox]:
        try:
            lines = read_lines(file)
        except DataError as error:
            self.problems.extend(error.problems)
            return
        height, width = size_hw
        for line_number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            parsed = self._parse_line(line, f"{file}:{line_number}")
            if parsed is None:
                continue
            class_id, (x1, y1, x2, y2) = parsed
            clipped = clip_box((x1 * width, y1 * height, x2 * width, y2 * height), size_hw)
            if clipped is None:
                self.counts["boxes skipped: no width or height"] += 1
                continue
            xywh, cut = clipped
            self.counts["boxes clipped to their image"] += cut
            yield CocoBox(class_id, xywh, round(xywh[2] * xywh[3], 3))

    def _parse_line(self, line: str, where: str) -> tuple[int, tuple[float, float, float, float]] | None:
        """Parse a label line; if it is invalid, add a problem and return None.

        Returns:
            The class index; and x1, y1, x2, y2 as fractions of the image width and height.
        """
        words = self._split_line(line, where)
        if not words:
            return None
        values = _parse_floats(words[1:])
        if values is None:
            self.problems.append(f"{where}: expected numbers, found {line.strip()[:60]!r}")
            return None
        class_id = self._parse_class(words[0], where)
        outside = [value for value in values if not -COORDINATE_TOLERANCE <= value <= 1 + COORDINATE_TOLERANCE]
        if outside:
            hint = "; keypoints need kpt_shape in a data.yaml" if _looks_like_keypoints(values) else ""
            self.problems.append(f"{where}: expected fractions of the image from 0 to 1, found {outside[0]:g}{hint}")
        if class_id is None or outside:
            return None
        return class_id, self._corners(values, where)

    def _split_line(self, line: str, where: str) -> list[str]:
        """Split the line of a box or polygon into words, and remove keypoints.

        If the number of words is wrong, add a problem and return [].
        """
        words = line.split()
        keypoints = self.dataset.keypoints
        if keypoints is not None and len(words) == 5 + keypoints[0] * keypoints[1]:
            self.counts["keypoints left out; their boxes are used"] += 1
            return words[:5]
        if len(words) == 5 or (keypoints is None and len(words) >= 7 and len(words) % 2 == 1):
            return words
        expected = "a polygon" if keypoints is None else f"{5 + keypoints[0] * keypoints[1]} with keypoints"
        self.problems.append(
            f"{where}: expected 5 numbers (class, center x and y, width, height) or {expected}, found {len(words)}"
        )
        return []

    def _corners(self, values: Sequence[float], where: str) -> tuple[float, float, float, float]:
        """Return x1, y1, x2, y2 of a box, or of the bounding box of a polygon, as fractions of the image."""
        if len(values) == 4:
            x, y, w, h = values
            return x - w / 2, y - h / 2, x + w / 2, y + h / 2
        self.counts["polygons replaced by their boxes"] += 1
        if _looks_like_keypoints(values):
            self._keypoint_lines.append((where, len(values)))
        return min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])

    def check_keypoints(self) -> None:
        """Add a problem if all polygons look like boxes with the same number of keypoints."""
        lines, polygons = self._keypoint_lines, self.counts["polygons replaced by their boxes"]
        if lines and len(lines) == polygons and len({length for _, length in lines}) == 1:
            count = (lines[0][1] - 4) // 3
            self.problems.append(
                f"{lines[0][0]}: it looks like a box with {count} keypoints x, y, visible, not like a polygon; "
                f"expected `kpt_shape: [{count}, 3]` in a data.yaml"
            )

    def _parse_class(self, word: str, where: str) -> int | None:
        try:
            value = float(word)  # some tools write class 0 as 0.0
        except ValueError:
            value = math.nan
        if value in range(len(self.dataset.names)):
            return int(value)
        last = len(self.dataset.names) - 1
        self.problems.append(f"{where}: expected a class from 0 to {last}, found {word[:20]!r}")
        return None

    def warnings(self) -> list[str]:
        """Return one message per type of correction, with its count."""
        lines = [f"{count} {what}" for what, count in self.counts.items() if count]
        unused = self.labels.unused(self.dataset.lists)
        if unused:
            lines.append(f"{len(unused)} label files without an image: {', '.join(unused[:MAX_EXAMPLES])}")
        return self.dataset.warnings + lines
