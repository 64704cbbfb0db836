"""COCO's average precision from sorted hits, where every picture may count several times or not at all.

With all weights 1 it is pycocotools' AP to the last digits. Weights are what the bootstrap needs: a resample of
the pictures is a vector of how often each was drawn, and nothing has to be matched or sorted again.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

RECALL_THRESHOLDS = np.linspace(0.0, 1.0, 101)  # where COCO reads the precision
EPSILON = np.spacing(1)  # pycocotools adds it to the denominator


class Ranking(NamedTuple):
    """Detections sorted by class, then best score first."""

    order: np.ndarray  # (D,) int64, detection at each place
    start: np.ndarray  # (C + 1,) int64, where each class starts


class Hits(NamedTuple):
    """What is needed of D ranked detections at one IoU: H are correct, G are ignored."""

    detection_index: np.ndarray  # (H,) int64
    start: np.ndarray  # (C + 1,) int64, where the hits of each class start
    rank: np.ndarray  # (H,) int64, place in the ranking
    ranking_start: np.ndarray  # (C + 1,) int64, Ranking.start
    ignored: np.ndarray  # (G,) int64 detections
    ignored_before: np.ndarray  # (H,) int64, how many of the ignored are ranked before the hit
    ignored_start: np.ndarray  # (C + 1,) int64, and before the class


def rank_by_score(class_id: np.ndarray, score: np.ndarray, num_classes: int) -> Ranking:
    """Sort; equal scores stay in the order given, which has to be COCO's (see `Found`)."""
    order = np.lexsort((-score, class_id))
    return Ranking(order, np.searchsorted(class_id[order], np.arange(num_classes + 1)))


def collect_hits(ranking: Ranking, correct: np.ndarray, ignored: np.ndarray) -> Hits:
    """From the (D,) bool judgments of the detections, in their own order."""
    ranks = np.flatnonzero(correct[ranking.order])
    ignored_ranks = np.flatnonzero(ignored[ranking.order])
    return Hits(
        detection_index=ranking.order[ranks],
        start=np.searchsorted(ranks, ranking.start),
        rank=ranks,
        ranking_start=ranking.start,
        ignored=ranking.order[ignored_ranks],
        ignored_before=np.searchsorted(ignored_ranks, ranks),
        ignored_start=np.searchsorted(ignored_ranks, ranking.start),
    )


def cumulative_weights(ranking: Ranking, weight: np.ndarray) -> np.ndarray:
    """(D + 1,) running sum of the (D,) weights of the detections along the ranking, from 0."""
    return running_sum(weight[ranking.order])


def interpolated_precision(hits: Hits, cumulative: np.ndarray, weight: np.ndarray, num_gt: np.ndarray) -> np.ndarray:
    """(C, 101) precision at RECALLS; NaN for classes without positives.

    Args:
        table: the hits at one IoU.
        ranked: (D + 1,) from `ranked_weight`.
        weight: (D,) how often each detection counts.
        positives: (C,) how many boxes there are to be found, weighted likewise.
    """
    counts = np.diff(hits.start)

    def per_hit(of_class: np.ndarray) -> np.ndarray:
        return np.repeat(of_class, counts)

    reached = running_sum(weight[hits.detection_index])
    correct = reached[1:] - per_hit(reached[hits.start[:-1]])
    before = cumulative[hits.ranking_start[:-1]]
    evaluated = cumulative[hits.rank + 1]
    if len(hits.ignored):
        skipped = running_sum(weight[hits.ignored])
        evaluated -= skipped[hits.ignored_before]
        before = before - skipped[hits.ignored_start[:-1]]
    precision = correct / (evaluated - per_hit(before) + EPSILON)
    recall = correct / per_hit(np.maximum(num_gt, EPSILON))
    # The interpolated precision at RECALLS[i] is the best of all hits that reach RECALLS[i]; hits that reach the
    # first k points and no more share the cell k.
    cell = per_hit(np.arange(len(counts)) * (len(RECALL_THRESHOLDS) + 1)) + np.searchsorted(
        RECALL_THRESHOLDS, recall, side="right"
    )
    best = np.zeros((len(num_gt), len(RECALL_THRESHOLDS) + 1))
    if len(cell):
        first = np.flatnonzero(np.diff(cell, prepend=-1))
        best.flat[cell[first]] = np.maximum.reduceat(precision, first)
    curve = np.maximum.accumulate(best[:, :0:-1], axis=1)[:, ::-1]
    return np.where(num_gt[:, None] > 0, curve, np.nan)


def running_sum(values: np.ndarray) -> np.ndarray:
    """(n + 1,) sums of the first 0, 1 ... n values."""
    return np.concatenate(([0.0], np.cumsum(values, dtype=np.float64)))


def nanmean_or_none(values: np.ndarray) -> float | None:
    """The mean of what is not NaN; None when nothing is left."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None


def trim_ranking(ranking: Ranking, correct: np.ndarray) -> Ranking:
    """The ranking without what stands behind the last correct detection of each class, which no AP depends on."""
    class_id = np.repeat(np.arange(len(ranking.start) - 1), np.diff(ranking.start))
    ranks = np.flatnonzero(correct[ranking.order])
    last = np.full(len(ranking.start) - 1, -1, np.int64)
    last[class_id[ranks]] = ranks  # of several places of a class the last one stays
    kept = np.arange(len(ranking.order)) <= last[class_id]
    return Ranking(ranking.order[kept], np.searchsorted(class_id[kept], np.arange(len(ranking.start))))
