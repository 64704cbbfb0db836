"""What is wrong with a data set, where, and how often: all that training or its AP would suffer from."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cspdet.datasets.descriptor import Descriptor, shown
from cspdet.datasets.formats.coco import CocoSet, check_pictures, pack
from cspdet.datasets.formats.coco_json import Annotations, read_annotations
from cspdet.errors import DataError, counted

TINY = 2.0  # pixels; a shorter side carries next to nothing
SMALL_AREA, LARGE_AREA = 32**2, 96**2  # COCO's bounds of small, medium and large


@dataclass
class SplitReport:
    """The figures and findings of a split: errors make training or AP wrong, notes may be meant."""

    errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    images: int = 0
    empty_images: int = 0
    boxes: int = 0
    crowds: int = 0
    classes: list[dict[str, Any]] = field(default_factory=list)  # name, category_id, boxes; in the order of outputs
    sizes: dict[str, int] = field(default_factory=dict)  # boxes small, medium and large


@dataclass
class Report:
    """The splits of a descriptor, and what is wrong between them."""

    splits: dict[str, SplitReport]
    between: SplitReport

    @property
    def errors(self) -> list[str]:
        return [line for part in (*self.splits.values(), self.between) for line in part.errors]

    @property
    def notes(self) -> list[str]:
        return [line for part in (*self.splits.values(), self.between) for line in part.notes]


def examine(descriptor: Descriptor, *, fast: bool = False) -> Report:
    """Check every split: decode every picture, or with `fast` read headers only. Raises no DataError."""
    splits, sets = {}, {}
    for name in descriptor.splits:
        splits[name], coco = _examine_split(descriptor, name, fast)
        if coco is not None:
            sets[name] = coco
    between = SplitReport()
    for other in ("val", "test"):
        if "train" in sets and other in sets:
            where = f"{shown(descriptor.path)}: train and {other}"
            between.errors += _class_differences(sets["train"], sets[other], where)
            between.errors += _shared_pictures(sets["train"], sets[other], where)
    return Report(splits, between)


def _examine_split(descriptor: Descriptor, name: str, fast: bool) -> tuple[SplitReport, CocoSet | None]:
    report = SplitReport()
    try:
        files = descriptor.split(name)
        annotations = read_annotations(files.annotations, allow_empty=name == "test")
    except DataError as error:
        report.errors += error.problems
        return report, None
    report.errors += annotations.problems
    if annotations.problems:
        report.notes.append(f"{files.annotations}: boxes and pictures are checked once the errors are mended")
        return report, None
    report.errors += _conventions(annotations)
    coco = pack(annotations, files)
    report.notes += coco.notes
    _describe_boxes(coco, annotations, name, report)
    problems = check_pictures(coco, decode=not fast)
    if len(problems) > 10:
        report.errors.append(f"{files.images}: {len(problems)} of {len(coco)} pictures have a problem")
    report.errors += counted(problems)
    return report, coco


def _conventions(annotations: Annotations) -> list[str]:
    """Boxes that were written in another format than COCO's x, y, width, height in pixels."""
    records, path = annotations.records, annotations.path
    if not len(records):
        return []
    xywh, size_wh = records["xywh"], annotations.size_hw[annotations.image][:, ::-1]
    if xywh.max() <= 1 and xywh.min() >= 0 and size_wh.min() > 2:
        return [f"{path}: all {len(xywh)} boxes lie within 0..1: they look normalized; COCO boxes are in pixels"]
    fits_as_corners = (xywh[:, 2:] >= xywh[:, :2]).all(axis=1) & (xywh[:, 2:] <= size_wh + 1).all(axis=1)
    with np.errstate(over="ignore"):
        beyond = (xywh[:, :2] + xywh[:, 2:] > size_wh + 1).any(axis=1)
    # true x, y, width, height seldom leave the picture, and are seldom all larger than their own x and y
    if len(xywh) >= 3 and beyond.mean() >= 0.1 and fits_as_corners.mean() >= 0.98:
        return [
            f"{path}: {int(beyond.sum())} of {len(xywh)} boxes reach beyond their pictures, and all but "
            f"{int((~fits_as_corners).sum())} fit as x1, y1, x2, y2: they look like corners; "
            "COCO boxes are x, y, width, height"
        ]
    return []


def _describe_boxes(coco: CocoSet, annotations: Annotations, name: str, report: SplitReport) -> None:
    path = coco.files.annotations
    per_class = np.bincount(coco.box_class, minlength=len(coco.classes)).tolist()
    area = (coco.box_xyxy[:, 2:] - coco.box_xyxy[:, :2]).prod(axis=1)
    small, large = int((area < SMALL_AREA).sum()), int((area > LARGE_AREA).sum())
    report.images = len(coco)
    report.empty_images = int((np.diff(coco.box_start) == 0).sum())
    report.boxes, report.crowds = len(area), int(coco.box_crowd.sum())
    report.sizes = {"small": small, "medium": len(area) - small - large, "large": large}
    report.classes = [
        {"name": class_name, "category_id": number, "boxes": boxes}
        for class_name, number, boxes in zip(coco.classes.names, coco.classes.category_ids, per_class, strict=True)
    ]
    if not len(area):
        if name == "train":
            report.errors.append(f"{path}: no boxes; a train split needs some")
        elif name == "val":
            report.notes.append(f"{path}: no boxes; AP is undefined without them")
        return
    if report.empty_images:
        report.notes.append(f"{path}: {report.empty_images} of {len(coco)} pictures have no boxes")
    unused = [entry["name"] for entry in report.classes if not entry["boxes"]]
    if unused:
        report.notes.append(f"{path}: {len(unused)} classes have no boxes: {_first(unused)}")
    tiny = int(((coco.box_xyxy[:, 2:] - coco.box_xyxy[:, :2]).min(axis=1) < TINY).sum())
    if tiny:
        report.notes.append(f"{path}: {tiny} boxes are less than {TINY:g} pixels wide or high")
    report.notes += _repetitions(coco, annotations)


def _repetitions(coco: CocoSet, annotations: Annotations) -> list[str]:
    """The same box twice in one picture, and the same file under two image ids."""
    notes, path, records = [], coco.files.annotations, annotations.records
    keys = np.column_stack((annotations.image, annotations.class_id, records["xywh"]))
    _, first, count = np.unique(keys, axis=0, return_index=True, return_counts=True)
    repeated = first[count > 1]
    if len(repeated):
        places = _first(f"image {records['image_id'][i]} {records['xywh'][i].tolist()}" for i in np.sort(repeated))
        notes.append(f"{path}: {int((count - 1).sum())} boxes repeat another of the same class: {places}")
    names = [coco.name(i) for i in range(len(coco))]
    twice = sorted(name for name, times in Counter(names).items() if times > 1)
    if twice:
        notes.append(f"{path}: {len(twice)} files are listed under more than one image id: {_first(twice)}")
    return notes


def _class_differences(train: CocoSet, other: CocoSet, where: str) -> list[str]:
    if train.classes == other.classes:
        return []
    ours = dict(zip(train.classes.category_ids, train.classes.names, strict=True))
    theirs = dict(zip(other.classes.category_ids, other.classes.names, strict=True))
    differing = [
        f"{number} is {ours.get(number, 'missing')!r} and {theirs.get(number, 'missing')!r}"
        for number in sorted(ours.keys() | theirs.keys())
        if ours.get(number) != theirs.get(number)
    ]
    return [f"{where} have different categories: {_first(differing)}"]


def _shared_pictures(train: CocoSet, other: CocoSet, where: str) -> list[str]:
    """Pictures that the network would be judged on after training on them, by path and by content."""
    ours, theirs = ({coco.path(i) for i in range(len(coco))} for coco in (train, other))
    same = sorted(ours & theirs)
    errors = [f"{where} share {len(same)} pictures: {_first(path.name for path in same)}"] if same else []
    twins = _same_content(ours - theirs, theirs - ours)
    if twins:
        places = _first(f"{shown(one)} = {shown(two)}" for one, two in twins)
        errors.append(f"{where} hold {len(twins)} pictures of the same content: {places}")
    return errors


def _same_content(ours: Iterable[Path], theirs: Iterable[Path]) -> list[tuple[Path, Path]]:
    """Pairs of files with equal bytes; only files of equal size are read."""
    sizes: dict[int, tuple[list[Path], list[Path]]] = defaultdict(lambda: ([], []))
    for side, paths in enumerate((ours, theirs)):
        for path in sorted(paths):
            if path.is_file():
                sizes[path.stat().st_size][side].append(path)
    twins = []
    for size, (left, right) in sizes.items():
        if size and left and right:
            known = {_digest(path): path for path in left}
            twins += [(known[digest], path) for path in right if (digest := _digest(path)) in known]
    return twins


def _digest(path: Path) -> bytes:
    try:
        return hashlib.blake2b(path.read_bytes(), digest_size=16).digest()
    except OSError:  # already reported by check_pictures; a path is no twin of any content
        return str(path).encode()


def _first(items: Iterable[object], limit: int = 5) -> str:
    texts = [str(item) for item in items]
    rest = len(texts) - limit
    return ", ".join(texts[:limit]) + (f" and {rest} more" if rest > 0 else "")
