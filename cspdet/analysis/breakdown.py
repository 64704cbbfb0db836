"""AP and recall by the size of the boxes, and by how crowded their surroundings are."""

from __future__ import annotations

import math

import numpy as np

from cspdet.analysis.matched_run import ClassScores, Judged
from cspdet.analysis.matching import IOUS, candidates, match_boxes
from cspdet.analysis.overlaps import truth_pairs
from cspdet.analysis.structures import Breakdown, OverlapGroup, PictureGroup, SizeRange

COCO_SIZES = (("small", 0.0, 32.0), ("medium", 32.0, 96.0), ("large", 96.0, math.inf))  # sides in pixels
COCO_LIMIT = 1e10  # square pixels, where COCO's large end
QUARTERS = ("first quarter", "second quarter", "third quarter", "fourth quarter")
THIRDS = ("few", "middle", "many")
CROWDED_IOU = 0.3  # two boxes that overlap more are in each other's way


def break_down(judged: Judged) -> Breakdown:
    """All of it."""
    return Breakdown(
        sizes=tuple(_coco_size(judged, *size) for size in COCO_SIZES),
        quarters=_quarters(judged),
        pictures=_thirds(judged),
        overlap=_overlap(judged),
    )


def _coco_size(judged: Judged, name: str, low: float, high: float) -> SizeRange:
    limits = (low**2, min(high**2, COCO_LIMIT))
    return _size_range(judged, name, limits, None if high == math.inf else high, closed=True)


def _quarters(judged: Judged) -> tuple[SizeRange, ...]:
    area = judged.truth.area[judged.goals]
    inner = np.quantile(area, (0.25, 0.5, 0.75), method="higher").tolist() if len(area) else [0.0] * 3
    edges = [0.0, *inner, math.inf]
    return tuple(
        _size_range(judged, name, (low, high), None if high == math.inf else math.sqrt(high), closed=False)
        for name, low, high in zip(QUARTERS, edges[:-1], edges[1:], strict=True)
    )


def _size_range(
    judged: Judged, name: str, limits: tuple[float, float], high: float | None, *, closed: bool
) -> SizeRange:
    """By COCO's rule: boxes of other sizes are no goals, and unmatched detections of other sizes no errors."""
    near = judged.pairs.where(judged.pairs.iou >= IOUS[0])
    prepared = candidates(near, judged.found, judged.truth, area=limits, closed=closed)
    goals = ~prepared.ignore
    matches = [match_boxes(prepared, judged.truth, float(iou)) for iou in IOUS]
    ap, ap50, ar = ClassScores(judged, matches, judged.count_truths(goals), None).means()
    return SizeRange(name, math.sqrt(limits[0]), high, int(goals.sum()), ap, ap50, ar)


def _thirds(judged: Judged) -> tuple[PictureGroup, ...]:
    """Groups of pictures with about as many pictures each; a group that ties leave empty is left out."""
    boxes = np.bincount(judged.truth.picture[judged.goals], minlength=len(judged.pictures))
    some = boxes[boxes > 0]
    if not len(some):
        return ()
    first, second = np.quantile(some, (1 / 3, 2 / 3), method="inverted_cdf").tolist()
    masks = ((boxes > 0) & (boxes <= first), (boxes > first) & (boxes <= second), boxes > second)
    groups = []
    for name, mask in zip(THIRDS, masks, strict=True):
        if not mask.any():
            continue
        goals = judged.goals & mask[judged.truth.picture]
        ap, ap50, ar = ClassScores(judged, judged.matches, judged.count_truths(goals), mask).means()
        low, high = int(boxes[mask].min()), int(boxes[mask].max())
        groups.append(PictureGroup(name, low, high, int(mask.sum()), int(goals.sum()), ap, ap50, ar))
    return tuple(groups)


def _overlap(judged: Judged) -> tuple[OverlapGroup, ...]:
    pairs = truth_pairs(judged.truth, CROWDED_IOU)
    overlapped = np.zeros(len(judged.truth), bool)
    overlapped[pairs.truth[pairs.iou > CROWDED_IOU]] = True
    found_share = np.mean([_taken(judged, match.truth[match.correct]) for match in judged.matches], axis=0)
    found = _taken(judged, judged.match.truth[judged.match.correct])
    groups = []
    for name, mask in (("overlapped", judged.goals & overlapped), ("alone", judged.goals & ~overlapped)):
        some = bool(mask.any())
        recall, ar = (float(found[mask].mean()), float(found_share[mask].mean())) if some else (None, None)
        groups.append(OverlapGroup(name, int(mask.sum()), recall, ar))
    return tuple(groups)


def _taken(judged: Judged, matched: np.ndarray) -> np.ndarray:
    """(M,) bool: boxes among the matched ones."""
    taken = np.zeros(len(judged.truth), bool)
    taken[matched] = True
    return taken
