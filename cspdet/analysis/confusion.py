"""The confusion matrix with a background: what lies on the boxes of each class."""

from __future__ import annotations

import numpy as np

from cspdet.analysis.arrays import first_of_equals, rank_in_group
from cspdet.analysis.matched_run import Judged
from cspdet.analysis.matching import assign
from cspdet.analysis.structures import ConfusedPair, Confusion

MOST_PAIRS = 50


def confusion_matrix(judged: Judged, threshold: float) -> Confusion:
    """Count boxes against detections of at least the score `threshold`, at `judged.iou`.

    First each class is matched by itself, by COCO's rule, so that the diagonal are the correct detections. What is
    left is matched whatever the class: best score first, each with the free box that it overlaps most.
    """
    found, truth, match, classes = judged.found, judged.truth, judged.match, judged.classes
    kept = (found.score >= threshold) & ~match.ignored
    right = kept & match.correct
    matched = np.where(right, match.truth, -1)
    open_truth = judged.goals.copy()
    open_truth[matched[right]] = False
    pairs = judged.pairs
    pairs = pairs.where((kept & ~right)[pairs.detection] & open_truth[pairs.truth] & (pairs.iou >= judged.iou))
    competing = pairs.detection[first_of_equals(pairs.detection)]
    rank = np.zeros(len(found), np.int64)
    rank[competing] = rank_in_group(found.picture[competing])
    order = np.lexsort((pairs.truth, pairs.iou, pairs.detection, rank[pairs.detection]))
    pairs = pairs.where(order)
    confused = assign(pairs, rank[pairs.detection], len(found), np.ones(len(truth), bool))
    matched = np.where(confused >= 0, confused, matched)

    counts = np.zeros((classes + 1, classes + 1), np.int64)
    hit = kept & (matched >= 0)
    open_truth[matched[hit]] = False
    np.add.at(counts, (truth.class_id[matched[hit]], found.class_id[hit]), 1)
    np.add.at(counts, (truth.class_id[open_truth], classes), 1)
    np.add.at(counts, (classes, found.class_id[kept & ~hit]), 1)
    return Confusion(judged.iou, threshold, counts)


def confused_pairs(judged: Judged, confusion: Confusion) -> tuple[ConfusedPair, ...]:
    """Pairs of different classes, most boxes first, then in the order of the classes."""
    counts = confusion.counts[:-1, :-1].copy()
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:MOST_PAIRS]
    truths = confusion.counts[:-1].sum(axis=1)
    pairs = [divmod(int(cell), max(len(counts), 1)) for cell in order]
    return tuple(
        ConfusedPair(judged.class_name(i), judged.class_name(j), int(counts[i, j]), float(counts[i, j] / truths[i]))
        for i, j in pairs
        if counts[i, j]
    )
