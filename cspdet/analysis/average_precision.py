"""COCO's average precision from sorted hits, where every picture may count several times or not at all.

With all weights 1 it is pycocotools' AP to the last digits. Weights are what the bootstrap needs: a resample of
the pictures is a vector of how often each was drawn, and nothing has to be matched or sorted again.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

RECALLS = np.linspace(0.0, 1.0, 101)  # where COCO reads the precision
TINY = np.spacing(1)  # pycocotools adds it to the denominator


class Ranking(NamedTuple):
    """Detections sorted by class, then best score first."""

    order: np.ndarray  # (D,) int64, detection at each place
    start: np.ndarray  # (C + 1,) int64, where each class starts


class Hits(NamedTuple):
    """What is needed of D ranked detections at one IoU: H are correct, G are ignored."""

    detection: np.ndarray  # (H,) int64
    start: np.ndarray  # (C + 1,) int64, where the hits of each class start
    place: np.ndarray  # (H,) int64, place in the ranking
    ranking_start: np.ndarray  # (C + 1,) int64, Ranking.start
    ignored: np.ndarray  # (G,) int64 detections
    ignored_before: np.ndarray  # (H,) int64, how many of the ignored are ranked before the hit
    ignored_start: np.ndarray  # (C + 1,) int64, and before the class


def rank(class_id: np.ndarray, score: np.ndarray, classes: int) -> Ranking:
    """Sort; equal scores stay in the order given, which has to be COCO's (see `Found`)."""
    order = np.lexsort((-score, class_id))
    return Ranking(order, np.searchsorted(class_id[order], np.arange(classes + 1)))


def hits(ranking: Ranking, correct: np.ndarray, ignored: np.ndarray) -> Hits:
    """From the (D,) bool judgments of the detections, in their own order."""
    place = np.flatnonzero(correct[ranking.order])
    ignored_place = np.flatnonzero(ignored[ranking.order])
    return Hits(
        detection=ranking.order[place],
        start=np.searchsorted(place, ranking.start),
        place=place,
        ranking_start=ranking.start,
        ignored=ranking.order[ignored_place],
        ignored_before=np.searchsorted(ignored_place, place),
        ignored_start=np.searchsorted(ignored_place, ranking.start),
    )


def ranked_weight(ranking: Ranking, weight: np.ndarray) -> np.ndarray:
    """(D + 1,) running sum of the (D,) weights of the detections along the ranking, from 0."""
    return running_sum(weight[ranking.order])


def interpolated_precision(table: Hits, ranked: np.ndarray, weight: np.ndarray, positives: np.ndarray) -> np.ndarray:
    """(C, 101) precision at RECALLS; NaN for classes without positives.

    Args:
        table: the hits at one IoU.
        ranked: (D + 1,) from `ranked_weight`.
        weight: (D,) how often each detection counts.
        positives: (C,) how many boxes there are to be found, weighted likewise.
    """
    counts = np.diff(table.start)

    def per_hit(of_class: np.ndarray) -> np.ndarray:
        return np.repeat(of_class, counts)

    reached = running_sum(weight[table.detection])
    correct = reached[1:] - per_hit(reached[table.start[:-1]])
    before = ranked[table.ranking_start[:-1]]
    judged = ranked[table.place + 1]
    if len(table.ignored):
        skipped = running_sum(weight[table.ignored])
        judged -= skipped[table.ignored_before]
        before = before - skipped[table.ignored_start[:-1]]
    precision = correct / (judged - per_hit(before) + TINY)
    recall = correct / per_hit(np.maximum(positives, TINY))
    # The interpolated precision at RECALLS[i] is the best of all hits that reach RECALLS[i]; hits that reach the
    # first k points and no more share the cell k.
    cell = per_hit(np.arange(len(counts)) * (len(RECALLS) + 1)) + np.searchsorted(RECALLS, recall, side="right")
    best = np.zeros((len(positives), len(RECALLS) + 1))
    if len(cell):
        first = np.flatnonzero(np.diff(cell, prepend=-1))
        best.flat[cell[first]] = np.maximum.reduceat(precision, first)
    curve = np.maximum.accumulate(best[:, :0:-1], axis=1)[:, ::-1]
    return np.where(positives[:, None] > 0, curve, np.nan)


def running_sum(values: np.ndarray) -> np.ndarray:
    """(n + 1,) sums of the first 0, 1 ... n values."""
    return np.concatenate(([0.0], np.cumsum(values, dtype=np.float64)))


def mean_known(values: np.ndarray) -> float | None:
    """The mean of what is not NaN; None when nothing is left."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None


def trimmed(ranking: Ranking, correct: np.ndarray) -> Ranking:
    """The ranking without what stands behind the last correct detection of each class, which no AP depends on."""
    class_id = np.repeat(np.arange(len(ranking.start) - 1), np.diff(ranking.start))
    place = np.flatnonzero(correct[ranking.order])
    last = np.full(len(ranking.start) - 1, -1, np.int64)
    last[class_id[place]] = place  # of several places of a class the last one stays
    kept = np.arange(len(ranking.order)) <= last[class_id]
    return Ranking(ranking.order[kept], np.searchsorted(class_id[kept], np.arange(len(ranking.start))))
