"""A run judged once: boxes, detections, their overlaps and matches, from which all numbers are made."""

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
from cspdet.analysis.matching import IOU_THRESHOLDS, Match, build_candidates, match_boxes
from cspdet.analysis.overlaps import IouPairs, detection_pairs
from cspdet.datasets.formats.coco import CocoDataset
from cspdet.evaluation.records import Records, Result

BACKGROUND_IOU = 0.1  # a detection that overlaps every box less lies on nothing (Bolya et al. 2020, section 2.2)


@dataclass(frozen=True, eq=False)
class MatchedRun:
    """The detections of a run on a split: N pictures, M boxes, D judged detections, C classes."""

    coco: CocoDataset
    images: SortedImages
    ground_truth: GroundTruthArrays
    detections: DetectionArrays
    pairs: IouPairs  # of any classes, from BACKGROUND_IOU on
    ranking: Ranking
    matches: tuple[Match, ...]  # by IOUS
    iou: float  # the one IoU at which errors are told apart
    match: Match  # at `iou`

    @property
    def num_classes(self) -> int:
        """How many."""
        return len(self.coco.classes)

    @property
    def is_target(self) -> np.ndarray:
        """(M,) bool: boxes that are to be found, which crowds are not."""
        return ~self.ground_truth.crowd

    @property
    def num_gt(self) -> np.ndarray:
        """(C,) int64: boxes to be found of each class."""
        return self.count_gt_per_class(self.is_target)

    def count_gt_per_class(self, mask: np.ndarray) -> np.ndarray:
        """(C,) int64: how many of the (M,) chosen boxes each class has."""
        return np.bincount(self.ground_truth.class_id[mask], minlength=self.num_classes)

    def count_detections_per_class(self, mask: np.ndarray) -> np.ndarray:
        """(C,) int64: how many of the (D,) chosen detections each class has."""
        return np.bincount(self.detections.class_id[mask], minlength=self.num_classes)

    def hits(self, match: Match) -> Hits:
        """What average precision needs of a match."""
        return collect_hits(self.ranking, match.correct, match.ignored)

    def class_name(self, class_id: int) -> str:
        """Of a class index."""
        return self.coco.classes.names[class_id]

    def image_info(self, image_index: int) -> tuple[int, int, str]:
        """Of a picture: its row in the set, its image id and its file name."""
        row = int(self.images.dataset_index[image_index])
        return row, int(self.coco.image_id[row]), self.coco.name(row)


class ClassScores:
    """AP and recall of each class from matches at COCO's ten IoUs; NaN for classes without boxes."""

    def __init__(self, run: MatchedRun, matches: Sequence[Match], num_gt: np.ndarray, image_counts: np.ndarray | None):
        """`pictures`: (N,) how often each picture counts, None for once; `positives`: (C,) boxes, weighted so."""
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
        """(C,) over all IoUs."""
        return self.precision.mean(axis=(0, 2))

    def AP_at(self, index: int) -> np.ndarray:
        """(C,) at one IoU."""
        return self.precision[index].mean(axis=1)

    @property
    def AR(self) -> np.ndarray:
        """(C,) over all IoUs."""
        return self.recall.mean(axis=0)

    def means(self) -> tuple[float | None, float | None, float | None]:
        """AP, AP50 and AR100 over the classes."""
        return nanmean_or_none(self.AP), nanmean_or_none(self.AP_at(0)), nanmean_or_none(self.AR)


def match_results(coco: CocoDataset, results: Sequence[Result] | Records, *, iou: float = 0.5) -> MatchedRun:
    """Match results that `evaluation.results.read_results` has checked with the boxes of a set.

    Raises:
        DataError: the annotation file has gone or changed since the set was loaded.
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
