"""Data classes for the errors of a run: confusion, error types and AP costs, possible label issues, worst images.

Boxes are `box_xywh`: left, top, width, height in pixels of the original image, as in COCO files. An image is given by
`dataset_index` (its index in the CocoDataset), `image_id` and `file_name` (from the annotation file).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

# The type of a detection; every detection has exactly one. See `cspdet.analysis.error_types`.
DetectionType = Literal["correct", "classification", "localization", "both", "duplicate", "background", "ignored"]
DETECTION_TYPES: tuple[DetectionType, ...] = (
    "correct",
    "classification",
    "localization",
    "both",
    "duplicate",
    "background",
    "ignored",  # matched with a crowd region: neither correct nor wrong
)
ErrorType = Literal["classification", "localization", "both", "duplicate", "background", "missed"]
ERROR_TYPES: tuple[ErrorType, ...] = (
    "classification",
    "localization",
    "both",
    "duplicate",
    "background",
    "missed",
)
LabelIssueType = Literal["missing box", "wrong class", "spurious box"]
LABEL_ISSUE_TYPES: tuple[LabelIssueType, ...] = ("missing box", "wrong class", "spurious box")


@dataclass(frozen=True, eq=False)
class Confusion:
    """Confusion matrix of boxes and kept detections (score of at least `threshold`); index C is the background.

    `counts[i, j]` is the number of boxes of class i that a detection of class j matched, `counts[i, C]` the number of
    missed boxes of class i, and `counts[C, j]` the number of detections of class j without a box. `counts[C, C]` is 0.
    The sum of row i is the number of boxes of class i. The sum of column j is the number of kept detections of class j,
    without detections that match crowds.
    """

    iou: float
    threshold: float
    counts: np.ndarray  # (C + 1, C + 1) int64; rows ground truth, columns detections


@dataclass(frozen=True)
class ConfusedPair:
    """Number of boxes of one class that were matched by detections of another class, from the confusion matrix."""

    gt_class: str
    detected_class: str
    count: int
    fraction: float  # of all boxes of `gt_class`


@dataclass(frozen=True)
class ErrorCost:
    """Number of errors and AP cost of one error type."""

    error_type: ErrorType
    count: int  # detections; for `missed`: undetected boxes without a localization or classification error
    kept: int  # of these, with a score >= `Analysis.threshold`; for `missed`: boxes without a kept detection
    ap_cost: float | None  # AP at `Analysis.iou` with this error type fixed, minus AP


@dataclass(frozen=True)
class Errors:
    """Number of errors and AP cost of all error types.

    `correct`, `ignored` and the counts of the five wrong types add up to `evaluated`; `detected` and `missed` add up to
    `num_gt`. `kept_correct`, `kept_ignored` and the `kept` values of the five types add up to the number of detections
    with a score of at least the threshold.
    """

    iou: float  # foreground IoU
    background_iou: float  # detections with a lower IoU with every box are background
    ap: float | None  # at `iou`, without fixes
    evaluated: int  # the 100 highest-scoring detections per image and class
    correct: int
    ignored: int
    kept_correct: int
    kept_ignored: int
    num_gt: int
    detected: int
    missed: int  # all undetected boxes: `missed_entirely` and those with a localization or classification error
    missed_entirely: int
    costs: tuple[ErrorCost, ...]  # in the order of ERROR_TYPES
    false_positive_cost: float | None  # AP gained by removing every wrong detection
    false_negative_cost: float | None  # AP gained by removing every undetected box


@dataclass(frozen=True)
class LabelIssue:
    """A box or a detection that indicates a wrong annotation."""

    issue_type: LabelIssueType
    dataset_index: int
    image_id: int
    file_name: str
    box_xywh: tuple[float, float, float, float]  # the detection; for `spurious box` the annotated box
    class_name: str  # of the detection; for `spurious box` the annotated class
    score: float | None  # None for `spurious box`
    annotated_class: str | None  # `wrong class` only
    iou: float | None  # `wrong class` only: IoU of detection and annotated box


@dataclass(frozen=True)
class LabelIssues:
    """The most likely label issues of each type, and the total number of issues of each type."""

    min_score: float  # detections with at least this score are confident
    issues: tuple[LabelIssue, ...]  # grouped by type in the order of LABEL_ISSUE_TYPES
    totals: tuple[int, int, int]  # by LABEL_ISSUE_TYPES


@dataclass(frozen=True)
class AnnotatedBox:
    """A ground-truth box in an image of the gallery."""

    box_xywh: tuple[float, float, float, float]
    class_name: str
    crowd: bool
    detected: bool  # by a kept detection; False for crowds
    score: float | None  # of the correct detection of any score that matches the box; None: there is none


@dataclass(frozen=True)
class DetectedBox:
    """A kept detection in an image of the gallery."""

    box_xywh: tuple[float, float, float, float]
    class_name: str
    score: float
    detection_type: DetectionType


@dataclass(frozen=True)
class WorstImage:
    """An image with many errors among the kept detections."""

    dataset_index: int
    image_id: int
    file_name: str
    error_score: float  # missed boxes + the scores of the kept wrong detections
    missed: int
    wrong: int
    annotations: tuple[AnnotatedBox, ...]
    detections: tuple[DetectedBox, ...]  # highest score first
    other_detections: tuple[DetectedBox, ...]  # not kept, with a score of at least .05, at most 60


@dataclass(frozen=True)
class ChangedImage:
    """An image on which two runs differ: its errors in the first and in the other run."""

    before: WorstImage
    after: WorstImage
