"""Data classes for the metrics of a run: at a score threshold, per class, curves, breakdowns and calibration.

C is the number of classes, in the order of `Analysis.classes`. Values are fractions in [0, 1], not percent. Undefined
values, for example of a class without ground truth, are None, or NaN inside arrays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class OperatingPoint:
    """Precision, recall and F1 of the detections whose score is at least `threshold`.

    Detections that match a crowd region are not counted.
    """

    threshold: float
    precision: float | None  # correct / kept; None without kept detections
    recall: float | None  # correct / num_gt; None without ground truth
    f1: float | None  # 2 correct / (kept + num_gt)
    correct: int
    kept: int  # detections with at least this score


@dataclass(frozen=True)
class ClassDetectionMetrics:
    """Metrics of one class. AP and AR100 are means over IoU .50 to .95, with at most 100 detections per image."""

    name: str
    num_gt: int  # boxes without crowds
    crowds: int
    images: int  # with at least one such box
    detections: int  # in the results file
    AP: float | None
    AP50: float | None
    AP75: float | None
    AR100: float | None
    best_f1_point: OperatingPoint  # at the threshold with the highest F1 of this class
    at_threshold: OperatingPoint  # at `Analysis.threshold`
    ece: float | None  # expected calibration error of this class


@dataclass(frozen=True, eq=False)
class PrecisionRecall:
    """COCO's interpolated precision at one IoU threshold; its mean over the recall is the AP at this threshold."""

    iou: float
    recall: np.ndarray  # (101,) 0, .01 ... 1
    per_class: np.ndarray  # (C, 101) precision; NaN rows for classes without ground truth
    mean: np.ndarray  # (101,) over classes with ground truth; NaN if there are none


@dataclass(frozen=True, eq=False)
class ThresholdCurves:
    """Precision, recall and F1 as functions of the score threshold, at `Analysis.iou`."""

    threshold: np.ndarray  # (101,) ascending
    precision: np.ndarray  # (101,) over all classes together; NaN without kept detections
    recall: np.ndarray  # (101,)
    f1: np.ndarray  # (101,)
    class_precision: np.ndarray  # (C, 101)
    class_recall: np.ndarray  # (C, 101)
    class_f1: np.ndarray  # (C, 101)
    best_f1_point: OperatingPoint  # over all scores, not only the sampled thresholds


@dataclass(frozen=True, eq=False)
class ThresholdCounts:
    """Number of detections of each type and class with a score of at least each of K thresholds, at `Analysis.iou`.

    The true positives of a class are its `correct` detections. The false positives are its detections of the five wrong
    types. The false negatives are its boxes without a correct detection.
    """

    threshold: np.ndarray  # (K,) ascending; contains `Analysis.threshold` and the best threshold
    counts: dict[str, np.ndarray]  # by detection type: (C, K) int64
    num_gt: np.ndarray  # (C,) int64 boxes without crowds


@dataclass(frozen=True)
class SizeRange:
    """Metrics of the boxes in a range of sizes; other boxes, and unmatched detections of other sizes, are ignored.

    `low` and `high` are sides, sqrt(area), in pixels.
    """

    name: str  # small, medium, large; or first quarter ... fourth quarter
    low: float
    high: float | None  # None: unbounded
    num_gt: int
    AP: float | None
    AP50: float | None
    AR100: float | None


@dataclass(frozen=True)
class ImageGroup:
    """Metrics of about a third of the images with boxes: those with `low` to `high` boxes."""

    name: str  # few, middle, many
    low: int  # boxes per image, both bounds inclusive
    high: int
    images: int
    num_gt: int
    AP: float | None
    AP50: float | None
    AR100: float | None


@dataclass(frozen=True)
class OverlapGroup:
    """Recall of the boxes that another box overlaps, or of the boxes that no other box overlaps."""

    name: str  # overlapped, alone
    num_gt: int
    recall: float | None  # at `Analysis.iou`
    AR100: float | None  # mean over IoU .50 to .95


@dataclass(frozen=True)
class Breakdown:
    """Metrics by box size, by number of boxes per image, and by overlap between boxes."""

    sizes: tuple[SizeRange, ...]  # COCO's three
    quartiles: tuple[SizeRange, ...]  # of the box sizes of this dataset
    image_groups: tuple[ImageGroup, ...]
    overlap_groups: tuple[OverlapGroup, ...]


@dataclass(frozen=True)
class CalibrationBin:
    """Statistics of the detections with scores in [low, high); the last bin includes its upper bound."""

    low: float
    high: float
    count: int
    mean_score: float | None
    accuracy: float | None  # fraction of correct detections


@dataclass(frozen=True)
class Calibration:
    """Calibration of the scores: mean score and fraction of correct detections in bins of the score."""

    bins: tuple[CalibrationBin, ...]  # 10
    ece: float | None  # expected calibration error: mean |mean score - accuracy|, weighted by the counts of the bins
    kept_ece: float | None  # the same for detections with at least a score of `Analysis.threshold`
