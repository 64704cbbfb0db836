"""A run judged once: boxes, detections, their overlaps and matches, from which all numbers are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cspdet.analysis.arrays import Found, Pictures, Truth, arrange_found, arrange_truth
from cspdet.analysis.average_precision import (
    Hits,
    Ranking,
    hits,
    interpolated_precision,
    mean_known,
    rank,
    ranked_weight,
)
from cspdet.analysis.matching import IOUS, Match, candidates, match_boxes
from cspdet.analysis.overlaps import Pairs, detection_pairs
from cspdet.datasets.formats.coco import CocoSet
from cspdet.evaluation.records import Records, Result

BACKGROUND_IOU = 0.1  # a detection that overlaps every box less lies on nothing (Bolya et al. 2020, section 2.2)


@dataclass(frozen=True, eq=False)
class Judged:
    """The detections of a run on a split: N pictures, M boxes, D judged detections, C classes."""

    coco: CocoSet
    pictures: Pictures
    truth: Truth
    found: Found
    pairs: Pairs  # of any classes, from BACKGROUND_IOU on
    ranking: Ranking
    matches: tuple[Match, ...]  # by IOUS
    iou: float  # the one IoU at which errors are told apart
    match: Match  # at `iou`

    @property
    def classes(self) -> int:
        """How many."""
        return len(self.coco.classes)

    @property
    def goals(self) -> np.ndarray:
        """(M,) bool: boxes that are to be found, which crowds are not."""
        return ~self.truth.crowd

    @property
    def positives(self) -> np.ndarray:
        """(C,) int64: boxes to be found of each class."""
        return self.count_truths(self.goals)

    def count_truths(self, mask: np.ndarray) -> np.ndarray:
        """(C,) int64: how many of the (M,) chosen boxes each class has."""
        return np.bincount(self.truth.class_id[mask], minlength=self.classes)

    def count_found(self, mask: np.ndarray) -> np.ndarray:
        """(C,) int64: how many of the (D,) chosen detections each class has."""
        return np.bincount(self.found.class_id[mask], minlength=self.classes)

    def hits(self, match: Match) -> Hits:
        """What average precision needs of a match."""
        return hits(self.ranking, match.correct, match.ignored)

    def class_name(self, class_id: int) -> str:
        """Of a class index."""
        return self.coco.classes.names[class_id]

    def place(self, picture: int) -> tuple[int, int, str]:
        """Of a picture: its row in the set, its image id and its file name."""
        row = int(self.pictures.row[picture])
        return row, int(self.coco.image_id[row]), self.coco.name(row)


class ClassScores:
    """AP and recall of each class from matches at COCO's ten IoUs; NaN for classes without boxes."""

    def __init__(self, judged: Judged, matches: Sequence[Match], positives: np.ndarray, pictures: np.ndarray | None):
        """`pictures`: (N,) how often each picture counts, None for once; `positives`: (C,) boxes, weighted so."""
        found = judged.found
        weight = np.ones(len(found)) if pictures is None else pictures[found.picture].astype(np.float64)
        ranked = ranked_weight(judged.ranking, weight)
        self.precision = np.stack(
            [interpolated_precision(judged.hits(match), ranked, weight, positives) for match in matches]
        )  # (T, C, 101)
        correct = [
            np.bincount(found.class_id[match.correct], weight[match.correct], judged.classes) for match in matches
        ]
        with np.errstate(invalid="ignore", divide="ignore"):
            self.recall = np.where(positives > 0, np.stack(correct) / positives, np.nan)  # (T, C)

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
        return mean_known(self.AP), mean_known(self.AP_at(0)), mean_known(self.AR)


def judge(coco: CocoSet, results: Sequence[Result] | Records, *, iou: float = 0.5) -> Judged:
    """Match results that `evaluation.results.read_results` has checked with the boxes of a set.

    Raises:
        DataError: the annotation file has gone or changed since the set was loaded.
    """
    pictures = Pictures.of(coco)
    truth = arrange_truth(coco, pictures)
    found = arrange_found(coco, pictures, results)
    pairs = detection_pairs(found, truth, BACKGROUND_IOU)
    prepared = candidates(pairs.where(pairs.iou >= min(iou, IOUS[0])), found, truth)
    matches = tuple(match_boxes(prepared, truth, float(threshold)) for threshold in IOUS)
    same = [match for threshold, match in zip(IOUS, matches, strict=True) if threshold == iou]
    return Judged(
        coco=coco,
        pictures=pictures,
        truth=truth,
        found=found,
        pairs=pairs,
        ranking=rank(found.class_id, found.score, len(coco.classes)),
        matches=matches,
        iou=iou,
        match=same[0] if same else match_boxes(prepared, truth, iou),
    )
