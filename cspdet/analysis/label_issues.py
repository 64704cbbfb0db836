"""Find annotations that may be wrong: missing boxes, wrong classes and spurious boxes, most likely first."""

from __future__ import annotations

import numpy as np

from cspdet.analysis.error_types import best_overlap
from cspdet.analysis.findings import LabelIssue, LabelIssues
from cspdet.analysis.matched_run import MatchedRun

CONFIDENT_QUANTILE = 0.9  # quantile of the scores of correct detections
SAME_OBJECT_IOU = 0.7  # minimum IoU of a detection with the box of another class for `wrong class`
MIN_EVIDENCE_SCORE = 0.01  # lower scores are no evidence for an object
MAX_LISTED = 500  # of each type


def find_label_issues(run: MatchedRun, threshold: float) -> LabelIssues:
    """Find boxes that are missing, have the wrong class, or are spurious.

    A detection is confident if its score is at least `threshold` and at least the .9 quantile of the scores of correct
    detections. If there are no correct detections, no detection is confident.
    """
    right = run.match.correct
    none = np.zeros(0, np.int64)
    if not right.any():
        return _rank_label_issues(run, threshold, none, none, none, none)
    min_score = max(threshold, float(np.quantile(run.detections.score[right], CONFIDENT_QUANTILE)))
    confident = run.detections.score >= min_score
    overlapping = np.bincount(run.pairs.detection_index, minlength=len(run.detections)) > 0
    iou, gt_index = _best_other_class_overlap(run)
    disagreeing = confident & ~right & ~run.match.ignored & (iou >= SAME_OBJECT_IOU)
    wrong = _misclassified_boxes(run, disagreeing, gt_index, threshold)
    return _rank_label_issues(
        run, min_score, np.flatnonzero(confident & ~overlapping), wrong, gt_index[wrong], iou[wrong]
    )


def _rank_label_issues(
    run: MatchedRun, min_score: float, missing: np.ndarray, wrong: np.ndarray, gt_index: np.ndarray, iou: np.ndarray
) -> LabelIssues:
    """Sort the issues of each type, most likely first, and keep at most MAX_LISTED per type.

    Args:
        run: The matched run.
        min_score: Minimum score of confident detections.
        missing: Indices of confident detections without a box.
        wrong: Indices of confident detections on a box of another class.
        gt_index: Indices of these boxes.
        iou: IoU of each detection in `wrong` with its box.
    """
    undetected = _undetected_boxes(run)
    missing = missing[np.argsort(-run.detections.score[missing], kind="stable")]
    best = np.argsort(-run.detections.score[wrong], kind="stable")[:MAX_LISTED]
    listed = [_missing_box_issue(run, int(one)) for one in missing[:MAX_LISTED]]
    listed += [_wrong_class_issue(run, int(wrong[i]), int(gt_index[i]), float(iou[i])) for i in best]
    listed += [_spurious_box_issue(run, int(one)) for one in undetected[:MAX_LISTED]]
    return LabelIssues(min_score, tuple(listed), (len(missing), len(wrong), len(undetected)))


def _misclassified_boxes(run: MatchedRun, chosen: np.ndarray, gt_index: np.ndarray, threshold: float) -> np.ndarray:
    """Return the indices of confident detections that contradict the class of a box, at most one per box.

    Boxes that have a correct detection are omitted. For each other box, the detection with the highest score is
    returned.

    Args:
        run: The matched run.
        chosen: (D,) bool, confident detections on a box of another class.
        gt_index: (D,) index of this box.
        threshold: Minimum score of a correct detection.
    """
    certain = run.match.correct & (run.detections.score >= threshold)
    agreed = np.zeros(len(run.ground_truth), bool)
    agreed[run.match.gt_index[certain]] = True
    (index,) = np.nonzero(chosen)
    index = index[~agreed[gt_index[index]]]
    index = index[np.argsort(-run.detections.score[index], kind="stable")]
    return index[np.unique(gt_index[index], return_index=True)[1]]


def _best_other_class_overlap(run: MatchedRun) -> tuple[np.ndarray, np.ndarray]:
    """Return the (D,) highest IoU of each detection with a box of another class, and the (D,) index of this box."""
    pairs = run.pairs
    other = run.detections.class_id[pairs.detection_index] != run.ground_truth.class_id[pairs.gt_index]
    return best_overlap(pairs.select(other & ~run.ground_truth.crowd[pairs.gt_index]), len(run.detections))


def _undetected_boxes(run: MatchedRun) -> np.ndarray:
    """Return the indices of the boxes that no detection with a score above MIN_EVIDENCE_SCORE overlaps, largest first.

    Two boxes overlap if their IoU is at least BACKGROUND_IOU.
    """
    pairs = run.pairs
    seen = np.zeros(len(run.ground_truth), bool)
    seen[pairs.gt_index[run.detections.score[pairs.detection_index] > MIN_EVIDENCE_SCORE]] = True
    (undetected,) = np.nonzero(run.is_target & ~seen)
    return undetected[np.argsort(-run.ground_truth.area[undetected], kind="stable")]


def _missing_box_issue(run: MatchedRun, index: int) -> LabelIssue:
    detections = run.detections
    return LabelIssue(
        "missing box",
        *run.image_info(int(detections.image_index[index])),
        box_xywh=to_box_tuple(detections.box_xywh[index]),
        class_name=run.class_name(int(detections.class_id[index])),
        score=float(detections.score[index]),
        annotated_class=None,
        iou=None,
    )


def _wrong_class_issue(run: MatchedRun, index: int, gt_index: int, iou: float) -> LabelIssue:
    detections = run.detections
    return LabelIssue(
        "wrong class",
        *run.image_info(int(detections.image_index[index])),
        box_xywh=to_box_tuple(detections.box_xywh[index]),
        class_name=run.class_name(int(detections.class_id[index])),
        score=float(detections.score[index]),
        annotated_class=run.class_name(int(run.ground_truth.class_id[gt_index])),
        iou=iou,
    )


def _spurious_box_issue(run: MatchedRun, index: int) -> LabelIssue:
    ground_truth = run.ground_truth
    return LabelIssue(
        "spurious box",
        *run.image_info(int(ground_truth.image_index[index])),
        box_xywh=to_box_tuple(ground_truth.box_xywh[index]),
        class_name=run.class_name(int(ground_truth.class_id[index])),
        score=None,
        annotated_class=None,
        iou=None,
    )


def to_box_tuple(row: np.ndarray) -> tuple[float, float, float, float]:
    """Convert a (4,) array to a tuple of floats."""
    x, y, width, height = row.tolist()
    return x, y, width, height
