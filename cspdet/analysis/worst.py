"""Find the images with the most errors among the kept detections, and the images on which two runs differ most."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cspdet.analysis.error_types import CORRECT, IGNORED, ErrorTypes, classify_errors
from cspdet.analysis.findings import DETECTION_TYPES, AnnotatedBox, ChangedImage, DetectedBox, WorstImage
from cspdet.analysis.label_issues import to_box_tuple
from cspdet.analysis.matched_run import MatchedRun

MIN_SCORE = 0.05  # of the detections that are not kept and still listed
MAX_OTHER_DETECTIONS = 60  # not kept, per image


class ImageErrors(NamedTuple):
    """Errors of each of N images, in the order of the images sorted by id."""

    error_score: np.ndarray  # (N,) missed boxes + the scores of the kept wrong detections
    missed: np.ndarray  # (N,) int64
    wrong: np.ndarray  # (N,) int64 kept wrong detections


def count_image_errors(run: MatchedRun, error_types: ErrorTypes, threshold: float) -> ImageErrors:
    """Count the missed boxes and the kept wrong detections of each image."""
    detections, ground_truth, count = run.detections, run.ground_truth, len(run.images)
    kept = detections.score >= threshold
    wrong = kept & (error_types.detection_type != CORRECT) & (error_types.detection_type != IGNORED)
    is_missed = run.is_target & ~(matched_scores(run) >= threshold)
    missed = np.bincount(ground_truth.image_index[is_missed], minlength=count)
    wrong_count = np.bincount(detections.image_index[wrong], minlength=count)
    error_score = missed + np.bincount(detections.image_index[wrong], detections.score[wrong], count)
    return ImageErrors(error_score, missed, wrong_count)


def matched_scores(run: MatchedRun) -> np.ndarray:
    """Return the (M,) score of the correct detection that matches each box; NaN for other boxes."""
    scores = np.full(len(run.ground_truth), np.nan)
    scores[run.match.gt_index[run.match.correct]] = run.detections.score[run.match.correct]
    return scores


def worst_images(run: MatchedRun, error_types: ErrorTypes, threshold: float, max_images: int) -> tuple[WorstImage, ...]:
    """Return up to `max_images` images with errors, highest `ImageErrors.error_score` first."""
    errors = count_image_errors(run, error_types, threshold)
    order = np.argsort(-errors.error_score, kind="stable")[:max_images]
    chosen = [image_index for image_index in order.tolist() if errors.error_score[image_index] > 0]
    return _describe_images(run, error_types, threshold, chosen)


def changed_images(
    runs: tuple[MatchedRun, MatchedRun], thresholds: tuple[float, float], max_images: int
) -> tuple[ChangedImage, ...]:
    """Return the images whose errors differ most between two runs of the same split, largest difference first.

    Args:
        runs: The first run and the other run.
        thresholds: Score threshold of the kept detections of each run.
        max_images: Maximum number of images.
    """
    types = [classify_errors(run) for run in runs]
    scores = [count_image_errors(*side).error_score for side in zip(runs, types, thresholds, strict=True)]
    difference = np.abs(scores[1] - scores[0])
    order = np.argsort(-difference, kind="stable")[:max_images]
    chosen = [image_index for image_index in order.tolist() if difference[image_index] > 0]
    before, after = (_describe_images(*side, chosen) for side in zip(runs, types, thresholds, strict=True))
    return tuple(ChangedImage(*pair) for pair in zip(before, after, strict=True))


def _describe_images(
    run: MatchedRun, error_types: ErrorTypes, threshold: float, chosen: list[int]
) -> tuple[WorstImage, ...]:
    """Return the errors, the boxes and the detections of images, given their indices in the images sorted by id."""
    errors, scores = count_image_errors(run, error_types, threshold), matched_scores(run)
    kept = run.detections.score >= threshold
    others = ~kept & (run.detections.score >= MIN_SCORE)
    return tuple(
        WorstImage(
            *run.image_info(i),
            error_score=float(errors.error_score[i]),
            missed=int(errors.missed[i]),
            wrong=int(errors.wrong[i]),
            annotations=_annotated_boxes(run, scores, threshold, i),
            detections=_detected_boxes(run, error_types, kept, i),
            other_detections=_detected_boxes(run, error_types, others, i)[:MAX_OTHER_DETECTIONS],
        )
        for i in chosen
    )


def _annotated_boxes(
    run: MatchedRun, scores: np.ndarray, threshold: float, image_index: int
) -> tuple[AnnotatedBox, ...]:
    ground_truth = run.ground_truth
    return tuple(
        AnnotatedBox(
            box_xywh=to_box_tuple(ground_truth.box_xywh[i]),
            class_name=run.class_name(int(ground_truth.class_id[i])),
            crowd=bool(ground_truth.crowd[i]),
            detected=bool(scores[i] >= threshold),
            score=None if np.isnan(scores[i]) else float(scores[i]),
        )
        for i in range(ground_truth.start[image_index], ground_truth.start[image_index + 1])
    )


def _detected_boxes(
    run: MatchedRun, error_types: ErrorTypes, chosen: np.ndarray, image_index: int
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
        if chosen[i]
    )
