"""Detections and ground truth as NumPy structured arrays, with 56 and 65 bytes per object.

A results file lists objects, `{"image_id", "category_id", "bbox", "score"}`. As Python dicts, these objects need ten
times the memory. Iteration over half a million dicts takes longer than the evaluation with hotcoco.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from cspdet.datasets.formats.coco import CocoDataset
from cspdet.datasets.formats.coco_parse import valid_area
from cspdet.errors import DataError

Result = dict[str, Any]  # image_id, category_id, bbox [x, y, width, height], score
Records = np.ndarray  # (N,) DETECTION_DTYPE or GROUND_TRUTH_DTYPE

DETECTION_DTYPE = np.dtype([("image_id", "<i8"), ("category_id", "<i8"), ("bbox", "<f8", 4), ("score", "<f8")])
GROUND_TRUTH_DTYPE = np.dtype(
    [("image_id", "<i8"), ("category_id", "<i8"), ("bbox", "<f8", 4), ("area", "<f8"), ("crowd", "u1")]
)
GROUND_TRUTH_STRUCT = struct.Struct("<qq4ddB")  # one row of GROUND_TRUTH_DTYPE


def to_records(results: Sequence[Result]) -> Records:
    """Convert COCO results to an (N,) array of DETECTION_DTYPE, in the same order."""
    records = np.empty(len(results), DETECTION_DTYPE)
    for key in ("image_id", "category_id", "score"):
        records[key] = np.fromiter((result[key] for result in results), DETECTION_DTYPE[key], len(results))
    flat = chain.from_iterable(result["bbox"] for result in results)
    records["bbox"] = np.fromiter(flat, np.float64, 4 * len(results)).reshape(-1, 4)
    return records


def to_results(records: Records) -> list[Result]:
    """Convert an (N,) array of DETECTION_DTYPE to COCO results, in the same order."""
    columns = (records[key].tolist() for key in ("image_id", "category_id", "bbox", "score"))
    return [
        {"image_id": image_id, "category_id": category_id, "bbox": bbox, "score": score}
        for image_id, category_id, bbox, score in zip(*columns, strict=True)
    ]


def index_in_sorted(ids: np.ndarray, known_ids: np.ndarray) -> np.ndarray:
    """Return the index of each id in the sorted known ids.

    Args:
        ids: (N,) integers.
        known_ids: (K,) integers in any order.

    Returns:
        (N,) int64 index of each id in `sort(known_ids)`; -1 if `known_ids` does not contain the id.
    """
    known_ids = np.sort(known_ids)
    if not len(known_ids):
        return np.full(len(ids), -1, np.int64)
    index = np.minimum(np.searchsorted(known_ids, ids), len(known_ids) - 1)
    return np.where(known_ids[index] == ids, index, -1)


def read_ground_truth(coco: CocoDataset) -> Records:
    """Read the annotations of a dataset for the COCO metrics.

    The metrics cannot use the arrays of `CocoDataset`: its boxes are clipped to the image and rounded to float32 for
    training, and it does not store the areas.

    Returns:
        (M,) GROUND_TRUTH_DTYPE: all annotations, in file order. If `area` is missing or negative, the area of the box
        is used, because COCO's evaluation ignores annotations without a valid area.

    Raises:
        DataError: The file is missing, or has changed since `coco` was read from it.
    """
    annotations = _read_annotations(coco)
    rows = [row for row in annotations if type(row) is bytes]
    ground_truth = np.frombuffer(b"".join(rows), GROUND_TRUTH_DTYPE)
    known = index_in_sorted(ground_truth["image_id"], coco.image_id) >= 0
    known &= index_in_sorted(ground_truth["category_id"], np.array(coco.classes.category_ids, np.int64)) >= 0
    num_unknown = len(annotations) - int(known.sum())
    if num_unknown:
        raise DataError(
            f"{coco.files.annotations}: has changed since it was read: {num_unknown} annotations do not match its "
            "earlier content"
        )
    return ground_truth


def _read_annotations(coco: CocoDataset) -> list[Any]:
    """Read the annotations of the file. Valid annotations become packed rows (bytes); others are returned unchanged."""
    try:
        content = json.loads(coco.files.read_annotations(), object_hook=_pack_annotation)
        annotations: list[Any] = content.get("annotations", [])
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{coco.files.annotations}: cannot be read again for the evaluation: {error}") from None
    return annotations


def _pack_annotation(entry: dict[str, Any]) -> dict[str, Any] | bytes:
    """Pack an annotation into a row of bytes; return other objects unchanged (`object_hook` of json)."""
    box = entry.get("bbox")
    if type(box) is not list or len(box) != 4 or "image_id" not in entry:
        entry.pop("segmentation", None)
        return entry
    try:
        area = valid_area(entry.get("area"), box)
        is_crowd = bool(entry.get("iscrowd"))
        return GROUND_TRUTH_STRUCT.pack(entry["image_id"], entry["category_id"], *box, area, is_crowd)
    except (KeyError, TypeError, ValueError, OverflowError, struct.error):
        return entry
