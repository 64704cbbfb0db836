"""Pascal VOC's average precision: one IoU, no sizes, difficult objects outside of the count.

The rules are those of VOC's development kit (Everingham et al., IJCV 2010, section 4.2), class by class: detections are
taken from the best score down, equal scores in the order given. The truth of the same picture that overlaps a
detection most decides about it, at equal overlap the first. If the overlap is too small the detection is wrong; if that
truth is difficult the detection does not count at all; if that truth was taken before, by a better score, the
detection is wrong, whatever else it overlaps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from cspdet.evaluation.records import Records

# The recalls of the 11-point mean, as the public implementations have them: the fourth, seventh and eighth are a last
# bit above .3, .6 and .7, so that a recall of just 9 of 15 does not reach the seventh. Published figures rest on it.
ELEVEN_POINT_RECALLS = np.linspace(0, 1, 11)


class ImageBoxes(NamedTuple):
    """N boxes of one class, in any pictures."""

    image: np.ndarray  # (N,) int64, any numbers that tell pictures apart
    box_xyxy: np.ndarray  # (N, 4) float64, image pixels


class VocPrecisionRecall(NamedTuple):
    """True positives among the first 1, 2, ... D detections that count, best first."""

    true_positives: np.ndarray  # (D,) int64
    num_gt: int  # truths to be found, the difficult ones left out


class VocAP(NamedTuple):
    """The area under a precision-recall curve, in both ways that VOC had."""

    eleven_point: float  # mean of the best precision at recall 0, .1, ... 1 or beyond (2007)
    every_point: float  # area below the precision, made to fall, over recall (since 2010)


@dataclass(frozen=True)
class VocMetrics:
    """VOC AP of each class, by name; None where a class has no truth, which then has no part in the means."""

    min_iou: float
    pixel_inclusive: bool
    per_class: dict[str, VocAP | None]

    @property
    def mean(self) -> VocAP | None:
        """The mean over the classes that have a number."""
        known = [ap for ap in self.per_class.values() if ap is not None]
        return VocAP(*(float(np.mean(values)) for values in zip(*known, strict=True))) if known else None

    def to_json(self) -> dict[str, Any]:
        """As `metrics.json` has it: `iou`, and AP and per_class of both kinds."""
        document: dict[str, Any] = {"iou": self.min_iou, "pixel_inclusive": self.pixel_inclusive}
        for key, variant in (("11_point", "eleven_point"), ("every_point", "every_point")):
            per_class = {name: None if ap is None else getattr(ap, variant) for name, ap in self.per_class.items()}
            document[key] = {"AP": self.mean and getattr(self.mean, variant), "per_class": per_class}
        return document


def elementwise_iou(a_xyxy: np.ndarray, b_xyxy: np.ndarray, *, pixel_inclusive: bool) -> np.ndarray:
    """(N,) IoU of boxes (N, 4) pair by pair, 0 where they have no area.

    `pixel_inclusive`: the pixels of both corners belong to the box, so that its sides are one longer.
    """
    more = 1.0 if pixel_inclusive else 0.0
    shared = np.minimum(a_xyxy[:, 2:], b_xyxy[:, 2:]) - np.maximum(a_xyxy[:, :2], b_xyxy[:, :2]) + more
    intersection = np.clip(shared, 0, None).prod(axis=1)
    union = sum((box[:, 2:] - box[:, :2] + more).prod(axis=1) for box in (a_xyxy, b_xyxy)) - intersection
    return np.divide(intersection, union, out=np.zeros(len(a_xyxy)), where=union > 0)


def match_detections(
    detections: ImageBoxes,
    score: np.ndarray,
    ground_truth: ImageBoxes,
    difficult: np.ndarray,
    *,
    min_iou: float,
    pixel_inclusive: bool,
) -> VocPrecisionRecall:
    """Judge detections (D,) of one class against its truths (G,), `difficult` (G,) bool, by the rules above."""
    order = np.argsort(-score, kind="stable")
    detections = ImageBoxes(detections.image[order], detections.box_xyxy[order])
    best, iou = _best_overlapping_gt(detections, ground_truth, pixel_inclusive)
    hit = (iou >= min_iou) & (iou > 0)
    counts = ~hit
    counts[hit] = ~difficult[best[hit]]
    right = np.zeros(len(score), bool)
    (matched,) = np.nonzero(hit & counts)
    right[matched[np.unique(best[matched], return_index=True)[1]]] = True  # the first of each truth
    return VocPrecisionRecall(np.cumsum(right[counts]), int((~difficult).sum()))


def _best_overlapping_gt(
    detections: ImageBoxes, ground_truth: ImageBoxes, pixel_inclusive: bool
) -> tuple[np.ndarray, np.ndarray]:
    """(D,) which truth of its picture overlaps each detection most, and (D,) by how much; -1 and 0 without any."""
    by_image = np.argsort(ground_truth.image, kind="stable")
    images = ground_truth.image[by_image]
    first = np.searchsorted(images, detections.image, side="left")
    count = np.searchsorted(images, detections.image, side="right") - first
    best, best_iou = np.full(len(count), -1), np.zeros(len(count))
    (some,) = np.nonzero(count)
    if not len(some):
        return best, best_iou
    # Every detection beside every truth of its picture, one pair after the other.
    start = np.cumsum(count[some]) - count[some]
    mine = np.repeat(some, count[some])
    other = by_image[np.arange(len(mine)) + np.repeat(first[some] - start, count[some])]
    iou = elementwise_iou(detections.box_xyxy[mine], ground_truth.box_xyxy[other], pixel_inclusive=pixel_inclusive)
    best_iou[some] = np.maximum.reduceat(iou, start)
    (at_most,) = np.nonzero(iou == best_iou[mine])
    owners, firsts = np.unique(mine[at_most], return_index=True)
    best[owners] = other[at_most[firsts]]
    return best, best_iou


def average_precision(curve: VocPrecisionRecall) -> VocAP | None:
    """Both areas below the curve; None where there was nothing to find."""
    if not curve.num_gt:
        return None
    if not len(curve.true_positives):
        return VocAP(0.0, 0.0)
    precision = curve.true_positives / np.arange(1, len(curve.true_positives) + 1)
    falling = np.maximum.accumulate(precision[::-1])[::-1]
    reached = np.searchsorted(curve.true_positives / curve.num_gt, ELEVEN_POINT_RECALLS, side="left")
    eleven = np.append(falling, 0.0)[reached].mean()
    steps = np.diff(curve.true_positives, prepend=0)
    return VocAP(float(eleven), float((steps * falling).sum() / curve.num_gt))


def evaluate_voc(
    names: tuple[str, ...],
    category_ids: tuple[int, ...],
    gt_records: Records,
    detection_records: Records,
    *,
    min_iou: float,
    pixel_inclusive: bool,
) -> VocMetrics:
    """VOC AP of every class; crowds are what VOC calls difficult, as `prepare-data voc` writes them.

    `names` and `category_ids` (C,) are the classes, `truth` (M,) TRUTH_TYPE, `found` (N,) FOUND_TYPE. The corners are
    x, y, x + width, y + height; with `pixel_inclusive` both of them belong to the box, as in VOC's own xml and in the
    tools that published figures come from, else a box is as wide as it says.
    """
    per_class = {}
    for name, category_id in zip(names, category_ids, strict=True):
        of_class = [part[part["category_id"] == category_id] for part in (detection_records, gt_records)]
        detections, ground_truth = (ImageBoxes(part["image_id"], _xywh_to_xyxy(part["bbox"])) for part in of_class)
        score, crowd = of_class[0]["score"], of_class[1]["crowd"].astype(bool)
        curve = match_detections(
            detections, score, ground_truth, crowd, min_iou=min_iou, pixel_inclusive=pixel_inclusive
        )
        per_class[name] = average_precision(curve)
    return VocMetrics(min_iou, pixel_inclusive, per_class)


def _xywh_to_xyxy(box_xywh: np.ndarray) -> np.ndarray:
    return np.concatenate((box_xywh[:, :2], box_xywh[:, :2] + box_xywh[:, 2:]), axis=1)
