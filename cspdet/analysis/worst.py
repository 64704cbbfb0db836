"""The pictures with the most errors among the detections that are kept."""

from __future__ import annotations

import numpy as np

from cspdet.analysis.error_types import CORRECT, IGNORED, Kinds
from cspdet.analysis.label_issues import as_box
from cspdet.analysis.matched_run import Judged
from cspdet.analysis.structures import DETECTION_KINDS, ShownDetection, ShownTruth, WorstPicture


def worst_pictures(judged: Judged, kinds: Kinds, threshold: float, most: int) -> tuple[WorstPicture, ...]:
    """Up to `most` pictures, the worst first: missed boxes plus the scores of wrong detections, as far as kept."""
    found, truth, count = judged.found, judged.truth, len(judged.pictures)
    kept = found.score >= threshold
    right = kept & (kinds.kind == CORRECT)
    wrong = kept & (kinds.kind != CORRECT) & (kinds.kind != IGNORED)
    taken = np.zeros(len(truth), bool)
    taken[judged.match.truth[right]] = True
    missed_count = np.bincount(truth.picture[judged.goals & ~taken], minlength=count)
    wrong_count = np.bincount(found.picture[wrong], minlength=count)
    badness = missed_count + np.bincount(found.picture[wrong], found.score[wrong], count)
    order = np.argsort(-badness, kind="stable")[:most]
    return tuple(
        WorstPicture(
            *judged.place(picture),
            badness=float(badness[picture]),
            missed=int(missed_count[picture]),
            wrong=int(wrong_count[picture]),
            truths=_truths(judged, taken, picture),
            detections=_detections(judged, kinds, kept, picture),
        )
        for picture in order.tolist()
        if badness[picture] > 0
    )


def _truths(judged: Judged, taken: np.ndarray, picture: int) -> tuple[ShownTruth, ...]:
    truth = judged.truth
    return tuple(
        ShownTruth(
            box_xywh=as_box(truth.box_xywh[i]),
            class_name=judged.class_name(int(truth.class_id[i])),
            crowd=bool(truth.crowd[i]),
            found=bool(taken[i]),
        )
        for i in range(truth.start[picture], truth.start[picture + 1])
    )


def _detections(judged: Judged, kinds: Kinds, kept: np.ndarray, picture: int) -> tuple[ShownDetection, ...]:
    found = judged.found
    return tuple(
        ShownDetection(
            box_xywh=as_box(found.box_xywh[i]),
            class_name=judged.class_name(int(found.class_id[i])),
            score=float(found.score[i]),
            kind=DETECTION_KINDS[kinds.kind[i]],
        )
        for i in range(found.start[picture], found.start[picture + 1])
        if kept[i]
    )
