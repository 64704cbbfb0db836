"""AP and recall by box size, by the number of boxes in the image, and by overlap between boxes."""

from __future__ import annotations

import math

import numpy as np

from cspdet.analysis.matched_run import ClassScores, MatchedRun
from cspdet.analysis.matching import IOU_THRESHOLDS, build_candidates, match_boxes
from cspdet.analysis.metrics import Breakdown, ImageGroup, OverlapGroup, SizeRange
from cspdet.analysis.overlaps import ground_truth_pairs

COCO_SIZES = (("small", 0.0, 32.0), ("medium", 32.0, 96.0), ("large", 96.0, math.inf))  # sides in pixels
COCO_MAX_AREA = 1e10  # square pixels, upper bound of COCO's large
QUARTILES = ("first quarter", "second quarter", "third quarter", "fourth quarter")
TERTILES = ("few", "middle", "many")
CROWDED_IOU = 0.3  # two boxes with a higher IoU count as overlapped


def compute_breakdown(run: MatchedRun) -> Breakdown:
    """Compute the metrics of a run by box size, by number of boxes per image, and by overlap."""
    return Breakdown(
        sizes=tuple(_coco_size(run, *size) for size in COCO_SIZES),
        quartiles=_size_quartiles(run),
        image_groups=_box_count_tertiles(run),
        overlap_groups=_overlap_groups(run),
    )


def _coco_size(run: MatchedRun, name: str, low: float, high: float) -> SizeRange:
    limits = (low**2, min(high**2, COCO_MAX_AREA))
    return _size_range_metrics(run, name, limits, None if high == math.inf else high, closed=True)


def _size_quartiles(run: MatchedRun) -> tuple[SizeRange, ...]:
    area = run.ground_truth.area[run.is_target]
    inner = np.quantile(area, (0.25, 0.5, 0.75), method="higher").tolist() if len(area) else [0.0] * 3
    edges = [0.0, *inner, math.inf]
    return tuple(
        _size_range_metrics(run, name, (low, high), None if high == math.inf else math.sqrt(high), closed=False)
        for name, low, high in zip(QUARTILES, edges[:-1], edges[1:], strict=True)
    )


def _size_range_metrics(
    run: MatchedRun, name: str, limits: tuple[float, float], high: float | None, *, closed: bool
) -> SizeRange:
    """Compute the metrics of one range of box areas; boxes outside the range are ignored.

    Detections outside the range are ignored, too, unless they match a box in the range.
    """
    near = run.pairs.select(run.pairs.iou >= IOU_THRESHOLDS[0])
    match_candidates = build_candidates(near, run.detections, run.ground_truth, area=limits, closed=closed)
    is_target = ~match_candidates.ignore
    matches = [match_boxes(match_candidates, run.ground_truth, float(iou)) for iou in IOU_THRESHOLDS]
    ap, ap50, ar = ClassScores(run, matches, run.count_gt_per_class(is_target), None).means()
    return SizeRange(name, math.sqrt(limits[0]), high, int(is_target.sum()), ap, ap50, ar)


def _box_count_tertiles(run: MatchedRun) -> tuple[ImageGroup, ...]:
    """Compute metrics for three groups of images of about equal size, grouped by their number of boxes.

    Images without boxes belong to no group; empty groups are omitted.
    """
    boxes = np.bincount(run.ground_truth.image_index[run.is_target], minlength=len(run.images))
    some = boxes[boxes > 0]
    if not len(some):
        return ()
    first, second = np.quantile(some, (1 / 3, 2 / 3), method="inverted_cdf").tolist()
    masks = ((boxes > 0) & (boxes <= first), (boxes > first) & (boxes <= second), boxes > second)
    groups = []
    for name, mask in zip(TERTILES, masks, strict=True):
        if not mask.any():
            continue
        is_target = run.is_target & mask[run.ground_truth.image_index]
        ap, ap50, ar = ClassScores(run, run.matches, run.count_gt_per_class(is_target), mask).means()
        low, high = int(boxes[mask].min()), int(boxes[mask].max())
        groups.append(ImageGroup(name, low, high, int(mask.sum()), int(is_target.sum()), ap, ap50, ar))
    return tuple(groups)


def _overlap_groups(run: MatchedRun) -> tuple[OverlapGroup, ...]:
    pairs = ground_truth_pairs(run.ground_truth, CROWDED_IOU)
    overlapped = np.zeros(len(run.ground_truth), bool)
    overlapped[pairs.gt_index[pairs.iou > CROWDED_IOU]] = True
    detected_fraction = np.mean([_matched_mask(run, match.gt_index[match.correct]) for match in run.matches], axis=0)
    detected = _matched_mask(run, run.match.gt_index[run.match.correct])
    groups = []
    for name, mask in (("overlapped", run.is_target & overlapped), ("alone", run.is_target & ~overlapped)):
        some = bool(mask.any())
        recall, ar = (float(detected[mask].mean()), float(detected_fraction[mask].mean())) if some else (None, None)
        groups.append(OverlapGroup(name, int(mask.sum()), recall, ar))
    return tuple(groups)


def _matched_mask(run: MatchedRun, matched: np.ndarray) -> np.ndarray:
    """Return an (M,) bool mask that is True at the box indices `matched`."""
    mask = np.zeros(len(run.ground_truth), bool)
    mask[matched] = True
    return mask
