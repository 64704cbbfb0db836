"""Read a COCO annotation file into arrays and validate it; issues are counted and reported with examples.

Boxes are not modified here; `cspdet.datasets.formats.coco` clips them to their images.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cspdet.datasets.descriptor import SplitFiles
from cspdet.datasets.formats.coco_corrections import drop_unused_duplicates, find_written_names
from cspdet.datasets.formats.coco_parse import (
    NO_ID,
    RECORD_DTYPE,
    describe,
    describe_key,
    is_int64,
    is_number,
    is_valid_side,
    parse_annotations,
)
from cspdet.datasets.formats.names import file_name_error
from cspdet.datasets.issues import IssueCounter
from cspdet.io.text import is_text
from cspdet.structures import Categories


@dataclass(frozen=True, eq=False)
class Annotations:
    """Content of an annotation file: N images and M annotations in file order; valid if `problems` is empty."""

    path: Path
    problems: tuple[str, ...]
    classes: Categories
    image_id: np.ndarray  # (N,) int64
    size_hw: np.ndarray  # (N, 2) int32
    names: bytes  # concatenated file names, in the encoding of the file system
    name_start: np.ndarray  # (N + 1,) int64, offsets into `names`
    records: np.ndarray  # (M,) RECORD_DTYPE
    image_index: np.ndarray  # (M,) int64, index of each annotation's image
    class_id: np.ndarray  # (M,) int64, index of each annotation's class
    notes: tuple[str, ...] = ()  # what was read in another way than written


def read_annotations(files: SplitFiles, *, allow_empty: bool = False) -> Annotations:
    """Read and validate the annotations of a split.

    Args:
        files: The split.
        allow_empty: Accept a file without annotations (image_info files of COCO's test sets).

    Returns:
        The content; errors in the content are listed in its `problems`.

    Raises:
        DataError: The file cannot be read, or is not a JSON object.
    """
    content = parse_annotations(files)
    issues, notes = IssueCounter(str(files.annotations)), IssueCounter(str(files.annotations))
    images = _pop_list(content, "images", issues)
    categories = _pop_list(content, "categories", issues)
    entries = _pop_list(content, "annotations", issues, optional=allow_empty)
    records = _read_records(entries, issues)
    classes = _read_categories(drop_unused_duplicates(categories, records, notes), issues)
    image_id, size_hw, names = _read_images(images, issues)
    names = find_written_names(names, files.images, notes)
    image_index = _find_known(records, "image_id", image_id, issues)
    class_id = _find_known(records, "category_id", np.array(classes.category_ids, np.int64), issues)
    _check_duplicate_ids(records["id"], issues)
    _check_boxes(records, issues)
    return Annotations(
        path=files.annotations,
        problems=tuple(issues.lines()),
        classes=classes,
        image_id=image_id,
        size_hw=size_hw,
        names=b"".join(names),
        name_start=np.cumsum([0, *map(len, names)], dtype=np.int64),
        records=records,
        image_index=image_index,
        class_id=class_id,
        notes=tuple(notes.lines()),
    )


def _pop_list(content: dict[str, Any], key: str, issues: IssueCounter, *, optional: bool = False) -> list[Any]:
    value = content.pop(key, [] if optional else None)
    if value is None:
        issues.add(f"no {key!r}; expected an object with images, annotations and categories")
    elif not isinstance(value, list):
        issues.add(f"{key!r} is {describe(value)}; expected a list")
    elif not value and key != "annotations":
        issues.add(f"{key!r} is empty; expected at least one")
    return value if isinstance(value, list) else []


def _read_records(entries: list[Any], issues: IssueCounter) -> np.ndarray:
    for i, entry in enumerate(entries):
        if type(entry) is not bytes:
            _report_malformed(i, entry, issues)
    return np.frombuffer(b"".join(entry for entry in entries if type(entry) is bytes), RECORD_DTYPE)


def _report_malformed(index: int, entry: Any, issues: IssueCounter) -> None:
    """Add the issues of a malformed annotation."""
    if not isinstance(entry, dict):
        issues.add("annotations must be objects", f"annotations[{index}] is {describe(entry)}")
        return
    label = f"annotation {describe(entry['id'])}" if "id" in entry else f"annotations[{index}]"
    for key in ("image_id", "category_id"):
        if not is_int64(entry.get(key)):
            issues.add(f"{key} must be an integer", f"{label} has {describe_key(entry, key)}")
    box = entry.get("bbox")
    if not (isinstance(box, list) and len(box) == 4 and all(is_number(value) for value in box)):
        found = json.dumps(box)[:60] if isinstance(box, list) else describe_key(entry, "bbox")
        issues.add("bbox must be 4 numbers: x, y, width, height", f"{label} has {found}")
    if entry.get("iscrowd", 0) not in (0, 1):
        issues.add("iscrowd must be 0 or 1", f"{label} has {describe(entry['iscrowd'])}")


def _check_category_name(category_id: int, entry: dict[str, Any], known: set[str], issues: IssueCounter) -> str:
    """Return the name of a category, or "" if the name is not text.

    Add an issue if the name is invalid or in `known`.
    """
    name = entry.get("name")
    if not isinstance(name, str) or not name.strip():
        issues.add("a category needs a name", f"category {category_id} has {describe_key(entry, 'name')}")
        return ""
    if not is_text(name):
        issues.add("a category's name is not valid text", f"category {category_id} has {describe(name)}")
        return ""
    if name in known:
        issues.add("duplicate category name", f"{name!r} is category {category_id} and another one")
    return name


def _read_categories(entries: list[Any], issues: IssueCounter) -> Categories:
    names: dict[int, str] = {}
    known: set[str] = set()
    for i, entry in enumerate(entries):
        if not isinstance(entry, dict):
            issues.add("categories must be objects with id and name", f"categories[{i}] is {describe(entry)}")
            continue
        category_id = entry.get("id")
        if not isinstance(category_id, int) or not is_int64(category_id):
            found = describe_key(entry, "id")
            issues.add("a category's id must be an integer", f"categories[{i}] has {found}")
            continue
        name = _check_category_name(category_id, entry, known, issues)
        known.add(name)
        if category_id in names:
            issues.add("duplicate category id", f"{category_id} is {names[category_id]!r} and {name!r}")
        names[category_id] = name
    ids = sorted(names)
    return Categories(tuple(names[category_id] for category_id in ids), tuple(ids))


def _is_repeated(ids: np.ndarray) -> np.ndarray:
    """Return a mask (N,) of the ids that occur earlier in the array."""
    order = np.argsort(ids, kind="stable")
    repeated = np.zeros(len(ids), bool)
    repeated[order[1:]] = ids[order[1:]] == ids[order[:-1]]
    return repeated


def _image_size(entry: dict[str, Any], issues: IssueCounter) -> tuple[int, int]:
    """Return the (height, width) of an image entry; if one of them is invalid, add an issue and return (1, 1)."""
    for key in ("width", "height"):
        if not is_valid_side(entry.get(key)):
            found = describe_key(entry, key)
            issues.add(f"an image's {key} must be an integer above 0", f"image {entry['id']} has {found}")
    has_valid_size = is_valid_side(entry.get("height")) and is_valid_side(entry.get("width"))
    return (entry["height"], entry["width"]) if has_valid_size else (1, 1)


def _read_images(entries: list[Any], issues: IssueCounter) -> tuple[np.ndarray, np.ndarray, list[bytes]]:
    """Return (N,) ids, (N, 2) heights and widths, and N file names; invalid sizes are (1, 1), invalid names are b""."""
    ids: list[int] = []
    sizes: list[tuple[int, int]] = []
    names: list[bytes] = []
    for i, entry in enumerate(entries):
        if type(entry) is not dict:
            issues.add("images must be objects with id, file_name, width, height", f"images[{i}]: {describe(entry)}")
            continue
        given_id, name = entry.get("id"), entry.get("file_name")
        if not isinstance(given_id, int) or not is_int64(given_id):
            issues.add("an image's id must be an integer", f"images[{i}] has {describe_key(entry, 'id')}")
            continue
        reason = file_name_error(name)
        if reason:
            issues.add(f"file_name {reason}", f"image {given_id} has {describe_key(entry, 'file_name')}")
        ids.append(given_id)
        sizes.append(_image_size(entry, issues))
        names.append(b"" if reason else str(name).encode("utf-8", "surrogateescape"))
    image_id = np.array(ids, np.int64)
    repeated = _is_repeated(image_id)
    issues.add_where("duplicate image id", repeated, lambda i: f"{ids[i]} again for {os.fsdecode(names[i])!r}")
    return image_id, np.array(sizes, np.int32).reshape(-1, 2), names


def _find_known(records: np.ndarray, key: str, known: np.ndarray, issues: IssueCounter) -> np.ndarray:
    """Look up the id under `key` of each record in the ids `known`, and add an issue for unknown ids.

    Returns:
        (M,) index into `known`; -1 for an unknown id.
    """
    index = _find_indices(records[key], known)
    if len(known):
        issues.add_where(f"unknown {key}", index < 0, lambda i: f"{_describe_record(records[i])} has {records[key][i]}")
    return index


def _check_duplicate_ids(ids: np.ndarray, issues: IssueCounter) -> None:
    repeated = np.ones(len(ids), bool)
    repeated[np.unique(ids, return_index=True)[1]] = False
    issues.add_where("duplicate annotation id", repeated & (ids != NO_ID), lambda i: str(ids[i]))


def _find_indices(queries: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return the (M,) index in `known` (K,) of each value of `queries` (M,); -1 for a value that is not in `known`."""
    if not len(known):
        return np.full(len(queries), -1, np.int64)
    order = np.argsort(known, kind="stable")
    index = np.minimum(np.searchsorted(known, queries, sorter=order), len(known) - 1)
    return np.where(known[order[index]] == queries, order[index], -1)


def _describe_record(record: np.void) -> str:
    if record["id"] == NO_ID:
        return f"an annotation of image {record['image_id']}"
    return f"annotation {record['id']}"


def _check_boxes(records: np.ndarray, issues: IssueCounter) -> None:
    xywh = records["xywh"]
    not_finite = ~np.isfinite(xywh).all(axis=1)
    negative = (xywh[:, 2:] < 0).any(axis=1) & ~not_finite

    def describe_box(i: int) -> str:
        return f"{_describe_record(records[i])} has [{', '.join(f'{value:g}' for value in xywh[i])}]"

    issues.add_where("bbox must be finite numbers", not_finite, describe_box)
    issues.add_where("bbox [x, y, width, height] needs width and height of 0 or more", negative, describe_box)
