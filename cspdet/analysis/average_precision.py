"""COCO's average precision from ranked detections, with a weight for each image.

If all weights are 1, the AP equals the AP of pycocotools up to rounding. In the bootstrap, the weight of an image is
the number of times that the resample contains the image. Detections are matched and sorted only once for all resamples.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

RECALL_THRESHOLDS = np.linspace(0.0, 1.0, 101)  # COCO samples the precision at these recalls
EPSILON = np.spacing(1)  # pycocotools adds it to the denominator


class Ranking(NamedTuple):
    """Order of the detections: sorted by class, then by descending score."""

    order: np.ndarray  # (D,) int64, detection index at each rank
    start: np.ndarray  # (C + 1,) int64, first rank of each class


class Hits(NamedTuple):
    """The H hits, which are correct detections, and the G ignored detections at one IoU threshold."""

    detection_index: np.ndarray  # (H,) int64
    start: np.ndarray  # (C + 1,) int64, first hit of each class
    rank: np.ndarray  # (H,) int64, rank of the hit
    ranking_start: np.ndarray  # (C + 1,) int64, Ranking.start
    ignored: np.ndarray  # (G,) int64 detection indices
    ignored_before: np.ndarray  # (H,) int64, number of ignored detections ranked before the hit
    ignored_start: np.ndarray  # (C + 1,) int64, number of ignored detections ranked before the class


def rank_by_score(class_id: np.ndarray, score: np.ndarray, num_classes: int) -> Ranking:
    """Sort detections by class, then by descending score.

    Args:
        class_id: (D,) class of each detection, in the order of `DetectionArrays`; equal scores keep this order.
        score: (D,) score of each detection.
        num_classes: Number of classes.
    """
    order = np.lexsort((-score, class_id))
    return Ranking(order, np.searchsorted(class_id[order], np.arange(num_classes + 1)))


def collect_hits(ranking: Ranking, correct: np.ndarray, ignored: np.ndarray) -> Hits:
    """Collect the correct and the ignored detections in the order of the ranking.

    Args:
        ranking: The ranking of the detections.
        correct: (D,) bool, in the order of `DetectionArrays`.
        ignored: (D,) bool, in the same order.
    """
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
    """Return the (D + 1,) cumulative sum of the (D,) detection weights in ranking order; the first value is 0."""
    return running_sum(weight[ranking.order])


def interpolated_precision(hits: Hits, cumulative: np.ndarray, weight: np.ndarray, num_gt: np.ndarray) -> np.ndarray:
    """Compute COCO's interpolated precision at the recalls RECALL_THRESHOLDS.

    Args:
        hits: The hits at one IoU threshold.
        cumulative: (D + 1,) result of `cumulative_weights`.
        weight: (D,) weight of each detection.
        num_gt: (C,) sum of the weights of the ground-truth boxes of each class.

    Returns:
        (C, 101) precision; NaN for classes without ground truth.
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
    # The interpolated precision at RECALL_THRESHOLDS[i] is the maximum over all hits with at least that recall. Hits
    # that reach exactly the first k thresholds fall into cell k.
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
    """Return the (n + 1,) cumulative sum of (n,) values; the first value is 0."""
    return np.concatenate(([0.0], np.cumsum(values, dtype=np.float64)))


def nanmean_or_none(values: np.ndarray) -> float | None:
    """Return the mean of the values that are not NaN, or None if all values are NaN."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None


def trim_ranking(ranking: Ranking, correct: np.ndarray) -> Ranking:
    """Remove the detections that rank after the last correct detection of their class; they do not affect AP.

    Args:
        ranking: The ranking of the detections.
        correct: (D,) bool, detections that are correct at any IoU threshold.
    """
    class_id = np.repeat(np.arange(len(ranking.start) - 1), np.diff(ranking.start))
    ranks = np.flatnonzero(correct[ranking.order])
    last = np.full(len(ranking.start) - 1, -1, np.int64)
    last[class_id[ranks]] = ranks  # the last assignment to a class wins
    kept = np.arange(len(ranking.order)) <= last[class_id]
    return Ranking(ranking.order[kept], np.searchsorted(class_id[kept], np.arange(len(ranking.start))))
