"""Compare runs on the same images by a paired bootstrap over images.

Each resample draws N of the N images with replacement, the same images for all runs, and computes the AP of every run
on the drawn images. The spread of the AP differences is the uncertainty due to the choice of images. Detections are
matched only once, because a resample changes only the weight of each image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from cspdet.analysis.average_precision import (
    Hits,
    Ranking,
    collect_hits,
    cumulative_weights,
    interpolated_precision,
    nanmean_or_none,
    trim_ranking,
)
from cspdet.analysis.config import AnalysisConfig
from cspdet.analysis.matched_run import ClassScores, MatchedRun
from cspdet.analysis.structures import ClassDifference, Comparison, Difference, RunComparison
from cspdet.analysis.worst import changed_images
from cspdet.errors import DataError
from cspdet.io.progress import progress

SIGNIFICANCE_LEVEL = 0.05  # upper bound of p for a significant difference
CONFIDENCE_INTERVAL = (0.025, 0.975)


class WeightedRun(NamedTuple):
    """Matched detections of a run, from which AP can be computed for any image weights."""

    ranking: Ranking
    hits: tuple[Hits, ...]  # by IOU_THRESHOLDS
    image_index: np.ndarray  # (D,) int64, image of each detection


def prepare_weighted_run(run: MatchedRun) -> WeightedRun:
    """Collect the correct and ignored detections of a run at all IoU thresholds."""
    any_hit = np.any([match.correct for match in run.matches], axis=0)
    ranking = trim_ranking(run.ranking, any_hit)
    tables = tuple(collect_hits(ranking, match.correct, match.ignored) for match in run.matches)
    return WeightedRun(ranking, tables, run.detections.image_index)


def weighted_ap(run: WeightedRun, image_counts: np.ndarray, num_gt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the AP of each class for given image weights.

    Args:
        run: Result of `prepare_weighted_run`.
        image_counts: (N,) weight of each image.
        num_gt: (C,) sum of the weights of the ground-truth boxes of each class.

    Returns:
        (C,) AP and (C,) AP50; NaN for classes without ground truth.
    """
    weight = image_counts.astype(np.float64)[run.image_index]
    ranked = cumulative_weights(run.ranking, weight)
    ap = np.stack([interpolated_precision(table, ranked, weight, num_gt).mean(axis=1) for table in run.hits])
    return ap.mean(axis=0), ap[0]


def _check_same_split(runs: Sequence[MatchedRun], names: Sequence[str]) -> None:
    first = runs[0]
    for run, name in zip(runs[1:], names[1:], strict=True):
        same_images = np.array_equal(run.images.image_id, first.images.image_id)
        same_boxes = len(run.ground_truth) == len(first.ground_truth)
        if not same_images or not same_boxes or run.coco.classes != first.coco.classes:
            raise DataError(f"{name}: expected the images, boxes and classes of {names[0]}, found others")


def compare(
    runs: Sequence[MatchedRun], names: Sequence[str], *, resamples: int = AnalysisConfig.resamples, seed: int = 0
) -> Comparison:
    """Compare every other run with the first run; all runs must be evaluated on the same split.

    Args:
        runs: Two or more runs.
        names: Name of each run.
        resamples, seed: Number of bootstrap resamples, and seed of the random numbers.

    Raises:
        DataError: The runs have different images, boxes or classes.
    """
    first = runs[0]
    _check_same_split(runs, names)
    draws = _bootstrap(runs, resamples, np.random.default_rng(seed))  # (R, runs, 2, C)
    return Comparison(
        runs=tuple(names),
        resamples=resamples,
        seed=seed,
        against_first=tuple(
            _compare_pair(first, runs[i], (names[0], names[i]), draws[:, i] - draws[:, 0]) for i in range(1, len(runs))
        ),
    )


def with_changed_images(
    comparison: Comparison, runs: Sequence[MatchedRun], thresholds: Sequence[float], max_images: int
) -> Comparison:
    """Return the comparison with the images on which each other run differs most from the first.

    Args:
        comparison: The comparison of the runs.
        runs: The runs, in the order of the comparison.
        thresholds: Score threshold of the kept detections of each run.
        max_images: Maximum number of images per pair of runs.
    """
    pairs = zip(comparison.against_first, runs[1:], thresholds[1:], strict=True)
    against_first = tuple(
        replace(one, changed_images=changed_images((runs[0], run), (thresholds[0], threshold), max_images))
        for one, run, threshold in pairs
    )
    return replace(comparison, against_first=against_first)


def _bootstrap(runs: Sequence[MatchedRun], resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Compute AP and AP50 of each run on each of R resamples of the images.

    Returns:
        (R, runs, 2, C) AP and AP50 of each class; NaN for classes without ground truth.
    """
    ground_truth, count, classes = runs[0].ground_truth, len(runs[0].images), runs[0].num_classes
    image_index, class_id = ground_truth.image_index[runs[0].is_target], ground_truth.class_id[runs[0].is_target]
    prepared = [prepare_weighted_run(run) for run in runs]
    drawn = np.empty((resamples, len(runs), 2, classes))
    for i in progress(range(resamples), "resampling images", "resample", total=resamples):
        times = np.bincount(rng.integers(count, size=count), minlength=count)
        positives = np.bincount(class_id, times[image_index], classes)
        for j, weighted in enumerate(prepared):
            drawn[i, j] = weighted_ap(weighted, times, positives)
    return drawn


def _compare_pair(first: MatchedRun, other: MatchedRun, names: tuple[str, str], gains: np.ndarray) -> RunComparison:
    """Compare two runs.

    Args:
        first: The first run.
        other: The run to compare with it.
        names: Names of both runs.
        gains: (R, 2, C) differences of AP and AP50, `other` minus `first`, of each resample and class.
    """
    scores = [ClassScores(run, run.matches, run.num_gt, None) for run in (first, other)]
    values = [(one.AP, one.AP_at(0)) for one in scores]
    differences = [
        _difference(metric, values[0][k], values[1][k], gains[:, k]) for k, metric in enumerate(("AP", "AP50"))
    ]
    classes = tuple(
        _class_difference(first, class_id, values[0], values[1], gains[:, 0, class_id])
        for class_id in range(first.num_classes)
    )
    return RunComparison(names[0], names[1], differences[0], differences[1], classes)


def _difference(metric: str, first: np.ndarray, other: np.ndarray, gains: np.ndarray) -> Difference:
    """Compute the difference of a metric, with its confidence interval and p value.

    Args:
        metric: Name of the metric.
        first: (C,) value of each class in the first run.
        other: (C,) value of each class in the other run.
        gains: (R, C) differences, `other` minus `first`, of each resample and class.
    """
    before, after = nanmean_or_none(first), nanmean_or_none(other)
    known = ~np.isnan(gains)
    drawn = np.where(known, gains, 0.0).sum(axis=1)[known.any(axis=1)] / known.sum(axis=1)[known.any(axis=1)]
    if before is None or after is None or not len(drawn):
        return Difference(metric, before, after, None, None, None, None, None, False)
    low, high = np.quantile(drawn, CONFIDENCE_INTERVAL).tolist()
    p = sign_test_p_value(drawn)
    return Difference(metric, before, after, after - before, float(drawn.mean()), low, high, p, p < SIGNIFICANCE_LEVEL)


def sign_test_p_value(gains: np.ndarray) -> float:
    """Return the two-sided p value of the bootstrap, given the (R,) gains of the resamples.

    It is 2 (k + 1) / (R + 1), at most 1, where k is the number of gains with the rarer sign; a gain of 0 counts for
    both signs. It is never 0: with 1,000 resamples, its minimum is 2/1001.
    """
    against = min(int((gains <= 0).sum()), int((gains >= 0).sum()))
    return min(1.0, 2 * (against + 1) / (len(gains) + 1))


def _class_difference(
    run: MatchedRun,
    class_id: int,
    first: tuple[np.ndarray, np.ndarray],
    other: tuple[np.ndarray, np.ndarray],
    gains: np.ndarray,
) -> ClassDifference:
    name, num_gt = run.class_name(class_id), int(run.num_gt[class_id])
    drawn = gains[~np.isnan(gains)]
    if not num_gt:
        return ClassDifference(name, 0, None, None, None, None, None, None)
    low, high = np.quantile(drawn, CONFIDENCE_INTERVAL).tolist() if len(drawn) else (None, None)
    before, after = float(first[0][class_id]), float(other[0][class_id])
    gain50 = float(other[1][class_id] - first[1][class_id])
    return ClassDifference(name, num_gt, before, after, after - before, low, high, gain50)
