"""Parse a COCO annotation file into packed records.

A file may contain a million boxes, so no Python object is kept per box: well-formed annotations are packed into bytes
during JSON parsing. Malformed annotations are kept unchanged; `coco_json` reports them.
"""

from __future__ import annotations

import json
import struct
import sys
from typing import Any

import numpy as np

from cspdet.datasets.descriptor import SplitFiles
from cspdet.errors import DataError

RECORD_STRUCT = struct.Struct("<qqq4dBd")
RECORD_DTYPE = np.dtype(
    [("id", "<i8"), ("image_id", "<i8"), ("category_id", "<i8"), ("xywh", "<f8", 4), ("crowd", "u1"), ("area", "<f8")]
)
NO_ID = -(2**63)  # marks a missing annotation id, because these ids are optional
DROPPED_KEYS = ("segmentation", "keypoints", "caption", "segments_info")
INT64_RANGE = range(-(2**63) + 1, 2**63)


def parse_annotations(files: SplitFiles) -> dict[str, Any]:
    """Parse the annotation file of a split.

    Returns:
        The top-level object. Well-formed annotations are `bytes` of RECORD_STRUCT; all other values are plain JSON.

    Raises:
        DataError: The file cannot be read, or is not a JSON object.
    """
    path = files.annotations
    try:
        data = files.read_annotations()
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
        raise DataError(f"{path}: the top level is {describe(content)}; {expected}")
    return content


def _pack_annotation(entry: dict[str, Any]) -> dict[str, Any] | bytes:
    """Return a well-formed annotation as RECORD_STRUCT bytes, and any other JSON object as a dict.

    This is the `object_hook` of the JSON parser, which calls it for every object.
    """
    box = entry.get("bbox")
    if type(box) is list and len(box) == 4 and type(entry.get("image_id")) is int:
        crowd, annotation_id = entry.get("iscrowd", 0), entry.get("id")
        if type(annotation_id) is not int or annotation_id not in INT64_RANGE:
            annotation_id = NO_ID
        if type(entry.get("category_id")) is int and crowd in (0, 1) and bool not in map(type, box):
            try:
                area = valid_area(entry.get("area"), box)
                return RECORD_STRUCT.pack(
                    annotation_id, entry["image_id"], entry["category_id"], *box, int(crowd), area
                )
            except (struct.error, OverflowError, TypeError, ValueError):
                return entry  # text, null, or a number of more than 64 bits, reported by coco_json
    for key in DROPPED_KEYS:
        entry.pop(key, None)
    return entry


def valid_area(area: Any, box: list[Any]) -> float:
    """Return the `area` of an annotation or, if it is missing or negative, the area of its box x, y, width, height.

    Raises:
        TypeError, ValueError, OverflowError: The width or height is not a number, or too large.
    """
    if not isinstance(area, (int, float)) or isinstance(area, bool) or not 0 <= area <= sys.float_info.max:
        return float(box[2]) * float(box[3])
    return float(area)


def is_valid_side(value: Any) -> bool:
    """Return whether a value can be the width or height of an image."""
    return type(value) is int and 0 < value < 2**31


def is_int64(value: Any) -> bool:
    """Return whether a value is an integer that fits into 64 bits and is not NO_ID, the mark of a missing id."""
    return type(value) is int and value in INT64_RANGE


def is_number(value: Any) -> bool:
    """Return whether a value is a number that fits into float64; infinity and NaN are numbers, too."""
    if type(value) not in (int, float):
        return False
    return abs(value) < 2**1023 or value != value or value in (float("inf"), float("-inf"))


def describe_key(entry: dict[str, Any], key: str) -> str:
    """Format a key and its value for a message: `width -3`, or `no width`."""
    return f"{key} {describe(entry[key])}" if key in entry else f"no {key}"


def describe(value: Any) -> str:
    """Format a JSON value for a message, in at most 80 characters."""
    if isinstance(value, (dict, bytes)):  # bytes: a packed annotation at an unexpected position
        return "an object"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**20:
        return "a number of more than 20 digits"
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
