"""A COCO annotation file as packed arrays, validated: every problem is found, counted, and told with places.

A file may hold a million boxes, so no Python object is kept for any of them: each well-formed annotation is
packed into bytes while the JSON is still being parsed, and only malformed ones are looked at one by one, to
say what is wrong. Boxes stay as the file has them; `cspdet.datasets.formats.coco` fits them to the pictures.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from posixpath import normpath
from typing import Any

import numpy as np

from cspdet.datasets.checks.issues import IssueCounter
from cspdet.errors import DataError
from cspdet.structures import Categories

RECORD_STRUCT = struct.Struct("<qqq4dB")
RECORD_DTYPE = np.dtype(
    [("id", "<i8"), ("image_id", "<i8"), ("category_id", "<i8"), ("xywh", "<f8", 4), ("crowd", "u1")]
)
NO_ID = -(2**63)  # annotation ids are optional
DROPPED_KEYS = ("segmentation", "keypoints", "caption", "segments_info")
INT64_RANGE = range(-(2**63) + 1, 2**63)


@dataclass(frozen=True, eq=False)
class Annotations:
    """The content of an annotation file: N images, M annotations, in its order; sound if no `problems`."""

    path: Path
    problems: tuple[str, ...]
    classes: Categories
    image_id: np.ndarray  # (N,) int64
    size_hw: np.ndarray  # (N, 2) int32
    names: bytes  # the file names one after the other, UTF-8
    name_start: np.ndarray  # (N + 1,) int64, offsets into `names`
    records: np.ndarray  # (M,) RECORD_TYPE
    image_index: np.ndarray  # (M,) int64, index of each annotation's image
    class_id: np.ndarray  # (M,) int64, index of each annotation's class


def read_annotations(path: Path, *, allow_empty: bool = False) -> Annotations:
    """Read and validate a file; `allow_empty` lets it lack annotations (COCO's image_info of test sets).

    Raises:
        DataError: the file cannot be read or is no JSON object. What is wrong inside it is in `.problems`.
    """
    content = _parse(path)
    issues = IssueCounter(str(path))
    images = _pop_list(content, "images", issues)
    categories = _pop_list(content, "categories", issues)
    entries = _pop_list(content, "annotations", issues, optional=allow_empty)
    classes = _read_categories(categories, issues)
    image_id, size_hw, names = _read_images(images, issues)
    records = _read_records(entries, issues)
    image = _find_indices(records["image_id"], image_id)
    class_id = _find_indices(records["category_id"], np.array(classes.category_ids, np.int64))
    if len(image_id):
        issues.add_where(
            "unknown image_id", image < 0, lambda i: f"{_describe_record(records[i])} has {records['image_id'][i]}"
        )
    if len(classes):
        issues.add_where(
            "unknown category_id",
            class_id < 0,
            lambda i: f"{_describe_record(records[i])} has {records['category_id'][i]}",
        )
    ids = records["id"]
    repeated = np.ones(len(ids), bool)
    repeated[np.unique(ids, return_index=True)[1]] = False
    issues.add_where("duplicate annotation id", repeated & (ids != NO_ID), lambda i: str(ids[i]))
    _check_boxes(records, issues)
    name_start = np.cumsum([0, *map(len, names)], dtype=np.int64)
    return Annotations(
        path=path,
        problems=tuple(issues.lines()),
        classes=classes,
        image_id=image_id,
        size_hw=size_hw,
        names=b"".join(names),
        name_start=name_start,
        records=records,
        image_index=image,
        class_id=class_id,
    )


def _pop_list(content: dict[str, Any], key: str, issues: IssueCounter, *, optional: bool = False) -> list[Any]:
    value = content.pop(key, [] if optional else None)
    if value is None:
        issues.add(f"no {key!r}; expected an object with images, annotations and categories")
    elif not isinstance(value, list):
        issues.add(f"{key!r} is {_describe(value)}; expected a list")
    elif not value and key != "annotations":
        issues.add(f"{key!r} is empty; expected at least one")
    return value if isinstance(value, list) else []


def _parse(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such annotation file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    if not data.strip():
        raise DataError(f"{path}: the file is empty; expected COCO JSON")
    try:
        text = data.decode(json.detect_encoding(data))
        del data  # half a gigabyte for COCO
        content = json.loads(text.lstrip("\ufeff"), object_hook=_pack_annotation)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}:{error.colno}: not valid JSON: {error.msg}") from None
    except RecursionError:
        raise DataError(f"{path}: not COCO JSON: nested too deeply") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not valid JSON: byte {error.start} is not {error.encoding} text") from None
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(content, dict):
        expected = "expected an object with images, annotations and categories"
        if isinstance(content, list):
            expected += " (a list of detections is for `cspdet eval --detections`)"
        raise DataError(f"{path}: the top level is {_describe(content)}; {expected}")
    return content


def _pack_annotation(entry: dict[str, Any]) -> dict[str, Any] | bytes:
    """json's object_hook: a well-formed annotation becomes a packed record, the rest stays."""
    box = entry.get("bbox")
    if type(box) is list and len(box) == 4 and type(entry.get("image_id")) is int:
        crowd, annotation_id = entry.get("iscrowd", 0), entry.get("id")
        if type(annotation_id) is not int or annotation_id not in INT64_RANGE:
            annotation_id = NO_ID
        if type(entry.get("category_id")) is int and crowd in (0, 1) and bool not in map(type, box):
            try:
                return RECORD_STRUCT.pack(annotation_id, entry["image_id"], entry["category_id"], *box, int(crowd))
            except (struct.error, OverflowError):
                return entry  # text, null or a number beyond 64 bits, which _explain finds
    for key in DROPPED_KEYS:
        entry.pop(key, None)
    return entry


def _read_records(entries: list[Any], issues: IssueCounter) -> np.ndarray:
    for i, entry in enumerate(entries):
        if type(entry) is not bytes:
            _report_malformed(i, entry, issues)
    return np.frombuffer(b"".join(entry for entry in entries if type(entry) is bytes), RECORD_DTYPE)


def _report_malformed(index: int, entry: Any, issues: IssueCounter) -> None:
    """Say what keeps an annotation from being one."""
    if not isinstance(entry, dict):
        issues.add("annotations must be objects", f"annotations[{index}] is {_describe(entry)}")
        return
    label = f"annotation {_describe(entry['id'])}" if "id" in entry else f"annotations[{index}]"
    for key in ("image_id", "category_id"):
        if not _is_int64(entry.get(key)):
            issues.add(f"{key} must be a whole number", f"{label} has {_describe_key(entry, key)}")
    box = entry.get("bbox")
    if not (isinstance(box, list) and len(box) == 4 and all(_is_number(value) for value in box)):
        found = json.dumps(box)[:60] if isinstance(box, list) else _describe_key(entry, "bbox")
        issues.add("bbox must be 4 numbers: x, y, width, height", f"{label} has {found}")
    if entry.get("iscrowd", 0) not in (0, 1):
        issues.add("iscrowd must be 0 or 1", f"{label} has {_describe(entry['iscrowd'])}")


def _read_categories(entries: list[Any], issues: IssueCounter) -> Categories:
    names: dict[int, str] = {}
    for i, entry in enumerate(entries):
        if not isinstance(entry, dict):
            issues.add("categories must be objects with id and name", f"categories[{i}] is {_describe(entry)}")
            continue
        category_id, name = entry.get("id"), entry.get("name")
        if not isinstance(category_id, int) or not _is_int64(category_id):
            found = _describe_key(entry, "id")
            issues.add("a category's id must be a whole number", f"categories[{i}] has {found}")
            continue
        if not isinstance(name, str) or not name.strip():
            issues.add("a category needs a name", f"category {category_id} has {_describe_key(entry, 'name')}")
            name = ""
        elif name in names.values():
            issues.add("duplicate category name", f"{name!r} is category {category_id} and another one")
        if category_id in names:
            issues.add("duplicate category id", f"{category_id} is {names[category_id]!r} and {name!r}")
        names[category_id] = name
    ids = sorted(names)
    return Categories(tuple(names[category_id] for category_id in ids), tuple(ids))


def _read_images(entries: list[Any], issues: IssueCounter) -> tuple[np.ndarray, np.ndarray, list[bytes]]:
    """Ids, sizes and names of all images that have an id; where size or name are wrong a stand-in is kept."""
    ids: list[int] = []
    sizes: list[tuple[int, int]] = []
    names: list[bytes] = []
    for i, entry in enumerate(entries):
        if type(entry) is not dict:
            issues.add("images must be objects with id, file_name, width, height", f"images[{i}]: {_describe(entry)}")
            continue
        given_id, name = entry.get("id"), entry.get("file_name")
        if not isinstance(given_id, int) or not _is_int64(given_id):
            issues.add("an image's id must be a whole number", f"images[{i}] has {_describe_key(entry, 'id')}")
            continue
        reason = _file_name_error(name)
        if reason:
            issues.add(f"file_name {reason}", f"image {given_id} has {_describe_key(entry, 'file_name')}")
        for key in ("width", "height"):
            if not _is_valid_side(entry.get(key)):
                found = _describe_key(entry, key)
                issues.add(f"an image's {key} must be a whole number above 0", f"image {given_id} has {found}")
        sound = _is_valid_side(entry.get("height")) and _is_valid_side(entry.get("width"))
        ids.append(given_id)
        sizes.append((entry["height"], entry["width"]) if sound else (1, 1))
        names.append(b"" if reason else str(name).encode())
    image_id = np.array(ids, np.int64)
    order = np.argsort(image_id, kind="stable")
    repeated = np.zeros(len(ids), bool)
    repeated[order[1:]] = image_id[order[1:]] == image_id[order[:-1]]
    issues.add_where("duplicate image id", repeated, lambda i: f"{ids[i]} again for {names[i].decode()!r}")
    return image_id, np.array(sizes, np.int32).reshape(-1, 2), names


def _file_name_error(name: Any) -> str:
    """What keeps a name from naming a file inside the image folder, here or on Windows; "" if it does."""
    if not isinstance(name, str) or not name.strip():
        return "must be text"
    if "\0" in name or not _is_utf8_encodable(name):
        return "is not valid text"
    if "/" in name or "\\" in name or ":" in name or name.startswith("."):
        for form in (name, name.replace("\\", "/")):
            first = normpath(form).split("/")[0]  # empty for absolute paths, `.` for the folder itself
            if first in ("", ".", "..") or PureWindowsPath(form).drive:
                return "must stay inside the image folder"
    return ""


def _is_utf8_encodable(name: str) -> bool:
    try:
        return bool(name.encode())
    except UnicodeEncodeError:  # half a surrogate pair
        return False


def _find_indices(queries: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The index in `known` (K,) of each of `wanted` (M,), -1 where it is not there."""
    if not len(known):
        return np.full(len(queries), -1, np.int64)
    order = np.argsort(known, kind="stable")
    at = np.minimum(np.searchsorted(known, queries, sorter=order), len(known) - 1)
    return np.where(known[order[at]] == queries, order[at], -1)


def _describe_record(record: np.void) -> str:
    if record["id"] == NO_ID:
        return f"an annotation of image {record['image_id']}"
    return f"annotation {record['id']}"


def _check_boxes(records: np.ndarray, issues: IssueCounter) -> None:
    xywh = records["xywh"]
    endless = ~np.isfinite(xywh).all(axis=1)
    negative = (xywh[:, 2:] < 0).any(axis=1) & ~endless

    def describe(i: int) -> str:
        return f"{_describe_record(records[i])} has [{', '.join(f'{value:g}' for value in xywh[i])}]"

    issues.add_where("bbox must be finite numbers", endless, describe)
    issues.add_where("bbox [x, y, width, height] needs width and height of 0 or more", negative, describe)


def _is_valid_side(value: Any) -> bool:
    return type(value) is int and 0 < value < 2**31


def _is_int64(value: Any) -> bool:
    return type(value) is int and value in INT64_RANGE


def _is_number(value: Any) -> bool:
    if type(value) not in (int, float):
        return False
    return abs(value) < 2**1023 or value != value or value in (float("inf"), float("-inf"))


def _describe_key(entry: dict[str, Any], key: str) -> str:
    return f"{key} {_describe(entry[key])}" if key in entry else f"no {key}"


def _describe(value: Any) -> str:
    if isinstance(value, (dict, bytes)):  # bytes: an annotation in the wrong place
        return "an object"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**20:
        return "a number of more than 20 digits"
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
