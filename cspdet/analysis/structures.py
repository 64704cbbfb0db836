"""Result of `analyze` as frozen dataclasses: the analysis of one run, and the comparison of several runs.

The parts are defined in `cspdet.analysis.metrics` and `cspdet.analysis.findings`. JSON output has the same field names,
and null for undefined values.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from cspdet.analysis.findings import ChangedImage, ConfusedPair, Confusion, Errors, LabelIssues, WorstImage
from cspdet.analysis.metrics import (
    Breakdown,
    Calibration,
    ClassDetectionMetrics,
    OperatingPoint,
    PrecisionRecall,
    ThresholdCounts,
    ThresholdCurves,
)

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"


@dataclass(frozen=True, eq=False)
class Analysis:
    """Analysis of one run on one split."""

    name: str  # of the run
    source: str  # the results file
    evaluator: str
    images: int
    num_gt: int
    crowds: int
    detections: int
    stats: dict[str, float | None]  # COCO's 12 metrics, by evaluation.coco.METRIC_NAMES
    iou: float  # IoU at which a detection matches a box, wherever a single IoU is used; default .5
    threshold: float  # score threshold of kept detections; default: that of the best F1
    threshold_is_best: bool
    at_threshold: OperatingPoint
    classes: tuple[ClassDetectionMetrics, ...]
    precision_recall: tuple[PrecisionRecall, ...]  # IoU .5 and .75
    thresholds: ThresholdCurves
    threshold_counts: ThresholdCounts
    confusion: Confusion
    confused_pairs: tuple[ConfusedPair, ...]  # most frequent first, at most 50
    errors: Errors
    breakdown: Breakdown
    calibration: Calibration
    label_issues: LabelIssues
    worst_images: tuple[WorstImage, ...]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, by class index."""
        return tuple(one.name for one in self.classes)

    @property
    def undetected_classes(self) -> tuple[ClassDetectionMetrics, ...]:
        """The classes that have boxes, but no correct detection at `iou`; most boxes first."""
        undetected = [one for one in self.classes if one.num_gt and not one.best_f1_point.correct]
        return tuple(sorted(undetected, key=lambda one: -one.num_gt))

    def to_json(self) -> Json:
        """Return all fields as JSON values; undefined values become null."""
        return as_json(self)


@dataclass(frozen=True)
class Difference:
    """Difference of a metric between a run and the first run, with its bootstrap confidence interval."""

    metric: str  # AP or AP50
    first: float | None
    other: float | None
    difference: float | None  # other - first, on the original images
    mean: float | None  # over the resamples
    low: float | None  # 95% interval over the resamples
    high: float | None
    p_value: float | None  # two-sided
    significant: bool  # p < .05

    @property
    def verdict(self) -> str:
        """Text that states whether the difference is significant."""
        if self.difference is None:
            return "no ground truth to compare on"
        return "significant difference" if self.significant else "no significant difference"


@dataclass(frozen=True)
class ClassDifference:
    """Difference of the AP of one class between a run and the first run."""

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
    """Comparison of one run with the first run."""

    first: str
    other: str
    AP: Difference
    AP50: Difference
    classes: tuple[ClassDifference, ...]  # in the order of the classes
    changed_images: tuple[ChangedImage, ...] = ()  # largest difference of errors first


@dataclass(frozen=True)
class Comparison:
    """Comparison of every other run with the first run, by a paired bootstrap over images."""

    runs: tuple[str, ...]
    resamples: int
    seed: int
    against_first: tuple[RunComparison, ...]  # len(runs) - 1

    def to_json(self) -> Json:
        """Return all fields as JSON values, with an additional key `verdicts`."""
        document = as_json(self)
        assert isinstance(document, dict)
        document["verdicts"] = [
            {"run": one.other, "AP": one.AP.verdict, "AP50": one.AP50.verdict} for one in self.against_first
        ]
        return document


def as_json(value: object) -> Json:
    """Convert dataclasses, arrays and tuples to JSON values; NaN and infinite values become null.

    Raises:
        TypeError: JSON cannot represent a value.
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
    raise TypeError(f"JSON cannot represent {type(value).__name__}")
