"""Runs on the same pictures side by side, and whether their difference is more than the choice of pictures.

A paired bootstrap: pictures are drawn anew with replacement, as many as there are, the same for all runs; each draw
gives every run an AP, and the differences of all draws show how far the luck of the pictures reaches. Detections
are matched once: a draw only says how often each picture counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cspdet.analysis.average_precision import (
    Hits,
    Ranking,
    hits,
    interpolated_precision,
    mean_known,
    ranked_weight,
    trimmed,
)
from cspdet.analysis.matched_run import ClassScores, Judged
from cspdet.analysis.structures import ClassDifference, Comparison, Difference, RunComparison
from cspdet.errors import DataError
from cspdet.io.progress import progress

RESAMPLES = 1000
REAL = 0.05  # p below which a difference is called real
INTERVAL = (0.025, 0.975)


class WeightedRun(NamedTuple):
    """What the AP of a run needs when pictures count differently often."""

    ranking: Ranking
    hits: tuple[Hits, ...]  # by IOUS
    picture: np.ndarray  # (D,) int64, of each detection


def weighted_run(judged: Judged) -> WeightedRun:
    """Prepare a run."""
    any_hit = np.any([match.correct for match in judged.matches], axis=0)
    ranking = trimmed(judged.ranking, any_hit)
    tables = tuple(hits(ranking, match.correct, match.ignored) for match in judged.matches)
    return WeightedRun(ranking, tables, judged.found.picture)


def weighted_ap(run: WeightedRun, pictures: np.ndarray, positives: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(C,) AP and (C,) AP50 when each of the N pictures counts so often; NaN for classes without boxes then.

    Args:
        run: from `weighted_run`.
        pictures: (N,) how often each picture counts.
        positives: (C,) boxes to be found, counted likewise.
    """
    weight = pictures.astype(np.float64)[run.picture]
    ranked = ranked_weight(run.ranking, weight)
    ap = np.stack([interpolated_precision(table, ranked, weight, positives).mean(axis=1) for table in run.hits])
    return ap.mean(axis=0), ap[0]


def compare(runs: Sequence[Judged], names: Sequence[str], *, resamples: int = RESAMPLES, seed: int = 0) -> Comparison:
    """Every further run against the first, on the same split.

    Raises:
        DataError: the runs are on different pictures or classes.
    """
    first = runs[0]
    for judged, name in zip(runs[1:], names[1:], strict=True):
        same = np.array_equal(judged.pictures.image_id, first.pictures.image_id) and len(judged.truth) == len(
            first.truth
        )
        if not same or judged.coco.classes != first.coco.classes:
            raise DataError(f"{name}: not on the pictures, boxes and classes of {names[0]}; nothing can be compared")
    draws = _draw(runs, resamples, np.random.default_rng(seed))  # (R, runs, 2, C)
    return Comparison(
        runs=tuple(names),
        resamples=resamples,
        seed=seed,
        against_first=tuple(
            _against(first, runs[i], (names[0], names[i]), draws[:, i] - draws[:, 0]) for i in range(1, len(runs))
        ),
    )


def _draw(runs: Sequence[Judged], resamples: int, random: np.random.Generator) -> np.ndarray:
    """(R, runs, 2, C) AP and AP50 of each class of each run in each resample, NaN where a class has no boxes."""
    truth, count, classes = runs[0].truth, len(runs[0].pictures), runs[0].classes
    picture, class_id = truth.picture[runs[0].goals], truth.class_id[runs[0].goals]
    prepared = [weighted_run(judged) for judged in runs]
    drawn = np.empty((resamples, len(runs), 2, classes))
    for i in progress(range(resamples), "resampling pictures", "resample", total=resamples):
        times = np.bincount(random.integers(count, size=count), minlength=count)
        positives = np.bincount(class_id, times[picture], classes)
        for j, run in enumerate(prepared):
            drawn[i, j] = weighted_ap(run, times, positives)
    return drawn


def _against(first: Judged, other: Judged, names: tuple[str, str], gains: np.ndarray) -> RunComparison:
    """`gains`: (R, 2, C) what the other run is better by in each resample and class."""
    scores = [ClassScores(judged, judged.matches, judged.positives, None) for judged in (first, other)]
    values = [(one.AP, one.AP_at(0)) for one in scores]
    numbers = [_difference(number, values[0][k], values[1][k], gains[:, k]) for k, number in enumerate(("AP", "AP50"))]
    classes = tuple(
        _class_difference(first, class_id, values[0], values[1], gains[:, 0, class_id])
        for class_id in range(first.classes)
    )
    return RunComparison(names[0], names[1], numbers[0], numbers[1], classes)


def _difference(number: str, first: np.ndarray, other: np.ndarray, gains: np.ndarray) -> Difference:
    """From (C,) values of both runs and (R, C) gains of the resamples."""
    before, after = mean_known(first), mean_known(other)
    known = ~np.isnan(gains)
    drawn = np.where(known, gains, 0.0).sum(axis=1)[known.any(axis=1)] / known.sum(axis=1)[known.any(axis=1)]
    if before is None or after is None or not len(drawn):
        return Difference(number, before, after, None, None, None, None, None, False)
    low, high = np.quantile(drawn, INTERVAL).tolist()
    p = sign_p(drawn)
    return Difference(number, before, after, after - before, float(drawn.mean()), low, high, p, p < REAL)


def sign_p(gains: np.ndarray) -> float:
    """Two-sided: twice the share of (R,) resampled gains that have not the sign of most; 0 has neither sign.

    The data themselves count as one more resample on the other side, so that p is never 0: 1,000 resamples cannot
    show less than .002.
    """
    against = min(int((gains <= 0).sum()), int((gains >= 0).sum()))
    return min(1.0, 2 * (against + 1) / (len(gains) + 1))


def _class_difference(
    judged: Judged,
    class_id: int,
    first: tuple[np.ndarray, np.ndarray],
    other: tuple[np.ndarray, np.ndarray],
    gains: np.ndarray,
) -> ClassDifference:
    name, truths = judged.class_name(class_id), int(judged.positives[class_id])
    drawn = gains[~np.isnan(gains)]
    if not truths:
        return ClassDifference(name, 0, None, None, None, None, None, None)
    low, high = np.quantile(drawn, INTERVAL).tolist() if len(drawn) else (None, None)
    before, after = float(first[0][class_id]), float(other[0][class_id])
    gain50 = float(other[1][class_id] - first[1][class_id])
    return ClassDifference(name, truths, before, after, after - before, low, high, gain50)
