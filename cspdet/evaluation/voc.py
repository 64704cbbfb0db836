"""Pascal VOC average precision: one IoU threshold, all object sizes together, difficult objects ignored.

The rules are those of VOC's development kit (Everingham et al., IJCV 2010, section 4.2). Each class is evaluated
separately. Detections are processed in descending order of score; detections with equal scores keep their order. Each
detection is matched to the ground-truth box of its image with the highest IoU. Among boxes with equal IoU, the first is
used. The first rule that applies decides:

1. The IoU is below the threshold: the detection is a false positive.
2. The box is difficult: the detection is ignored.
3. A detection with a higher score was matched to the box: this detection is a false positive.
4. Otherwise, the detection is a true positive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from cspdet.evaluation.records import Records
from cspdet.structures import Categories

# Recall thresholds of the 11-point mean, as in the public implementations. linspace rounds .3, .6 and .7 up by one bit,
# so that a recall of exactly 9/15 is below the threshold of .6. Published values depend on this.
ELEVEN_POINT_RECALLS = np.linspace(0, 1, 11)


class ImageBoxes(NamedTuple):
    """N boxes of one class, with the images that they belong to."""

    image: np.ndarray  # (N,) int64, an id of the image
    box_xyxy: np.ndarray  # (N, 4) float64, image pixels


class VocPrecisionRecall(NamedTuple):
    """Counts from which the precision-recall curve of a class is computed."""

    true_positives: np.ndarray  # (D,) int64; element i: among the i + 1 best detections, without the ignored ones
    num_gt: int  # ground truth without difficult objects


class VocAP(NamedTuple):
    """Average precision by both definitions of VOC."""

    eleven_point: float  # mean of the maximum precision at recall >= 0, .1, ... 1 (2007)
    every_point: float  # area under the monotonically decreasing precision over recall (since 2010)


@dataclass(frozen=True)
class VocMetrics:
    """VOC AP by class name. The AP of a class without ground truth is None; the mean does not include such classes."""

    min_iou: float
    pixel_inclusive: bool
    per_class: dict[str, VocAP | None]

    @property
    def mean(self) -> VocAP | None:
        """Mean over the classes whose AP is defined; None if there are no such classes."""
        known = [ap for ap in self.per_class.values() if ap is not None]
        return VocAP(*(float(np.mean(values)) for values in zip(*known, strict=True))) if known else None

    def to_json(self) -> dict[str, Any]:
        """Return the entry `voc` of metrics.json: the settings, and both types of AP, as mean and per class."""
        document: dict[str, Any] = {"iou": self.min_iou, "pixel_inclusive": self.pixel_inclusive}
        for key, variant in (("11_point", "eleven_point"), ("every_point", "every_point")):
            per_class = {name: None if ap is None else getattr(ap, variant) for name, ap in self.per_class.items()}
            document[key] = {"AP": self.mean and getattr(self.mean, variant), "per_class": per_class}
        return document


def elementwise_iou(a_xyxy: np.ndarray, b_xyxy: np.ndarray, *, pixel_inclusive: bool) -> np.ndarray:
    """Return the IoU of N pairs of boxes.

    Args:
        a_xyxy: (N, 4) boxes.
        b_xyxy: (N, 4) boxes.
        pixel_inclusive: Whether both corners are pixels inside the box. The width is then x2 - x1 + 1.

    Returns:
        (N,) float64, 0 for boxes without area.
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
    """Match each detection of one class to the ground-truth box of its image with the highest IoU.

    If the IoU is below `min_iou`, the detection is a false positive. A detection matched to a difficult box is ignored.
    Of the detections matched to another box, the one with the highest score is a true positive; the rest are false.

    Args:
        detections: D detected boxes.
        score: (D,) scores of the detections.
        ground_truth: G ground-truth boxes.
        difficult: (G,) bool, whether the ground-truth box is difficult.
        min_iou: IoU threshold.
        pixel_inclusive: See `elementwise_iou`.
    """
    order = np.argsort(-score, kind="stable")
    detections = ImageBoxes(detections.image[order], detections.box_xyxy[order])
    best_gt, iou = _best_overlapping_gt(detections, ground_truth, pixel_inclusive)
    hit = (iou >= min_iou) & (iou > 0)
    counts = ~hit
    counts[hit] = ~difficult[best_gt[hit]]
    is_tp = np.zeros(len(score), bool)
    (matched,) = np.nonzero(hit & counts)
    is_tp[matched[np.unique(best_gt[matched], return_index=True)[1]]] = True  # the first match of each ground truth
    return VocPrecisionRecall(np.cumsum(is_tp[counts]), int((~difficult).sum()))


def _best_overlapping_gt(
    detections: ImageBoxes, ground_truth: ImageBoxes, pixel_inclusive: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return for each detection the index of the ground-truth box of its image with the highest IoU, and this IoU.

    Without ground truth in the image, the index is -1 and the IoU is 0.
    """
    by_image = np.argsort(ground_truth.image, kind="stable")
    images = ground_truth.image[by_image]
    first = np.searchsorted(images, detections.image, side="left")
    count = np.searchsorted(images, detections.image, side="right") - first
    best, best_iou = np.full(len(count), -1), np.zeros(len(count))
    (some,) = np.nonzero(count)
    if not len(some):
        return best, best_iou
    # All pairs of a detection and a ground truth of its image.
    start = np.cumsum(count[some]) - count[some]
    det = np.repeat(some, count[some])
    gt = by_image[np.arange(len(det)) + np.repeat(first[some] - start, count[some])]
    iou = elementwise_iou(detections.box_xyxy[det], ground_truth.box_xyxy[gt], pixel_inclusive=pixel_inclusive)
    best_iou[some] = np.maximum.reduceat(iou, start)
    (is_best,) = np.nonzero(iou == best_iou[det])
    rows, first_best = np.unique(det[is_best], return_index=True)
    best[rows] = gt[is_best[first_best]]
    return best, best_iou


def average_precision(curve: VocPrecisionRecall) -> VocAP | None:
    """Compute the AP over 11 recall points and over all recall values. Return None for a class without ground truth."""
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
    categories: Categories, gt_records: Records, detection_records: Records, *, min_iou: float, pixel_inclusive: bool
) -> VocMetrics:
    """Compute the VOC AP of all classes.

    Args:
        categories: The classes.
        gt_records: (M,) GROUND_TRUTH_DTYPE; `crowd` marks difficult objects, as written by `prepare-data voc`.
        detection_records: (N,) DETECTION_DTYPE.
        min_iou: IoU threshold.
        pixel_inclusive: Whether both corners, (x, y) and (x + width, y + height), are pixels inside the box. The box is
            then width + 1 pixels wide. VOC's XML files and the tools used for published values have this rule.
    """
    per_class = {}
    for name, category_id in zip(categories.names, categories.category_ids, strict=True):
        of_class = [rows[rows["category_id"] == category_id] for rows in (detection_records, gt_records)]
        detections, ground_truth = (ImageBoxes(rows["image_id"], _xywh_to_xyxy(rows["bbox"])) for rows in of_class)
        score, crowd = of_class[0]["score"], of_class[1]["crowd"].astype(bool)
        curve = match_detections(
            detections, score, ground_truth, crowd, min_iou=min_iou, pixel_inclusive=pixel_inclusive
        )
        per_class[name] = average_precision(curve)
    return VocMetrics(min_iou, pixel_inclusive, per_class)


def _xywh_to_xyxy(box_xywh: np.ndarray) -> np.ndarray:
    return np.concatenate((box_xywh[:, :2], box_xywh[:, :2] + box_xywh[:, 2:]), axis=1)
