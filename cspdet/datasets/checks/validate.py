"""Dataset validation: problems that reduce AP or make training fail, reported with file, object and count."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cspdet.datasets.descriptor import DatasetConfig, display_path
from cspdet.datasets.formats.coco import CocoDataset, check_image_files, to_arrays
from cspdet.datasets.formats.coco_json import Annotations, read_annotations
from cspdet.errors import DataError, truncate_list

MIN_USEFUL_SIDE = 2.0  # pixels; a shorter side carries almost no information
SMALL_AREA, LARGE_AREA = 32**2, 96**2  # COCO's area limits of small, medium and large objects


@dataclass
class SplitReport:
    """Counts, errors and warnings of a split.

    An error makes training fail or AP wrong. A warning may be intended.
    """

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    images: int = 0
    empty_images: int = 0
    boxes: int = 0
    crowds: int = 0
    classes: list[dict[str, Any]] = field(
        default_factory=list
    )  # name, category_id, boxes; in the order of the network's outputs
    sizes: dict[str, int] = field(default_factory=dict)  # boxes small, medium and large


@dataclass
class ValidationReport:
    """Issues of each split, and issues found by comparing train with val and test."""

    splits: dict[str, SplitReport]
    cross_split: SplitReport

    @property
    def errors(self) -> list[str]:
        """The errors of all splits, and of the comparisons of two splits."""
        return [line for part in (*self.splits.values(), self.cross_split) for line in part.errors]

    @property
    def warnings(self) -> list[str]:
        """The warnings of all splits, and of the comparisons of two splits."""
        return [line for part in (*self.splits.values(), self.cross_split) for line in part.warnings]


def validate_dataset(config: DatasetConfig, *, fast: bool = False) -> ValidationReport:
    """Check every split of a dataset. Errors are listed in the report, not raised.

    Args:
        config: The dataset.
        fast: Whether to read only the image headers instead of decoding the images.
    """
    splits, sets = {}, {}
    for name in config.splits:
        splits[name], coco = _validate_split(config, name, fast)
        if coco is not None:
            sets[name] = coco
    cross_split = SplitReport()
    for other in ("val", "test"):
        if "train" in sets and other in sets:
            where = f"{display_path(config.path)}: train and {other}"
            cross_split.errors += _category_differences(sets["train"], sets[other], where)
            cross_split.errors += _find_shared_images(sets["train"], sets[other], where)
    return ValidationReport(splits, cross_split)


def _validate_split(config: DatasetConfig, name: str, fast: bool) -> tuple[SplitReport, CocoDataset | None]:
    report = SplitReport()
    try:
        files = config.split(name)
        annotations = read_annotations(files, allow_empty=name == "test")
    except DataError as error:
        report.errors += error.problems
        return report, None
    report.errors += annotations.problems
    if annotations.problems:
        report.warnings.append(f"{files.annotations}: boxes and images are checked after the errors are corrected")
        return report, None
    report.errors += _check_box_format(annotations)
    coco = to_arrays(annotations, files)
    report.warnings += coco.warnings
    _summarize_boxes(coco, annotations, name, report)
    problems = check_image_files(coco, decode=not fast)
    if len(problems) > 10:
        report.errors.append(f"{files.images}: {len(problems)} of {len(coco)} images have a problem")
    report.errors += truncate_list(problems)
    return report, coco


def _check_box_format(annotations: Annotations) -> list[str]:
    """Return errors for boxes that seem to have another format than COCO's x, y, width, height in pixels."""
    records, path = annotations.records, annotations.path
    if not len(records):
        return []
    xywh, size_wh = records["xywh"], annotations.size_hw[annotations.image_index][:, ::-1]
    if xywh.max() <= 1 and xywh.min() >= 0 and size_wh.min() > 2:
        return [f"{path}: all {len(xywh)} boxes are within 0..1: they look normalized; COCO boxes are in pixels"]
    fits_as_corners = (xywh[:, 2:] >= xywh[:, :2]).all(axis=1) & (xywh[:, 2:] <= size_wh + 1).all(axis=1)
    with np.errstate(over="ignore"):
        beyond = (xywh[:, :2] + xywh[:, 2:] > size_wh + 1).any(axis=1)
    # In the correct format, few boxes leave the image, and width >= x and height >= y rarely hold for nearly all boxes.
    if len(xywh) >= 3 and beyond.mean() >= 0.1 and fits_as_corners.mean() >= 0.98:
        return [
            f"{path}: {int(beyond.sum())} of {len(xywh)} boxes reach beyond their images, and all but "
            f"{int((~fits_as_corners).sum())} fit as x1, y1, x2, y2: they look like corners; "
            "COCO boxes are x, y, width, height"
        ]
    return []


def _summarize_boxes(coco: CocoDataset, annotations: Annotations, name: str, report: SplitReport) -> None:
    path = coco.files.annotations
    per_class = np.bincount(coco.box_class, minlength=len(coco.classes)).tolist()
    area = (coco.box_xyxy[:, 2:] - coco.box_xyxy[:, :2]).prod(axis=1)
    small, large = int((area < SMALL_AREA).sum()), int((area > LARGE_AREA).sum())
    report.images = len(coco)
    report.empty_images = int((np.diff(coco.box_start) == 0).sum())
    report.boxes, report.crowds = len(area), int(coco.box_crowd.sum())
    report.sizes = {"small": small, "medium": len(area) - small - large, "large": large}
    report.classes = [
        {"name": class_name, "category_id": category_id, "boxes": boxes}
        for class_name, category_id, boxes in zip(coco.classes.names, coco.classes.category_ids, per_class, strict=True)
    ]
    if len(area):
        _warn_about_boxes(coco, annotations, report)
    if coco.box_crowd.all():
        found = "no boxes except crowds" if len(area) else "no boxes"
        if name == "train":
            report.errors.append(f"{path}: {found}; a train split needs some")
        elif name == "val":
            report.warnings.append(f"{path}: {found}; AP is undefined without them")


def _warn_about_boxes(coco: CocoDataset, annotations: Annotations, report: SplitReport) -> None:
    path = coco.files.annotations
    if report.empty_images:
        report.warnings.append(f"{path}: {report.empty_images} of {len(coco)} images have no boxes")
    unused = [entry["name"] for entry in report.classes if not entry["boxes"]]
    if unused:
        report.warnings.append(f"{path}: {len(unused)} classes have no boxes: {_format_examples(unused)}")
    tiny = int(((coco.box_xyxy[:, 2:] - coco.box_xyxy[:, :2]).min(axis=1) < MIN_USEFUL_SIDE).sum())
    if tiny:
        report.warnings.append(f"{path}: {tiny} boxes are less than {MIN_USEFUL_SIDE:g} pixels wide or high")
    report.warnings += _find_repeated_entries(coco, annotations)


def _find_repeated_entries(coco: CocoDataset, annotations: Annotations) -> list[str]:
    """Return warnings about repeated boxes within an image, and about files that are listed under several image ids."""
    warnings, path, records = [], coco.files.annotations, annotations.records
    keys = np.column_stack((annotations.image_index, annotations.class_id, records["xywh"]))
    _, first, count = np.unique(keys, axis=0, return_index=True, return_counts=True)
    repeated = first[count > 1]
    if len(repeated):
        examples = _format_examples(
            f"image {records['image_id'][i]} {records['xywh'][i].tolist()}" for i in np.sort(repeated)
        )
        warnings.append(f"{path}: {int((count - 1).sum())} boxes repeat another of the same class: {examples}")
    names = [coco.name(i) for i in range(len(coco))]
    duplicates = sorted(name for name, times in Counter(names).items() if times > 1)
    if duplicates:
        warnings.append(
            f"{path}: {len(duplicates)} files are listed under more than one image id: {_format_examples(duplicates)}"
        )
    return warnings


def _category_differences(train: CocoDataset, other: CocoDataset, where: str) -> list[str]:
    if train.classes == other.classes:
        return []
    train_names = dict(zip(train.classes.category_ids, train.classes.names, strict=True))
    other_names = dict(zip(other.classes.category_ids, other.classes.names, strict=True))
    differing = [
        f"{category_id} is {train_names.get(category_id, 'missing')!r} and {other_names.get(category_id, 'missing')!r}"
        for category_id in sorted(train_names.keys() | other_names.keys())
        if train_names.get(category_id) != other_names.get(category_id)
    ]
    return [f"{where} have different categories: {_format_examples(differing)}"]


def _find_shared_images(train: CocoDataset, other: CocoDataset, where: str) -> list[str]:
    """Return errors about images of an evaluation split that are also in train, by path or by content."""
    train_paths, other_paths = ({coco.path(i) for i in range(len(coco))} for coco in (train, other))
    same = sorted(train_paths & other_paths)
    errors = (
        [f"{where} have {len(same)} images in common: {_format_examples(path.name for path in same)}"] if same else []
    )
    duplicates = _find_identical_files(train_paths - other_paths, other_paths - train_paths)
    if duplicates:
        examples = _format_examples(f"{display_path(first)} = {display_path(second)}" for first, second in duplicates)
        errors.append(f"{where} have {len(duplicates)} images with the same content: {examples}")
    return errors


def _find_identical_files(train_paths: Iterable[Path], other_paths: Iterable[Path]) -> list[tuple[Path, Path]]:
    """Return the pairs (train file, other file) with equal bytes; only files of equal size are read."""
    sizes: dict[int, tuple[list[Path], list[Path]]] = defaultdict(lambda: ([], []))
    for side, paths in enumerate((train_paths, other_paths)):
        for path in sorted(paths):
            if path.is_file():
                sizes[path.stat().st_size][side].append(path)
    duplicates = []
    for size, (left, right) in sizes.items():
        if size and left and right:
            known = {_digest(path): path for path in left}
            duplicates += [(known[digest], path) for path in right if (digest := _digest(path)) in known]
    return duplicates


def _digest(path: Path) -> bytes:
    try:
        return hashlib.blake2b(path.read_bytes(), digest_size=16).digest()
    except OSError:  # already reported by check_image_files; the path does not equal any digest
        return str(path).encode()


def _format_examples(items: Iterable[object], limit: int = 5) -> str:
    texts = [str(item) for item in items]
    rest = len(texts) - limit
    return ", ".join(texts[:limit]) + (f" and {rest} more" if rest > 0 else "")
