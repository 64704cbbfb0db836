"""The analysis matches and averages as pycocotools does, whatever the pictures weigh."""

from __future__ import annotations

import numpy as np
import pytest
from analysis_data import (
    CLASSES,
    IMAGE_IDS,
    box,
    found,
    judged_by_pycocotools,
    made_set,
    pycocotools_precision,
    pycocotools_recall,
    random_case,
    truth,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from cspdet.analysis.arrays import rank_in_group
from cspdet.analysis.breakdown import compute_breakdown
from cspdet.analysis.comparison import prepare_weighted_run, weighted_ap
from cspdet.analysis.matched_run import ClassScores, match_results
from cspdet.analysis.overlaps import detection_pairs, ground_truth_pairs, iou_xywh

SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=25)
@given(SEEDS)
def test_precision_and_recall_are_those_of_pycocotools(seed):
    truths, results = random_case(seed)
    judged = match_results(made_set(truths), results)
    scores = ClassScores(judged, judged.matches, judged.num_gt, None)
    judge_ = judged_by_pycocotools(truths, results)
    np.testing.assert_allclose(scores.precision, pycocotools_precision(judge_), rtol=0, atol=1e-12)
    np.testing.assert_allclose(scores.recall, pycocotools_recall(judge_), rtol=0, atol=1e-12)


@settings(max_examples=20)
@given(SEEDS)
def test_sizes_are_those_of_pycocotools(seed):
    truths, results = random_case(seed)
    judge_ = judged_by_pycocotools(truths, results)
    for index, size in enumerate(compute_breakdown(match_results(made_set(truths), results)).sizes, start=1):
        precision, recall = pycocotools_precision(judge_, index), pycocotools_recall(judge_, index)
        if np.isnan(precision).all():
            assert (size.AP, size.AP50, size.AR100) == (None, None, None)
        else:
            expected = [np.nanmean(precision), np.nanmean(precision[0]), np.nanmean(recall)]
            assert pytest.approx(expected, rel=0, abs=1e-12) == [size.AP, size.AP50, size.AR100]


def test_more_than_a_hundred_detections_are_judged_as_by_pycocotools():
    random = np.random.default_rng(0)
    truths = [truth("bar", box(40.0 * i), area=100.0) for i in range(6)]
    results = [
        found("bar", box(40.0 * (i % 6) + float(random.normal(0, 2))), float(random.random()), 10) for i in range(150)
    ] + [found("disc", box(5.0), 0.5)]
    judged = match_results(made_set(truths), results)
    assert len(judged.detections) == 101  # 100 of the bars, and the disc
    assert judged.detections.class_total.tolist() == [1, 150, 0]
    scores = ClassScores(judged, judged.matches, judged.num_gt, None)
    expected = pycocotools_precision(judged_by_pycocotools(truths, results))
    np.testing.assert_allclose(scores.precision, expected, rtol=0, atol=1e-12)


@settings(max_examples=20)
@given(SEEDS)
def test_with_all_weights_one_the_weighted_ap_is_that_of_pycocotools(seed):
    truths, results = random_case(seed)
    judged = match_results(made_set(truths), results)
    ap, ap50 = weighted_ap(prepare_weighted_run(judged), np.ones(len(IMAGE_IDS)), judged.num_gt)
    expected = pycocotools_precision(judged_by_pycocotools(truths, results)).mean(axis=2)
    np.testing.assert_allclose(ap, expected.mean(axis=0), rtol=0, atol=1e-12)
    np.testing.assert_allclose(ap50, expected[0], rtol=0, atol=1e-12)


@settings(max_examples=20)
@given(SEEDS)
def test_a_picture_that_counts_twice_is_like_a_picture_that_is_there_twice(seed):
    truths, results = random_case(seed, ties=False)
    judged = match_results(made_set(truths), results)
    times = np.random.default_rng(seed).integers(0, 4, len(IMAGE_IDS))  # by rising image id
    ids = sorted(IMAGE_IDS)
    copies = {image_id: [1000 * (k + 1) + image_id for k in range(times[ids.index(image_id)])] for image_id in ids}

    def copied(rows):
        return [{**row, "image_id": copy} for row in rows for copy in copies[row["image_id"]]]

    images = tuple(copy for several in copies.values() for copy in several)
    goals = judged.is_target
    positives = np.bincount(
        judged.ground_truth.class_id[goals], times[judged.ground_truth.image_index[goals]], len(CLASSES)
    )
    ap, ap50 = weighted_ap(prepare_weighted_run(judged), times, positives)
    if not images:
        assert np.isnan(ap).all()
        return
    expected = pycocotools_precision(judged_by_pycocotools(copied(truths), copied(results), images)).mean(axis=2)
    np.testing.assert_allclose(ap, expected.mean(axis=0), rtol=0, atol=1e-12)
    np.testing.assert_allclose(ap50, expected[0], rtol=0, atol=1e-12)


def test_of_equal_overlaps_the_later_box_is_taken_and_a_crowd_only_by_what_no_box_takes():
    # Two boxes at the same place: pycocotools' loop lets the later one win. The crowd lies under everything.
    truths = [
        truth("bar", box(0), iscrowd=1),
        truth("bar", box(0)),
        truth("bar", box(0)),
    ]
    results = [found("bar", box(0), 0.9), found("bar", box(0), 0.8), found("bar", box(0), 0.7)]
    judged = match_results(made_set(truths), [*results, found("bar", box(0), 0.6)])
    assert judged.match.gt_index.tolist() == [2, 1, 0, 0]
    assert judged.match.correct.tolist() == [True, True, False, False]
    assert judged.match.ignored.tolist() == [False, False, True, True]


def test_iou_by_hand():
    one = np.array([[0.0, 0.0, 10.0, 10.0]] * 4)
    other = np.array([[2.0, 0.0, 10.0, 10.0], [4.0, 0.0, 10.0, 10.0], [10.0, 0.0, 5.0, 5.0], [5.0, 0.0, 100.0, 100.0]])
    # 80/120, 60/140, touching is not overlapping, and of a crowd: 50 of the box's own 100
    crowd = np.array([False, False, False, True])
    assert iou_xywh(one, other, crowd).tolist() == pytest.approx([80 / 120, 60 / 140, 0.0, 0.5])
    assert iou_xywh(np.zeros((1, 4)), np.zeros((1, 4)), np.zeros(1, bool)).tolist() == [0.0]


def test_pairs_stay_within_their_picture_and_are_the_same_in_chunks(monkeypatch):
    truths, results = random_case(5)
    judged = match_results(made_set(truths), results)
    whole = detection_pairs(judged.detections, judged.ground_truth, 0.1)
    monkeypatch.setattr("cspdet.analysis.overlaps.MAX_PAIRS_PER_CHUNK", 3)
    parts = detection_pairs(judged.detections, judged.ground_truth, 0.1)
    assert len(whole.iou) > 5
    for one, other in zip(whole, parts, strict=True):
        assert one.tolist() == other.tolist()
    assert (
        judged.detections.image_index[whole.detection_index] == judged.ground_truth.image_index[whole.gt_index]
    ).all()
    keys = whole.detection_index * len(judged.ground_truth) + whole.gt_index
    assert (np.diff(keys) > 0).all()


def test_pairs_of_truths_leave_out_crowds_and_each_with_itself():
    truths = [truth("bar", box(0)), truth("disc", box(2)), truth("bar", box(1), iscrowd=1), truth("bar", box(0), 20)]
    pairs = ground_truth_pairs(match_results(made_set(truths), []).ground_truth, 0.3)
    assert sorted(zip(pairs.detection_index.tolist(), pairs.gt_index.tolist(), strict=True)) == [(0, 1), (1, 0)]


def test_ranks_count_within_runs_of_equals():
    assert rank_in_group(np.array([4, 4, 7, 1, 1, 1])).tolist() == [0, 1, 0, 0, 1, 2]
    assert rank_in_group(np.zeros(0, np.int64)).tolist() == []
