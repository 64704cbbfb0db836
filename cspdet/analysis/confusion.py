"""Confusion matrix of ground-truth and detected classes, with a background class."""

from __future__ import annotations

import numpy as np

from cspdet.analysis.arrays import group_starts, rank_in_group
from cspdet.analysis.findings import ConfusedPair, Confusion
from cspdet.analysis.matched_run import MatchedRun
from cspdet.analysis.matching import assign

MAX_PAIRS = 50


def _match_regardless_of_class(run: MatchedRun, remaining: np.ndarray, unmatched_gt: np.ndarray) -> np.ndarray:
    """Match the remaining detections with the remaining boxes, regardless of class, in descending score.

    Args:
        run: The matched run.
        remaining: (D,) bool, detections to match.
        unmatched_gt: (M,) bool, boxes to match.

    Returns:
        (D,) index of the matched box of each detection, -1 if it is not matched.
    """
    detections, pairs = run.detections, run.pairs
    pairs = pairs.select(remaining[pairs.detection_index] & unmatched_gt[pairs.gt_index] & (pairs.iou >= run.iou))
    competing = pairs.detection_index[group_starts(pairs.detection_index)]
    rank = np.zeros(len(detections), np.int64)
    rank[competing] = rank_in_group(detections.image_index[competing])
    order = np.lexsort((pairs.gt_index, pairs.iou, pairs.detection_index, rank[pairs.detection_index]))
    pairs = pairs.select(order)
    return assign(pairs, rank[pairs.detection_index], len(detections), np.ones(len(run.ground_truth), bool))


def confusion_matrix(run: MatchedRun, threshold: float) -> Confusion:
    """Compute the confusion matrix of the detections whose score is at least `threshold`, at the IoU `run.iou`.

    First, each detection, in descending score, is matched with the unmatched box of its own class with the highest IoU;
    these correct detections are the diagonal. Then the remaining detections are matched in the same way, regardless of
    class.
    """
    detections, ground_truth, match, classes = run.detections, run.ground_truth, run.match, run.num_classes
    kept = (detections.score >= threshold) & ~match.ignored
    right = kept & match.correct
    matched = np.where(right, match.gt_index, -1)
    unmatched_gt = run.is_target.copy()
    unmatched_gt[matched[right]] = False
    confused = _match_regardless_of_class(run, kept & ~right, unmatched_gt)
    matched = np.where(confused >= 0, confused, matched)

    counts = np.zeros((classes + 1, classes + 1), np.int64)
    hit = kept & (matched >= 0)
    unmatched_gt[matched[hit]] = False
    np.add.at(counts, (ground_truth.class_id[matched[hit]], detections.class_id[hit]), 1)
    np.add.at(counts, (ground_truth.class_id[unmatched_gt], classes), 1)
    np.add.at(counts, (classes, detections.class_id[kept & ~hit]), 1)
    return Confusion(run.iou, threshold, counts)


def confused_pairs(run: MatchedRun, confusion: Confusion) -> tuple[ConfusedPair, ...]:
    """Return up to MAX_PAIRS pairs of different classes, sorted by the number of confused boxes, largest first."""
    counts = confusion.counts[:-1, :-1].copy()
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:MAX_PAIRS]
    num_gt = confusion.counts[:-1].sum(axis=1)
    pairs = [divmod(int(cell), max(len(counts), 1)) for cell in order]
    return tuple(
        ConfusedPair(run.class_name(i), run.class_name(j), int(counts[i, j]), float(counts[i, j] / num_gt[i]))
        for i, j in pairs
        if counts[i, j]
    )
