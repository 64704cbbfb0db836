"""Pascal VOC dataset format: xml annotations with images. The images are not copied.

VOC counts pixels from 1, and both corners are inside the box, so x, y, width, height is (xmin - 1, ymin - 1, xmax -
xmin + 1, ymax - ymin + 1). Many later datasets count from 0, with the lower right corner outside the box:
`one_based=False` reads such boxes as (xmin, ymin, xmax - xmin, ymax - ymin).
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Collection, Iterator
from pathlib import Path

from pydantic import Field

from cspdet.datasets.formats.base import DatasetContent, DatasetFormat, SplitContent
from cspdet.datasets.formats.coco_writer import SPLITS, hash_split
from cspdet.datasets.formats.voc_xml import Difficult, VocImage, VocReader
from cspdet.datasets.image_io import IMAGE_SUFFIXES
from cspdet.errors import DataError, truncate_list
from cspdet.io.text import other_forms, read_lines
from cspdet.io.walk import FoundFiles, find_files

OTHER_FILES = frozenset((".xml", ".txt", ".md", ".json"))  # suffixes of files beside the images of VOC datasets
IMAGE_SET_LABELS = ("-1", "0", "1")  # second column of a list: whether the image has an object of the class


class VocFormat(DatasetFormat):
    """Pascal VOC format: a folder in the layout of VOCdevkit, or any folder with xml files and images.

    Categories are numbered from 1, in the order of `names` or alphabetically. The splits are read from ImageSets/Main.
    Without this folder, `val_fraction` of the images are used for val, selected by a hash of their names.
    """

    name: str = Field("voc", description="Name of the format.")
    images: Path | None = Field(None, description="Image folder; null: JPEGImages or images in the source.")
    val_fraction: float = Field(
        0.2, ge=0, lt=1, description="Fraction of the images that are used for val if the source has no splits."
    )
    one_based: bool = Field(
        True,
        description="true: corners count from 1, both inclusive (VOC); false: from 0, xmax and ymax exclusive.",
    )
    difficult: Difficult = Field(
        "keep",
        description="Conversion of objects marked difficult: keep, crowd (ignored in training and AP), or skip.",
    )
    names: tuple[str, ...] | None = Field(
        None, description="Class names in the order of their ids; null: alphabetical."
    )

    @property
    def converter(self) -> str:
        """Arguments with which `cspdet prepare-data` converts this format."""
        return "voc"

    @classmethod
    def recognizes(cls, source: Path) -> bool:
        """Return whether `source` or one of its subfolders contains a folder Annotations or an xml file."""
        if not source.is_dir():
            return False
        return any(next(source.glob(pattern), None) for pattern in ("Annotations", "*/Annotations", "*.xml", "*/*.xml"))

    def _image_folder(self, roots: list[Path], source: Path) -> Path:
        folder = self.images if self.images is not None else _find_image_folder(roots, source)
        if not folder.is_dir():
            raise DataError(f"{folder}: no such image folder")
        return folder

    def read(self, source: Path) -> DatasetContent:
        """Read all xml files of the splits, and the sizes of their images.

        Raises:
            DataError: The files have errors, which are reported together, the first ten in full.
        """
        roots = _find_voc_roots(source)
        folder = self._image_folder(roots, source)
        found = _search(folder, IMAGE_SUFFIXES)
        images_by_stem = _index_images(folder, found.names)
        reader = VocReader(folder, images_by_stem, one_based=self.one_based, difficult=self.difficult, names=self.names)
        files = _read_splits(roots, self.val_fraction, reader.problems)
        voc_images = {split: reader.read(xmls) for split, xmls in files.items()}
        if reader.problems or not any(voc_images.values()):
            raise DataError(*truncate_list(reader.problems or [f"{source}: no xml annotations found"]))
        _count_images(found.names, voc_images, folder, reader)
        ids = reader.category_ids()
        splits = {
            split: SplitContent(folder, tuple(reader.to_coco_image(item, ids) for item in items))
            for split, items in voc_images.items()
            if items or split != "test"
        }
        warnings = (*(f"{folder}: {line}" for line in found.skipped(OTHER_FILES)), *reader.warnings())
        return DatasetContent({i: n for n, i in ids.items()}, splits, warnings)


def _find_voc_roots(source: Path) -> list[Path]:
    """Return the folders that contain a folder Annotations: `source`, or its subfolders such as VOC2007 and VOC2012.

    If there are none, return `source`.
    """
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


def _search(folder: Path, suffixes: Collection[str]) -> FoundFiles:
    try:
        found = find_files(folder, suffixes)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror or error}") from None
    if found.unreadable:
        raise DataError(*truncate_list([f"{folder}: cannot be read: {name}" for name in found.unreadable]))
    return found


def _index_images(folder: Path, names: list[str]) -> dict[str, list[Path]]:
    """Return all images below `folder`: file name without suffix -> paths."""
    index: dict[str, list[Path]] = {}
    for name in names:
        path = folder / name
        index.setdefault(unicodedata.normalize("NFC", path.stem), []).append(path)
    return index


def _count_images(names: list[str], splits: dict[str, list[VocImage]], folder: Path, reader: VocReader) -> None:
    """Count the images that are in no split, and the images that are in more than one split, in `reader.counts`."""
    used = [{item.path for item in items} for items in splits.values()]
    left_out = len({folder / name for name in names} - set().union(*used))
    if left_out:
        reader.counts["images left out: no xml file of these splits describes them"] = left_out
    shared = sum(map(len, used)) - len(set().union(*used))
    if shared:
        reader.counts["images are in more than one split"] = shared


def _read_splits(roots: list[Path], val_fraction: float, problems: list[str]) -> dict[str, list[Path]]:
    """Return the xml files of each split: train, val, test.

    An error for each missing file is appended to `problems`.
    """
    splits: dict[str, list[Path]] = {name: [] for name in SPLITS}
    for root in roots:
        lists = root / "ImageSets" / "Main"
        if not any((lists / f"{name}.txt").is_file() for name in ("train", "val", "trainval")):
            _assign_splits([root / name for name in _search(root, (".xml",)).names], val_fraction, splits)
            continue
        listed = {name: _read_image_set(root, lists / f"{name}.txt", problems) for name in (*SPLITS, "trainval")}
        if listed["train"] and listed["val"]:
            splits["train"] += listed["train"]
            splits["val"] += listed["val"]
        else:
            _assign_splits(listed["trainval"] or listed["train"] or listed["val"], val_fraction, splits)
        splits["test"] += [
            xml for xml in listed["test"] if os.path.isfile(xml)
        ]  # the test split of VOC 2012 has no public xml files
    return splits


def _assign_splits(xmls: list[Path], val_fraction: float, splits: dict[str, list[Path]]) -> None:
    val = hash_split((xml.stem for xml in xmls), val_fraction)
    for xml in xmls:
        splits["val" if xml.stem in val else "train"].append(xml)


def _read_image_set(root: Path, file: Path, problems: list[str]) -> list[Path]:
    """Return the xml file of each image in an ImageSets/Main list, each once.

    An error for each missing file is appended to `problems`, unless the list is test.txt.
    """
    if not file.is_file():
        return []
    xmls = []
    for line_number, line in enumerate(read_lines(file, lists_paths=True), 1):
        if not line.strip():
            continue
        candidates = list(_xml_candidates(root / "Annotations", line))
        xml = next((path for path in candidates if os.path.isfile(path)), candidates[-1])
        if file.stem != "test" and not os.path.isfile(xml):
            problems.append(f"{file}:{line_number}: no annotation file {xml}")
        xmls.append(xml)
    return list(dict.fromkeys(xmls))


def _xml_candidates(folder: Path, line: str) -> Iterator[Path]:
    """Yield possible paths of the xml file for a line of an ImageSets/Main list, the default path last.

    A line is an image name, which may have a folder and a suffix, or `name label` with label -1, 0 or 1.
    """
    words = line.split()
    names = [line.strip()]
    if len(words) > 1 and words[-1] in IMAGE_SET_LABELS:
        names.append(line.strip()[: -len(words[-1])].strip())
    for name in (*(form for listed in names for form in other_forms(listed)), *names):
        stem = name.replace("\\", "/").rpartition("/")[2]
        if os.path.splitext(stem)[1].lower() in IMAGE_SUFFIXES:
            yield folder / f"{os.path.splitext(stem)[0]}.xml"
        yield folder / f"{stem}.XML"
        yield folder / f"{stem}.xml"
