"""The annotations as COCO's judgment needs them: boxes as the file has them, and the objects' own areas.

`CocoSet` has neither: its boxes are cut at the picture's border and rounded to float32, for training.
"""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import numpy as np

from cspdet.datasets.formats.coco import CocoDataset
from cspdet.errors import DataError
from cspdet.evaluation.records import GROUND_TRUTH_DTYPE, Records, index_in_sorted

ROW = struct.Struct("<qq4ddB")  # TRUTH_TYPE


def read_ground_truth(coco: CocoDataset) -> Records:
    """(M,) TRUTH_TYPE: every annotation of the file of `coco`, in its order; a box without an area has its own.

    Raises:
        DataError: the file has gone, or is no longer the one that `coco` was read from.
    """
    path = coco.files.annotations
    try:
        listed = json.loads(path.read_bytes(), object_hook=_pack).get("annotations", [])
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: cannot be read again for the evaluation: {error}") from None
    rows = [row for row in listed if type(row) is bytes]
    ground_truth = np.frombuffer(b"".join(rows), GROUND_TRUTH_DTYPE)
    known = index_in_sorted(ground_truth["image_id"], coco.image_id) >= 0
    known &= index_in_sorted(ground_truth["category_id"], np.array(coco.classes.category_ids, np.int64)) >= 0
    num_unknown = len(listed) - int(known.sum())
    if num_unknown:
        raise DataError(
            f"{path}: has changed since it was read: {num_unknown} annotations do not fit its former content"
        )
    return ground_truth


def _pack(entry: dict[str, Any]) -> dict[str, Any] | bytes:
    """json's object_hook: an annotation becomes a row while the file is still being read, everything else stays."""
    box = entry.get("bbox")
    if type(box) is not list or len(box) != 4 or "image_id" not in entry:
        entry.pop("segmentation", None)
        return entry
    area = entry.get("area")
    try:
        if not isinstance(area, (int, float)) or isinstance(area, bool) or not math.isfinite(area):
            area = box[2] * box[3]
        return ROW.pack(entry["image_id"], entry["category_id"], *box, area, bool(entry.get("iscrowd")))
    except (KeyError, TypeError, OverflowError, struct.error):
        return entry
