"""COCO results files, `[{"image_id", "category_id", "bbox", "score"}, ...]`: read and checked."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path

from cspdet.datasets.coco import CocoSet
from cspdet.errors import DataError
from cspdet.evaluation.coco import Result

KEYS = ("image_id", "category_id", "bbox", "score")


def read_results(path: Path, coco: CocoSet) -> list[Result]:
    """The detections of a results file, each with just its four keys.

    Raises:
        DataError: not such a file; or a line for each kind of mistake, with its first offender and a count.
    """
    try:
        listed = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}") from None
    if not isinstance(listed, list):
        raise DataError(f"{path}: expected a list of COCO results, found a {type(listed).__name__}")
    images = {int(image_id) for image_id in coco.image_id}
    categories = set(coco.classes.category_ids)
    offenders: dict[str, list[str]] = defaultdict(list)
    for place, result in enumerate(listed):
        if (mistake := _mistake(result, images, categories)) is not None:
            kind, found = mistake
            offenders[kind].append(f"result {place}: {found}")
    if offenders:
        raise DataError(
            *(f"{path}: {kind}: {len(all_)} such, the first is {all_[0]}" for kind, all_ in offenders.items())
        )
    return [{key: result[key] for key in KEYS} for result in listed]


def cut_results(results: list[Result], min_score: float | None, max_detections: int | None) -> list[Result]:
    """Results above `min_score`, and at most the best `max_detections` of a picture; None cuts nothing."""
    kept = [r for r in results if min_score is None or r["score"] > min_score]
    if max_detections is None:
        return kept
    of_image: dict[int, list[Result]] = defaultdict(list)
    for result in kept:
        of_image[result["image_id"]].append(result)
    return [
        result
        for group in of_image.values()
        for result in sorted(group, key=lambda result: -result["score"])[:max_detections]
    ]


def _mistake(result: object, images: set[int], categories: set[int]) -> tuple[str, str] | None:
    """The kind of mistake and what was found, or None for a sound result."""
    if not isinstance(result, dict):
        return "not a result", f"{result!r:.60}"
    missing = [key for key in KEYS if key not in result]
    if missing:
        return f"no {missing[0]!r}", f"has the keys {', '.join(map(str, result)) or 'none'}"
    box, score = result["bbox"], result["score"]
    if not (isinstance(box, list) and len(box) == 4 and all(_finite(value) for value in box)):
        return "expected a bbox of four finite numbers", f"{box!r:.60}"
    if box[2] < 0 or box[3] < 0:
        return "expected a bbox [x, y, width, height] of no negative size", f"{box!r:.60}"
    if not _finite(score):
        return "expected a finite score", f"{score!r:.60}"
    if not isinstance(result["image_id"], int) or result["image_id"] not in images:
        return "not an image id of the annotations", f"image_id {result['image_id']!r:.60}"
    if not isinstance(result["category_id"], int) or result["category_id"] not in categories:
        known = ", ".join(map(str, sorted(categories)[:10])) + (", ..." if len(categories) > 10 else "")
        return f"not a category id of the annotations ({known})", f"category_id {result['category_id']!r:.60}"
    return None


def _finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
