"""What kind of error each detection is, and the AP that each kind costs, in the sense of TIDE.

After Bolya, Foley, Hays and Hoffman, "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV 2020,
section 2.2. With the foreground at IoU t (.5) and the background at b (.1), a detection that matches no box is, and
the first that applies counts:

localization    its best box of the same class overlaps it by b or more, but less than t
classification  a box of another class overlaps it by t or more
duplicate       a box of its class overlaps it by t or more, which a better score took before
background      no box overlaps it by b
both            what is left: between b and t with a box of another class

The cost of a kind is the AP at t with that kind alone repaired, minus the AP: classes and boxes are corrected,
except where the box is found already or a better score of the same kind points at it, then the detection goes;
the detections of the other kinds go; boxes that are missed are no longer looked for. Costs do not add up to 1 - AP,
for one repair may make room for another.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cspdet.analysis.arrays import first_of_equals
from cspdet.analysis.average_precision import (
    Ranking,
    hits,
    interpolated_precision,
    mean_known,
    rank,
    ranked_weight,
)
from cspdet.analysis.matched_run import BACKGROUND_IOU, Judged
from cspdet.analysis.overlaps import Pairs
from cspdet.analysis.structures import DETECTION_KINDS, ERROR_KINDS, ErrorCost, Errors

CORRECT, CLASSIFICATION, LOCALIZATION, BOTH, DUPLICATE, BACKGROUND, IGNORED = range(len(DETECTION_KINDS))


class Kinds(NamedTuple):
    """The kind of each of D detections, and what the repairs need."""

    kind: np.ndarray  # (D,) int64, index into DETECTION_KINDS
    meant: np.ndarray  # (D,) int64, the box that a localization or classification error should have found, else -1
    taken: np.ndarray  # (M,) bool, boxes that a correct detection found


def kinds_of(judged: Judged) -> Kinds:
    """Give each detection its kind, at `judged.iou`."""
    match, truth, count = judged.match, judged.truth, len(judged.found)
    pairs = judged.pairs.where(~truth.crowd[judged.pairs.truth])
    same = judged.found.class_id[pairs.detection] == truth.class_id[pairs.truth]
    same_iou, same_truth = best_overlap(pairs.where(same), count)
    other_iou, other_truth = best_overlap(pairs.where(~same), count)
    near = (same_iou >= BACKGROUND_IOU) & (same_iou < judged.iou)
    conditions = (
        match.correct,
        match.ignored,
        near,
        other_iou >= judged.iou,
        same_iou >= judged.iou,
        np.maximum(same_iou, other_iou) < BACKGROUND_IOU,
    )
    kind = np.select(conditions, (CORRECT, IGNORED, LOCALIZATION, CLASSIFICATION, DUPLICATE, BACKGROUND), BOTH)
    meant = np.where(kind == LOCALIZATION, same_truth, np.where(kind == CLASSIFICATION, other_truth, -1))
    taken = np.zeros(len(truth), bool)
    taken[match.truth[match.correct]] = True
    return Kinds(kind, meant, taken)


def measure_errors(judged: Judged, kinds: Kinds, threshold: float) -> Errors:
    """Count the kinds, above the score `threshold` too, and what each costs."""
    goals, kept = judged.goals, judged.found.score >= threshold
    reached = np.zeros(len(goals), bool)
    reached[kinds.meant[kinds.meant >= 0]] = True
    missed = goals & ~kinds.taken
    entirely = missed & ~reached
    kept_found = int((judged.match.correct & kept).sum())
    all_counts = np.bincount(kinds.kind, minlength=len(DETECTION_KINDS))
    kept_counts = np.bincount(kinds.kind[kept], minlength=len(DETECTION_KINDS))
    right, skipped = kinds.kind == CORRECT, kinds.kind == IGNORED
    ap = _mean_ap(judged, judged.ranking, right, skipped, judged.positives)

    def cost(repaired: float | None) -> float | None:
        return None if ap is None or repaired is None else repaired - ap

    costs = []
    for name in ERROR_KINDS:
        if name == "missed":
            count, kept_count = int(entirely.sum()), int(goals.sum()) - kept_found
            repaired = _without_truths(judged, kinds, entirely)
        else:
            index = DETECTION_KINDS.index(name)
            count, kept_count = int(all_counts[index]), int(kept_counts[index])
            repaired = _repaired(judged, kinds, index)
        costs.append(ErrorCost(name, count, kept_count, cost(repaired)))
    return Errors(
        iou=judged.iou,
        background_iou=BACKGROUND_IOU,
        ap=ap,
        judged=len(judged.found),
        correct=int(all_counts[CORRECT]),
        ignored=int(all_counts[IGNORED]),
        kept_correct=int(kept_counts[CORRECT]),
        kept_ignored=int(kept_counts[IGNORED]),
        truths=int(goals.sum()),
        found=int(kinds.taken.sum()),
        missed=int(missed.sum()),
        missed_entirely=int(entirely.sum()),
        kinds=tuple(costs),
        false_positive_cost=cost(_mean_ap(judged, judged.ranking, right, ~right, judged.positives)),
        false_negative_cost=cost(_without_truths(judged, kinds, missed)),
    )


def _repaired(judged: Judged, kinds: Kinds, index: int) -> float | None:
    """AP with the detections of a kind corrected, or removed where that is no way to a box of their own."""
    chosen = kinds.kind == index
    correct, gone = kinds.kind == CORRECT, (kinds.kind == IGNORED) | chosen
    ranking = judged.ranking
    if index in (CLASSIFICATION, LOCALIZATION):
        winner = _best_claims(judged, kinds, chosen)
        correct, gone = correct | winner, gone & ~winner
        if index == CLASSIFICATION:
            class_id = judged.found.class_id.copy()
            class_id[winner] = judged.truth.class_id[kinds.meant[winner]]
            ranking = rank(class_id, judged.found.score, judged.classes)
    return _mean_ap(judged, ranking, correct, gone, judged.positives)


def _best_claims(judged: Judged, kinds: Kinds, chosen: np.ndarray) -> np.ndarray:
    """(D,) bool: of the chosen detections that mean the same free box, the one with the best score."""
    (claiming,) = np.nonzero(chosen)
    claiming = claiming[~kinds.taken[kinds.meant[claiming]]]
    meant = kinds.meant[claiming]
    order = np.lexsort((-judged.found.score[claiming], meant))
    first = order[np.flatnonzero(np.diff(meant[order], prepend=-1))]
    winner = np.zeros(len(chosen), bool)
    winner[claiming[first]] = True
    return winner


def _without_truths(judged: Judged, kinds: Kinds, gone: np.ndarray) -> float | None:
    """AP when the (M,) chosen boxes are not looked for; a class of which nothing is left has no errors left."""
    left = judged.positives - judged.count_truths(gone)
    return _mean_ap(judged, judged.ranking, kinds.kind == CORRECT, kinds.kind == IGNORED, left)


def _mean_ap(
    judged: Judged, ranking: Ranking, correct: np.ndarray, removed: np.ndarray, positives: np.ndarray
) -> float | None:
    """Mean AP over the classes that have boxes in the data."""
    weight = np.ones(len(judged.found))
    curves = interpolated_precision(hits(ranking, correct, removed), ranked_weight(ranking, weight), weight, positives)
    ap = np.where(np.isnan(curves[:, 0]), 1.0, curves.mean(axis=1))
    return mean_known(np.where(judged.positives > 0, ap, np.nan))


def best_overlap(pairs: Pairs, detections: int) -> tuple[np.ndarray, np.ndarray]:
    """(D,) highest IoU of each detection, 0 without any, and (D,) the box it is with, the first of equals, or -1."""
    best_iou, best_truth = np.zeros(detections), np.full(detections, -1, np.int64)
    start = first_of_equals(pairs.detection)
    if len(start):
        best = np.maximum.reduceat(pairs.iou, start)
        highest = np.flatnonzero(pairs.iou == np.repeat(best, np.diff(np.append(start, len(pairs.iou)))))
        highest = highest[first_of_equals(pairs.detection[highest])]
        best_iou[pairs.detection[highest]] = best
        best_truth[pairs.detection[highest]] = pairs.truth[highest]
    return best_iou, best_truth
