"""Where the labels rather than the detector may be wrong, most suspicious first."""

from __future__ import annotations

import numpy as np

from cspdet.analysis.error_types import best_overlap
from cspdet.analysis.matched_run import Judged
from cspdet.analysis.structures import Suspect, Suspects

CONFIDENT = 0.9  # quantile of the scores of correct detections
SAME_PLACE = 0.7  # IoU from which a detection means the box of another class
ANY_SCORE = 0.01  # detections up to here are no sign that anything is there
MOST_LISTED = 500  # of each kind


def find_suspects(judged: Judged, threshold: float) -> Suspects:
    """Look for boxes that may be missing, of the wrong class, or on nothing.

    A detection is confident from the .9 quantile of the scores of correct detections on, at least from `threshold`;
    where nothing is correct, none is.
    """
    right = judged.match.correct
    none = np.zeros(0, np.int64)
    if not right.any():
        return _suspects(judged, threshold, none, none, none, none)
    min_score = max(threshold, float(np.quantile(judged.found.score[right], CONFIDENT)))
    confident = judged.found.score >= min_score
    overlapping = np.bincount(judged.pairs.detection, minlength=len(judged.found)) > 0
    iou, truth = _other_overlap(judged)
    disagreeing = confident & ~right & ~judged.match.ignored & (iou >= SAME_PLACE)
    wrong = _other_class(judged, disagreeing, truth, threshold)
    return _suspects(judged, min_score, np.flatnonzero(confident & ~overlapping), wrong, truth[wrong], iou[wrong])


def _suspects(
    judged: Judged, min_score: float, missing: np.ndarray, wrong: np.ndarray, truth: np.ndarray, iou: np.ndarray
) -> Suspects:
    """`missing` and `wrong` are indices of detections, `truth` the box that each of the wrong ones is on."""
    lonely = _never_found(judged)
    missing = missing[np.argsort(-judged.found.score[missing], kind="stable")]
    best = np.argsort(-judged.found.score[wrong], kind="stable")[:MOST_LISTED]
    listed = [_missing_box(judged, int(one)) for one in missing[:MOST_LISTED]]
    listed += [_wrong_class(judged, int(wrong[i]), int(truth[i]), float(iou[i])) for i in best]
    listed += [_box_there(judged, int(one)) for one in lonely[:MOST_LISTED]]
    return Suspects(min_score, tuple(listed), (len(missing), len(wrong), len(lonely)))


def _other_class(judged: Judged, chosen: np.ndarray, truth: np.ndarray, threshold: float) -> np.ndarray:
    """Of the chosen detections, each on the (D,) box `truth`, the best on each box that its own class does not find."""
    certain = judged.match.correct & (judged.found.score >= threshold)
    agreed = np.zeros(len(judged.truth), bool)
    agreed[judged.match.truth[certain]] = True
    (index,) = np.nonzero(chosen)
    index = index[~agreed[truth[index]]]
    index = index[np.argsort(-judged.found.score[index], kind="stable")]
    return index[np.unique(truth[index], return_index=True)[1]]


def _other_overlap(judged: Judged) -> tuple[np.ndarray, np.ndarray]:
    """(D,) best IoU with a box of another class, and (D,) that box."""
    pairs = judged.pairs
    other = judged.found.class_id[pairs.detection] != judged.truth.class_id[pairs.truth]
    return best_overlap(pairs.where(other & ~judged.truth.crowd[pairs.truth]), len(judged.found))


def _never_found(judged: Judged) -> np.ndarray:
    """Boxes that no detection worth the name overlaps, the largest first."""
    pairs = judged.pairs
    seen = np.zeros(len(judged.truth), bool)
    seen[pairs.truth[judged.found.score[pairs.detection] > ANY_SCORE]] = True
    (lonely,) = np.nonzero(judged.goals & ~seen)
    return lonely[np.argsort(-judged.truth.area[lonely], kind="stable")]


def _missing_box(judged: Judged, index: int) -> Suspect:
    found = judged.found
    return Suspect(
        "box missing?",
        *judged.place(int(found.picture[index])),
        box_xywh=as_box(found.box_xywh[index]),
        class_name=judged.class_name(int(found.class_id[index])),
        score=float(found.score[index]),
        other_class=None,
        iou=None,
    )


def _wrong_class(judged: Judged, index: int, truth: int, iou: float) -> Suspect:
    found = judged.found
    return Suspect(
        "class wrong?",
        *judged.place(int(found.picture[index])),
        box_xywh=as_box(found.box_xywh[index]),
        class_name=judged.class_name(int(found.class_id[index])),
        score=float(found.score[index]),
        other_class=judged.class_name(int(judged.truth.class_id[truth])),
        iou=iou,
    )


def _box_there(judged: Judged, index: int) -> Suspect:
    truth = judged.truth
    return Suspect(
        "box there?",
        *judged.place(int(truth.picture[index])),
        box_xywh=as_box(truth.box_xywh[index]),
        class_name=judged.class_name(int(truth.class_id[index])),
        score=None,
        other_class=None,
        iou=None,
    )


def as_box(row: np.ndarray) -> tuple[float, float, float, float]:
    """A box as plain numbers."""
    x, y, width, height = row.tolist()
    return x, y, width, height
