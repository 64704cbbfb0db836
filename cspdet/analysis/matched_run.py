"""The detections of a run matched with the ground truth, from which all metrics and errors are computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cspdet.analysis.arrays import (
    DetectionArrays,
    GroundTruthArrays,
    SortedImages,
    to_detection_arrays,
    to_ground_truth_arrays,
)
from cspdet.analysis.average_precision import (
    Hits,
    Ranking,
    collect_hits,
    cumulative_weights,
    interpolated_precision,
    nanmean_or_none,
    rank_by_score,
)
from cspdet.analysis.config import BACKGROUND_IOU
from cspdet.analysis.matching import IOU_THRESHOLDS, Match, build_candidates, match_boxes
from cspdet.analysis.overlaps import IouPairs, detection_pairs
from cspdet.datasets.formats.coco import CocoDataset
from cspdet.evaluation.records import Records, Result


@dataclass(frozen=True, eq=False)
class MatchedRun:
    """Detections of a run matched with the ground truth: N images, M boxes, D evaluated detections, C classes."""

    coco: CocoDataset
    images: SortedImages
    ground_truth: GroundTruthArrays
    detections: DetectionArrays
    pairs: IouPairs  # regardless of class, with an IoU of at least BACKGROUND_IOU
    ranking: Ranking
    matches: tuple[Match, ...]  # by IOU_THRESHOLDS
    iou: float  # the IoU at which errors are classified
    match: Match  # at `iou`

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.coco.classes)

    @property
    def is_target(self) -> np.ndarray:
        """Mask of the boxes that are not crowds, (M,) bool."""
        return ~self.ground_truth.crowd

    @property
    def num_gt(self) -> np.ndarray:
        """Number of boxes of each class, without crowds, (C,) int64."""
        return self.count_gt_per_class(self.is_target)

    def count_gt_per_class(self, mask: np.ndarray) -> np.ndarray:
        """Count the boxes of each class that the mask (M,) bool selects; return (C,)."""
        return np.bincount(self.ground_truth.class_id[mask], minlength=self.num_classes)

    def count_detections_per_class(self, mask: np.ndarray) -> np.ndarray:
        """Count the detections of each class that the mask (D,) bool selects; return (C,)."""
        return np.bincount(self.detections.class_id[mask], minlength=self.num_classes)

    def hits(self, match: Match) -> Hits:
        """Return the hits of a match, as input for `interpolated_precision`."""
        return collect_hits(self.ranking, match.correct, match.ignored)

    def class_name(self, class_id: int) -> str:
        """Return the name of a class index."""
        return self.coco.classes.names[class_id]

    def image_info(self, image_index: int) -> tuple[int, int, str]:
        """Return dataset index, image id and file name of an image, given its index in the images sorted by id."""
        row = int(self.images.dataset_index[image_index])
        return row, int(self.coco.image_id[row]), self.coco.name(row)


class ClassScores:
    """Precision, AP and recall of each class at the IoU thresholds of the matches; NaN for classes without boxes."""

    def __init__(self, run: MatchedRun, matches: Sequence[Match], num_gt: np.ndarray, image_counts: np.ndarray | None):
        """Compute the precision curves and the recall of each class.

        Args:
            run: The matched run.
            matches: One match per IoU threshold.
            num_gt: (C,) number of boxes, weighted by `image_counts`.
            image_counts: (N,) weight of each image; None: every weight is 1.
        """
        detections = run.detections
        weight = (
            np.ones(len(detections))
            if image_counts is None
            else image_counts[detections.image_index].astype(np.float64)
        )
        ranked = cumulative_weights(run.ranking, weight)
        self.precision = np.stack(
            [interpolated_precision(run.hits(match), ranked, weight, num_gt) for match in matches]
        )  # (T, C, 101)
        correct = [
            np.bincount(detections.class_id[match.correct], weight[match.correct], run.num_classes) for match in matches
        ]
        with np.errstate(invalid="ignore", divide="ignore"):
            self.recall = np.where(num_gt > 0, np.stack(correct) / num_gt, np.nan)  # (T, C)

    @property
    def AP(self) -> np.ndarray:
        """AP of each class, (C,), the mean over the IoU thresholds."""
        return self.precision.mean(axis=(0, 2))

    def AP_at(self, index: int) -> np.ndarray:
        """Return the (C,) AP at the IoU threshold with this index."""
        return self.precision[index].mean(axis=1)

    @property
    def AR(self) -> np.ndarray:
        """Average recall of each class, (C,), the mean over the IoU thresholds."""
        return self.recall.mean(axis=0)

    def means(self) -> tuple[float | None, float | None, float | None]:
        """Return AP, AP50 and AR100, means over the classes with ground truth; None if no class has any."""
        return nanmean_or_none(self.AP), nanmean_or_none(self.AP_at(0)), nanmean_or_none(self.AR)


def match_results(coco: CocoDataset, results: Sequence[Result] | Records, *, iou: float = 0.5) -> MatchedRun:
    """Match the detections of a results file with the ground truth.

    Args:
        coco: The split with its annotations.
        results: Detections in COCO's results format, checked by `evaluation.results.read_results`.
        iou: IoU threshold at which errors are classified.

    Raises:
        DataError: The annotation file is missing or has changed since the split was loaded.
    """
    images = SortedImages.from_coco(coco)
    ground_truth = to_ground_truth_arrays(coco, images)
    detections = to_detection_arrays(coco, images, results)
    pairs = detection_pairs(detections, ground_truth, BACKGROUND_IOU)
    match_candidates = build_candidates(
        pairs.select(pairs.iou >= min(iou, IOU_THRESHOLDS[0])), detections, ground_truth
    )
    matches = tuple(match_boxes(match_candidates, ground_truth, float(threshold)) for threshold in IOU_THRESHOLDS)
    same = [match for threshold, match in zip(IOU_THRESHOLDS, matches, strict=True) if threshold == iou]
    return MatchedRun(
        coco=coco,
        images=images,
        ground_truth=ground_truth,
        detections=detections,
        pairs=pairs,
        ranking=rank_by_score(detections.class_id, detections.score, len(coco.classes)),
        matches=matches,
        iou=iou,
        match=same[0] if same else match_boxes(match_candidates, ground_truth, iou),
    )
