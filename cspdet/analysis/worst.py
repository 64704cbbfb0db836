"""Find the images with the most errors among the kept detections."""

from __future__ import annotations

import numpy as np

from cspdet.analysis.error_types import CORRECT, IGNORED, ErrorTypes
from cspdet.analysis.findings import DETECTION_TYPES, AnnotatedBox, DetectedBox, WorstImage
from cspdet.analysis.label_issues import to_box_tuple
from cspdet.analysis.matched_run import MatchedRun


def worst_images(run: MatchedRun, error_types: ErrorTypes, threshold: float, max_images: int) -> tuple[WorstImage, ...]:
    """Return up to `max_images` images with the highest sum of missed boxes and scores of kept wrong detections."""
    detections, ground_truth, count = run.detections, run.ground_truth, len(run.images)
    kept = detections.score >= threshold
    right = kept & (error_types.detection_type == CORRECT)
    wrong = kept & (error_types.detection_type != CORRECT) & (error_types.detection_type != IGNORED)
    matched_gt = np.zeros(len(ground_truth), bool)
    matched_gt[run.match.gt_index[right]] = True
    missed_count = np.bincount(ground_truth.image_index[run.is_target & ~matched_gt], minlength=count)
    wrong_count = np.bincount(detections.image_index[wrong], minlength=count)
    error_score = missed_count + np.bincount(detections.image_index[wrong], detections.score[wrong], count)
    order = np.argsort(-error_score, kind="stable")[:max_images]
    return tuple(
        WorstImage(
            *run.image_info(image_index),
            error_score=float(error_score[image_index]),
            missed=int(missed_count[image_index]),
            wrong=int(wrong_count[image_index]),
            annotations=_annotated_boxes(run, matched_gt, image_index),
            detections=_detected_boxes(run, error_types, kept, image_index),
        )
        for image_index in order.tolist()
        if error_score[image_index] > 0
    )


def _annotated_boxes(run: MatchedRun, matched_gt: np.ndarray, image_index: int) -> tuple[AnnotatedBox, ...]:
    ground_truth = run.ground_truth
    return tuple(
        AnnotatedBox(
            box_xywh=to_box_tuple(ground_truth.box_xywh[i]),
            class_name=run.class_name(int(ground_truth.class_id[i])),
            crowd=bool(ground_truth.crowd[i]),
            detected=bool(matched_gt[i]),
        )
        for i in range(ground_truth.start[image_index], ground_truth.start[image_index + 1])
    )


def _detected_boxes(
    run: MatchedRun, error_types: ErrorTypes, kept: np.ndarray, image_index: int
) -> tuple[DetectedBox, ...]:
    detections = run.detections
    return tuple(
        DetectedBox(
            box_xywh=to_box_tuple(detections.box_xywh[i]),
            class_name=run.class_name(int(detections.class_id[i])),
            score=float(detections.score[i]),
            detection_type=DETECTION_TYPES[error_types.detection_type[i]],
        )
        for i in range(detections.start[image_index], detections.start[image_index + 1])
        if kept[i]
    )
