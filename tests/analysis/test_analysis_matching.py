"""The analysis matches and averages as pycocotools does, whatever the images weigh."""

from __future__ import annotations

import numpy as np
import pytest
from analysis_data import (
    CLASSES,
    IMAGE_IDS,
    box,
    evaluate_with_pycocotools,
    found,
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
    gt_boxes, results = random_case(seed)
    run = match_results(made_set(gt_boxes), results)
    scores = ClassScores(run, run.matches, run.num_gt, None)
    evaluator = evaluate_with_pycocotools(gt_boxes, results)
    np.testing.assert_allclose(scores.precision, pycocotools_precision(evaluator), rtol=0, atol=1e-12)
    np.testing.assert_allclose(scores.recall, pycocotools_recall(evaluator), rtol=0, atol=1e-12)


@settings(max_examples=20)
@given(SEEDS)
def test_sizes_are_those_of_pycocotools(seed):
    gt_boxes, results = random_case(seed)
    evaluator = evaluate_with_pycocotools(gt_boxes, results)
    for index, size in enumerate(compute_breakdown(match_results(made_set(gt_boxes), results)).sizes, start=1):
        precision, recall = pycocotools_precision(evaluator, index), pycocotools_recall(evaluator, index)
        if np.isnan(precision).all():
            assert (size.AP, size.AP50, size.AR100) == (None, None, None)
        else:
            expected = [np.nanmean(precision), np.nanmean(precision[0]), np.nanmean(recall)]
            assert pytest.approx(expected, rel=0, abs=1e-12) == [size.AP, size.AP50, size.AR100]


def test_more_than_a_hundred_detections_are_evaluated_as_by_pycocotools():
    random = np.random.default_rng(0)
    gt_boxes = [truth("bar", box(40.0 * i), area=100.0) for i in range(6)]
    results = [
        found("bar", box(40.0 * (i % 6) + float(random.normal(0, 2))), float(random.random()), 10) for i in range(150)
    ] + [found("disc", box(5.0), 0.5)]
    run = match_results(made_set(gt_boxes), results)
    assert len(run.detections) == 101  # 100 of the bars, and the disc
    assert run.detections.class_total.tolist() == [1, 150, 0]
    scores = ClassScores(run, run.matches, run.num_gt, None)
    expected = pycocotools_precision(evaluate_with_pycocotools(gt_boxes, results))
    np.testing.assert_allclose(scores.precision, expected, rtol=0, atol=1e-12)


@settings(max_examples=20)
@given(SEEDS)
def test_with_all_weights_one_the_weighted_ap_is_that_of_pycocotools(seed):
    gt_boxes, results = random_case(seed)
    run = match_results(made_set(gt_boxes), results)
    ap, ap50 = weighted_ap(prepare_weighted_run(run), np.ones(len(IMAGE_IDS)), run.num_gt)
    expected = pycocotools_precision(evaluate_with_pycocotools(gt_boxes, results)).mean(axis=2)
    np.testing.assert_allclose(ap, expected.mean(axis=0), rtol=0, atol=1e-12)
    np.testing.assert_allclose(ap50, expected[0], rtol=0, atol=1e-12)


@settings(max_examples=20)
@given(SEEDS)
def test_an_image_that_counts_twice_is_like_an_image_that_is_there_twice(seed):
    gt_boxes, results = random_case(seed, ties=False)
    run = match_results(made_set(gt_boxes), results)
    times = np.random.default_rng(seed).integers(0, 4, len(IMAGE_IDS))  # by rising image id
    ids = sorted(IMAGE_IDS)
    copies = {image_id: [1000 * (k + 1) + image_id for k in range(times[ids.index(image_id)])] for image_id in ids}

    def copied(rows):
        return [{**row, "image_id": copy} for row in rows for copy in copies[row["image_id"]]]

    images = tuple(copy for several in copies.values() for copy in several)
    is_target = run.is_target
    positives = np.bincount(
        run.ground_truth.class_id[is_target], times[run.ground_truth.image_index[is_target]], len(CLASSES)
    )
    ap, ap50 = weighted_ap(prepare_weighted_run(run), times, positives)
    if not images:
        assert np.isnan(ap).all()
        return
    expected = pycocotools_precision(evaluate_with_pycocotools(copied(gt_boxes), copied(results), images)).mean(axis=2)
    np.testing.assert_allclose(ap, expected.mean(axis=0), rtol=0, atol=1e-12)
    np.testing.assert_allclose(ap50, expected[0], rtol=0, atol=1e-12)


def test_of_equal_overlaps_the_later_box_is_taken_and_a_crowd_only_by_what_no_box_takes():
    # Two boxes at the same place: pycocotools' loop lets the later one win. The crowd lies under everything.
    gt_boxes = [
        truth("bar", box(0), iscrowd=1),
        truth("bar", box(0)),
        truth("bar", box(0)),
    ]
    results = [found("bar", box(0), 0.9), found("bar", box(0), 0.8), found("bar", box(0), 0.7)]
    run = match_results(made_set(gt_boxes), [*results, found("bar", box(0), 0.6)])
    assert run.match.gt_index.tolist() == [2, 1, 0, 0]
    assert run.match.correct.tolist() == [True, True, False, False]
    assert run.match.ignored.tolist() == [False, False, True, True]


def test_iou_by_hand():
    one = np.array([[0.0, 0.0, 10.0, 10.0]] * 4)
    other = np.array([[2.0, 0.0, 10.0, 10.0], [4.0, 0.0, 10.0, 10.0], [10.0, 0.0, 5.0, 5.0], [5.0, 0.0, 100.0, 100.0]])
    # 80/120, 60/140, touching is not overlapping, and of a crowd: 50 of the box's own 100
    crowd = np.array([False, False, False, True])
    assert iou_xywh(one, other, crowd).tolist() == pytest.approx([80 / 120, 60 / 140, 0.0, 0.5])
    assert iou_xywh(np.zeros((1, 4)), np.zeros((1, 4)), np.zeros(1, bool)).tolist() == [0.0]


def test_pairs_stay_within_their_image_and_are_the_same_in_chunks(monkeypatch):
    gt_boxes, results = random_case(5)
    run = match_results(made_set(gt_boxes), results)
    whole = detection_pairs(run.detections, run.ground_truth, 0.1)
    monkeypatch.setattr("cspdet.analysis.overlaps.MAX_PAIRS_PER_CHUNK", 3)
    parts = detection_pairs(run.detections, run.ground_truth, 0.1)
    assert len(whole.iou) > 5
    for one, other in zip(whole, parts, strict=True):
        assert one.tolist() == other.tolist()
    assert (run.detections.image_index[whole.detection_index] == run.ground_truth.image_index[whole.gt_index]).all()
    keys = whole.detection_index * len(run.ground_truth) + whole.gt_index
    assert (np.diff(keys) > 0).all()


def test_pairs_of_gt_boxes_leave_out_crowds_and_each_with_itself():
    gt_boxes = [truth("bar", box(0)), truth("disc", box(2)), truth("bar", box(1), iscrowd=1), truth("bar", box(0), 20)]
    pairs = ground_truth_pairs(match_results(made_set(gt_boxes), []).ground_truth, 0.3)
    assert sorted(zip(pairs.detection_index.tolist(), pairs.gt_index.tolist(), strict=True)) == [(0, 1), (1, 0)]


def test_ranks_count_within_runs_of_equals():
    assert rank_in_group(np.array([4, 4, 7, 1, 1, 1])).tolist() == [0, 1, 0, 0, 1, 2]
    assert rank_in_group(np.zeros(0, np.int64)).tolist() == []
