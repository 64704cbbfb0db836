"""Everything that `analyze` finds out about a run, as plain frozen values: what pages and tables are made from.

Letters: C classes in the order of `Analysis.classes`, M boxes (truths), D detections. Boxes are `box_xywh`: left,
top, width, height in pixels of the original picture, as in COCO's files. A picture is named three times: `picture`
is its row in the CocoSet, `image_id` and `file_name` are what the annotation file calls it. Numbers are shares in
[0, 1], not per cent; None (NaN inside arrays) stands where nothing can be measured, as for a class without boxes.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"

# What a detection can be; each is exactly one of these. See `cspdet.analysis.error_types`.
DetectionType = Literal["correct", "classification", "localization", "both", "duplicate", "background", "ignored"]
DETECTION_TYPES: tuple[DetectionType, ...] = (
    "correct",
    "classification",
    "localization",
    "both",
    "duplicate",
    "background",
    "ignored",  # absorbed by a crowd region: neither right nor wrong
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
LabelIssueType = Literal["box missing?", "class wrong?", "box there?"]
LABEL_ISSUE_TYPES: tuple[LabelIssueType, ...] = ("box missing?", "class wrong?", "box there?")


# --- the numbers and the curves ---------------------------------------------------------------------


@dataclass(frozen=True)
class OperatingPoint:
    """What a score threshold gives: detections of at least this score are kept, the others thrown away."""

    threshold: float
    precision: float | None  # correct / kept; None when nothing is kept
    recall: float | None  # found boxes / boxes; None without boxes
    f1: float | None  # 2 correct / (kept + boxes)
    correct: int
    kept: int  # without those that crowds absorb


@dataclass(frozen=True)
class ClassDetectionMetrics:
    """One class. AP over IoU .50 to .95; AR100 likewise, at most 100 detections a picture."""

    name: str
    num_gt: int  # boxes that are no crowds
    crowds: int
    images: int  # with at least one such box
    detections: int  # all that the results file has
    AP: float | None
    AP50: float | None
    AP75: float | None
    AR100: float | None
    best_f1_point: OperatingPoint  # the threshold with the highest F1 of this class alone
    at_threshold: OperatingPoint  # this class at `Analysis.threshold`
    ece: float | None  # expected calibration error of this class


@dataclass(frozen=True, eq=False)
class PrecisionRecall:
    """COCO's interpolated precision at one IoU; its mean over the recalls is the AP at that IoU."""

    iou: float
    recall: np.ndarray  # (101,) 0, .01 ... 1
    per_class: np.ndarray  # (C, 101) precision; rows of NaN for classes without boxes
    mean: np.ndarray  # (101,) over the classes that have boxes; NaN when none has


@dataclass(frozen=True, eq=False)
class ThresholdCurves:
    """Precision, recall and F1 against the score threshold, at `Analysis.iou`."""

    threshold: np.ndarray  # (101,) rising
    precision: np.ndarray  # (101,) all classes counted together; NaN where nothing is kept
    recall: np.ndarray  # (101,)
    f1: np.ndarray  # (101,)
    class_precision: np.ndarray  # (C, 101)
    class_recall: np.ndarray  # (C, 101)
    class_f1: np.ndarray  # (C, 101)
    best_f1_point: OperatingPoint  # of all thresholds, not only those of the curve, that with the best F1


# --- what goes wrong -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Confusion:
    """Boxes against kept detections, each used exactly once; index C stands for the background.

    `counts[i, j]`: boxes of class i that a detection of class j lies on. `counts[i, C]`: missed boxes.
    `counts[C, j]`: detections of class j on no box. `counts[C, C]` is 0. Row sums are the boxes of each class,
    column sums its kept detections, without those that crowds absorb.
    """

    iou: float
    threshold: float
    counts: np.ndarray  # (C + 1, C + 1) int64; rows truth, columns detections


@dataclass(frozen=True)
class ConfusedPair:
    """Boxes of one class that detections of another lie on, by the confusion matrix."""

    gt_class: str
    detected_class: str
    count: int
    fraction: float  # of all boxes of the class `truth`


@dataclass(frozen=True)
class ErrorCost:
    """One kind of error: how often, and the AP that it costs."""

    error_type: ErrorType
    count: int  # detections; for `missed`, boxes that no localization or classification error lies on either
    kept: int  # those of them of at least the score `Analysis.threshold`; for `missed`, boxes missed by what is kept
    ap_cost: float | None  # AP at `Analysis.iou` with this kind repaired, minus AP


@dataclass(frozen=True)
class Errors:
    """Every judged detection has one kind, every box is found or missed.

    correct + the counts of the five kinds of wrong detections + ignored = judged; found + missed = truths.
    `kept_correct`, `kept_ignored` and the `kept` of the kinds are the same for what is above the threshold.
    """

    iou: float  # on the foreground
    background_iou: float  # below this a detection lies on nothing
    ap: float | None  # at `iou`, nothing repaired
    evaluated: int  # the best 100 detections of each picture and class
    correct: int
    ignored: int
    kept_correct: int
    kept_ignored: int
    num_gt: int
    detected: int
    missed: int  # all that are not found: `missed_entirely` and those that a wrong box or class lies on
    missed_entirely: int
    costs: tuple[ErrorCost, ...]  # in the order of ERROR_KINDS
    false_positive_cost: float | None  # AP gained by removing every wrong detection
    false_negative_cost: float | None  # AP gained by removing every box that is not found


# --- where it goes wrong --------------------------------------------------------------------------------


@dataclass(frozen=True)
class SizeRange:
    """AP of boxes of some sizes, by COCO's rule for area ranges; sides are sqrt(area) in pixels."""

    name: str  # small, medium, large; or first quarter ... fourth quarter
    low: float
    high: float | None  # None: no limit
    num_gt: int
    AP: float | None
    AP50: float | None
    AR100: float | None


@dataclass(frozen=True)
class ImageGroup:
    """AP over the pictures with so many boxes (thirds of the pictures that have any)."""

    name: str  # few, middle, many
    low: int  # boxes a picture, both ends included
    high: int
    images: int
    num_gt: int
    AP: float | None
    AP50: float | None
    AR100: float | None


@dataclass(frozen=True)
class OverlapGroup:
    """Recall of boxes that other boxes overlap, and of those that stand alone."""

    name: str  # overlapped, alone
    num_gt: int
    recall: float | None  # found at `Analysis.iou`
    AR100: float | None  # mean over IoU .50 to .95


@dataclass(frozen=True)
class Breakdown:
    """By size and by crowding."""

    sizes: tuple[SizeRange, ...]  # COCO's three
    quartiles: tuple[SizeRange, ...]  # the quarters of this data set's own boxes
    image_groups: tuple[ImageGroup, ...]
    overlap_groups: tuple[OverlapGroup, ...]


@dataclass(frozen=True)
class CalibrationBin:
    """The detections with scores in [low, high); the last bin has its end too."""

    low: float
    high: float
    count: int
    mean_score: float | None
    accuracy: float | None  # share that is correct


@dataclass(frozen=True)
class Calibration:
    """Are 80% of the detections with a score of .8 correct?"""

    bins: tuple[CalibrationBin, ...]  # 10
    ece: float | None  # mean of |mean score - share correct| over the bins, weighted by their counts
    kept_ece: float | None  # the same for detections above `Analysis.threshold` only, which users see


@dataclass(frozen=True)
class LabelIssue:
    """A place where the labels rather than the detections may be wrong."""

    issue_type: LabelIssueType
    dataset_index: int
    image_id: int
    file_name: str
    box_xywh: tuple[float, float, float, float]  # the detection; for `box there?` the annotated box
    class_name: str  # that of the detection; for `box there?` the annotated class
    score: float | None  # None for `box there?`
    annotated_class: str | None  # `class wrong?`: what the annotation says
    iou: float | None  # `class wrong?`: overlap of the two


@dataclass(frozen=True)
class LabelIssues:
    """The first of each kind, most suspicious first, and how many there are in all."""

    min_score: float  # detections from here on count as confident
    issues: tuple[LabelIssue, ...]  # grouped by kind in the order of SUSPECT_KINDS
    totals: tuple[int, int, int]  # by SUSPECT_KINDS, all of them


@dataclass(frozen=True)
class AnnotatedBox:
    """An annotated box of a picture in the gallery."""

    box_xywh: tuple[float, float, float, float]
    class_name: str
    crowd: bool
    detected: bool  # by a kept detection; False for crowds


@dataclass(frozen=True)
class DetectedBox:
    """A kept detection of a picture in the gallery."""

    box_xywh: tuple[float, float, float, float]
    class_name: str
    score: float
    detection_type: DetectionType


@dataclass(frozen=True)
class WorstImage:
    """A picture with many errors at the threshold."""

    dataset_index: int
    image_id: int
    file_name: str
    error_score: float  # missed boxes + the scores of the kept wrong detections
    missed: int
    wrong: int
    annotations: tuple[AnnotatedBox, ...]
    detections: tuple[DetectedBox, ...]  # best score first


# --- everything together --------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Analysis:
    """All about one run on one split."""

    name: str  # of the run
    source: str  # the results file
    evaluator: str
    images: int
    num_gt: int
    crowds: int
    detections: int
    stats: dict[str, float | None]  # COCO's 12, by evaluation.coco.NUMBERS
    iou: float  # above which a detection lies on a box, wherever one IoU is meant; .5 unless told
    threshold: float  # score from which detections are kept: the best F1's unless told
    threshold_is_best: bool
    at_threshold: OperatingPoint
    classes: tuple[ClassDetectionMetrics, ...]
    precision_recall: tuple[PrecisionRecall, ...]  # IoU .5 and .75
    thresholds: ThresholdCurves
    confusion: Confusion
    confused_pairs: tuple[ConfusedPair, ...]  # most first, at most 50
    errors: Errors
    breakdown: Breakdown
    calibration: Calibration
    label_issues: LabelIssues
    worst_images: tuple[WorstImage, ...]

    @property
    def class_names(self) -> tuple[str, ...]:
        """By class index."""
        return tuple(one.name for one in self.classes)

    def to_json(self) -> Json:
        """Everything, with null for what cannot be measured."""
        return as_json(self)


# --- several runs ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """A number of a run minus that of the first run, and what resampled pictures say of it."""

    metric: str  # AP or AP50
    first: float | None
    other: float | None
    difference: float | None  # on the data as they are
    mean: float | None  # over the resamples
    low: float | None  # the 95% interval over the resamples
    high: float | None
    p_value: float | None  # two-sided: how likely so clear a sign is by the choice of pictures alone
    significant: bool  # p < .05

    @property
    def verdict(self) -> str:
        """In words."""
        if self.difference is None:
            return "nothing to compare"
        return "the difference is real" if self.significant else "the difference cannot be told from chance"


@dataclass(frozen=True)
class ClassDifference:
    """One class of a run minus the same class of the first run."""

    name: str
    num_gt: int
    first_AP: float | None
    other_AP: float | None
    difference: float | None
    low: float | None  # 95% interval over the resamples
    high: float | None
    AP50_difference: float | None


@dataclass(frozen=True)
class RunComparison:
    """One run against the first."""

    first: str
    other: str
    AP: Difference
    AP50: Difference
    classes: tuple[ClassDifference, ...]  # in the order of the classes


@dataclass(frozen=True)
class Comparison:
    """Every further run against the first, by a paired bootstrap over pictures."""

    runs: tuple[str, ...]
    resamples: int
    seed: int
    against_first: tuple[RunComparison, ...]  # one fewer than runs

    def to_json(self) -> Json:
        """Everything, with the verdicts in words."""
        document = as_json(self)
        assert isinstance(document, dict)
        document["verdicts"] = [
            {"run": one.other, "AP": one.AP.verdict, "AP50": one.AP50.verdict} for one in self.against_first
        ]
        return document


def as_json(value: object) -> Json:
    """Dataclasses, arrays and tuples as JSON; NaN and infinities become null.

    Raises:
        TypeError: a value that has no place in JSON.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, np.ndarray):
        return as_json(value.tolist())
    if isinstance(value, (list, tuple)):
        return [as_json(item) for item in value]
    if isinstance(value, dict):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, (bool, str)) or value is None:
        return value
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    raise TypeError(f"{type(value).__name__} has no place in JSON")
