"""Detections and truths as rows of one flat array: 56 and 65 bytes each, whatever the number of pictures.

A results file lists objects, `{"image_id", "category_id", "bbox", "score"}`. As Python objects half a million of them
take ten times the memory, and longer to look through than hotcoco takes to judge them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

Result = dict[str, Any]  # image_id, category_id, bbox [x, y, width, height], score
Records = np.ndarray  # (N,) FOUND_TYPE or TRUTH_TYPE

DETECTION_DTYPE = np.dtype([("image_id", "<i8"), ("category_id", "<i8"), ("bbox", "<f8", 4), ("score", "<f8")])
GROUND_TRUTH_DTYPE = np.dtype(
    [("image_id", "<i8"), ("category_id", "<i8"), ("bbox", "<f8", 4), ("area", "<f8"), ("crowd", "u1")]
)


def to_records(results: Sequence[Result]) -> Records:
    """(N,) FOUND_TYPE of COCO results, in their order."""
    records = np.empty(len(results), DETECTION_DTYPE)
    for key in ("image_id", "category_id", "score"):
        records[key] = np.fromiter((result[key] for result in results), DETECTION_DTYPE[key], len(results))
    flat = chain.from_iterable(result["bbox"] for result in results)
    records["bbox"] = np.fromiter(flat, np.float64, 4 * len(results)).reshape(-1, 4)
    return records


def to_results(records: Records) -> list[Result]:
    """COCO results of (N,) FOUND_TYPE, in their order, as a results file lists them."""
    columns = (records[key].tolist() for key in ("image_id", "category_id", "bbox", "score"))
    return [
        {"image_id": image_id, "category_id": category_id, "bbox": bbox, "score": score}
        for image_id, category_id, bbox, score in zip(*columns, strict=True)
    ]


def index_in_sorted(ids: np.ndarray, known_ids: np.ndarray) -> np.ndarray:
    """(N,) the place of each of `wanted` among the sorted `known` (K,) ids, -1 where it is none of them."""
    known_ids = np.sort(known_ids)
    if not len(known_ids):
        return np.full(len(ids), -1, np.int64)
    index = np.minimum(np.searchsorted(known_ids, ids), len(known_ids) - 1)
    return np.where(known_ids[index] == ids, index, -1)
