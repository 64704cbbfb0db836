"""Curves, thresholds, calibration, sizes, crowding, label_issues and worst images, by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from analysis_data import CLASSES, box, found, made_set, random_case, truth
from hypothesis import given, settings
from hypothesis import strategies as st

from cspdet.analysis.breakdown import compute_breakdown
from cspdet.analysis.build import analyze_results
from cspdet.analysis.calibration import calibrate, calibration_error
from cspdet.analysis.matched_run import match_results
from cspdet.analysis.structures import as_json
from cspdet.analysis.summary import full_summary, short_summary
from cspdet.analysis.thresholds import best_operating_point, operating_point_at, threshold_curves
from cspdet.io.tables import Table

SEEDS = st.integers(0, 2**32 - 1)


# --- the whole ---------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(SEEDS)
def test_the_parts_of_an_analysis_agree_with_the_evaluator(seed):
    gt_boxes, results = random_case(seed)
    analysis = analyze_results(made_set(gt_boxes), results, name="made")

    def mean(values):
        known = [value for value in values if value is not None]
        return pytest.approx(np.mean(known), rel=0, abs=1e-12) if known else None

    for number in ("AP", "AP50", "AP75", "AR100"):
        assert analysis.stats[number] == mean(getattr(one, number) for one in analysis.classes), number
    for curve, number in zip(analysis.precision_recall, ("AP50", "AP75"), strict=True):
        assert [None if np.isnan(row[0]) else row.mean() for row in curve.per_class] == [
            None if getattr(one, number) is None else pytest.approx(getattr(one, number), rel=0, abs=1e-12)
            for one in analysis.classes
        ]
    assert [size.AP for size in analysis.breakdown.sizes] == [
        None if analysis.stats[name] is None else pytest.approx(analysis.stats[name], rel=0, abs=1e-12)
        for name in ("APs", "APm", "APl")
    ]
    assert analysis.detections == sum(one.detections for one in analysis.classes) == len(results)
    assert sum(one.at_threshold.correct for one in analysis.classes) == analysis.at_threshold.correct
    assert sum(one.count for one in analysis.calibration.bins) == len(results) - analysis.errors.ignored
    assert json.loads(json.dumps(analysis.to_json(), allow_nan=False))["name"] == "made"
    assert len(short_summary(analysis)) <= 8


@settings(max_examples=15)
@given(SEEDS)
def test_counts_by_threshold_are_those_of_the_other_parts(seed):
    gt_boxes, results = random_case(seed)
    analysis = analyze_results(made_set(gt_boxes), results, name="made")
    counts, errors, names = (
        analysis.threshold_counts,
        analysis.errors,
        [one.error_type for one in analysis.errors.costs],
    )
    assert (np.diff(counts.threshold) > 0).all()
    assert all((np.diff(rows) <= 0).all() for rows in counts.counts.values())
    lowest = {name: int(rows[:, 0].sum()) for name, rows in counts.counts.items()}  # at 0, below every score
    assert [lowest[name] for name in names[:-1]] == [one.count for one in errors.costs[:-1]]
    assert (lowest["correct"], lowest["ignored"]) == (errors.correct, errors.ignored)
    at = int(np.searchsorted(counts.threshold, analysis.threshold))
    assert counts.threshold[at] == analysis.threshold
    kept = {name: rows[:, at] for name, rows in counts.counts.items()}
    assert [int(kept[name].sum()) for name in names[:-1]] == [one.kept for one in errors.costs[:-1]]
    assert kept["correct"].tolist() == [one.at_threshold.correct for one in analysis.classes]
    grid = np.searchsorted(counts.threshold, analysis.thresholds.threshold)
    recall = counts.counts["correct"][:, grid].sum(axis=0) / max(counts.num_gt.sum(), 1)
    assert recall == pytest.approx(analysis.thresholds.recall)


def test_nothing_found_and_nothing_to_find():
    for gt_boxes, results in (([truth("disc", box(0))], []), ([], [found("disc", box(0), 0.5)]), ([], [])):
        analysis = analyze_results(made_set(gt_boxes), results, name="empty")
        json.dumps(analysis.to_json(), allow_nan=False)
        assert full_summary(analysis)
        assert short_summary(analysis)
        assert analysis.label_issues.totals == (0, 0, len(gt_boxes))
        assert len(analysis.worst_images) == bool(gt_boxes or results)


def test_a_given_threshold_is_used_and_said():
    results = [found("disc", box(0), 0.9), found("disc", box(100), 0.4)]
    analysis = analyze_results(made_set([truth("disc", box(0))]), results, name="a", min_score=0.3)
    assert (analysis.threshold, analysis.threshold_is_best) == (0.3, False)
    assert analysis.at_threshold.kept == analysis.confusion.counts[:, :-1].sum() == 2
    assert analysis.thresholds.best_f1_point.threshold == 0.9


def test_json_knows_what_it_can_hold():
    assert as_json((1, np.float64(0.5), math.nan, np.array([[1.0, math.inf]]), {"a": np.int64(3)}, None)) == [
        1,
        0.5,
        None,
        [[1.0, None]],
        {"a": 3},
        None,
    ]
    with pytest.raises(TypeError):
        as_json({1, 2})


# --- thresholds --------------------------------------------------------------------------------------


def test_the_best_threshold_by_hand():
    score, correct = np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, False])
    # Of 3 boxes: F1 2/(1+3) = .5, 2/(2+3) = .4, 4/(3+3) = .667, 4/(4+3) = .571
    best = best_operating_point(score, correct, 3)
    assert (best.threshold, best.correct, best.kept) == (0.7, 2, 3)
    assert (best.precision, best.recall, best.f1) == pytest.approx((2 / 3, 2 / 3, 2 / 3))


def test_equal_scores_are_kept_together():
    # The correct one alone would be F1 1, but what has the same score comes with it.
    best = best_operating_point(np.array([0.5, 0.5]), np.array([True, False]), 1)
    assert (best.threshold, best.kept, best.f1) == (0.5, 2, pytest.approx(2 / 3))


def test_where_nothing_is_correct_the_best_threshold_is_a_half():
    best = best_operating_point(np.array([0.7]), np.array([False]), 4)
    assert (best.threshold, best.precision, best.recall, best.f1) == (0.5, 0.0, 0.0, 0.0)
    nothing = best_operating_point(np.zeros(0), np.zeros(0, bool), 0)
    assert (nothing.threshold, nothing.precision, nothing.recall, nothing.f1) == (0.5, None, None, None)


@settings(max_examples=40)
@given(SEEDS)
def test_no_threshold_is_better_than_the_best_and_curves_are_what_thresholds_give(seed):
    gt_boxes, results = random_case(seed)
    run = match_results(made_set(gt_boxes), results)
    curves = threshold_curves(run)
    counted = ~run.match.ignored
    score, correct = run.detections.score[counted], run.match.correct[counted]
    total = int(run.num_gt.sum())
    for i in (0, 10, 33, 70, 100):
        at = operating_point_at(float(curves.threshold[i]), score, correct, total)
        values = (curves.precision[i], curves.recall[i], curves.f1[i])
        assert [None if np.isnan(v) else v for v in values] == pytest.approx([at.precision, at.recall, at.f1])
    if total:
        rivals = [operating_point_at(float(threshold), score, correct, total).f1 for threshold in np.unique(score)]
        assert curves.best_f1_point.f1 == pytest.approx(max([0.0, *rivals]))


def test_scores_beyond_one_stretch_the_curves():
    run = match_results(made_set([truth("disc", box(0))]), [found("disc", box(0), 7.0)])
    curves = threshold_curves(run)
    assert (curves.threshold[0], curves.threshold[-1], curves.recall[-1]) == (0.0, 7.0, 1.0)
    assert calibrate(run, 0.5).bins[-1].count == 1


# --- calibration -------------------------------------------------------------------------------------


def test_calibration_by_hand():
    # .3 starts its bin; of the three in [.3, .4) one is correct: |.9 + .0 - 1|... sums of scores 1.0, correct 1.
    gt_boxes = [truth("disc", box(0)), truth("disc", box(100))]
    results = [
        found("disc", box(0), 0.95),
        found("disc", box(100), 0.3),
        found("disc", box(200), 0.34),
        found("bar", box(250), 0.36),
    ]
    calibration = calibrate(match_results(made_set(gt_boxes), results), 0.9)
    low = calibration.bins[3]
    assert (low.low, low.high, low.count) == (0.3, 0.4, 3)
    assert (low.mean_score, low.accuracy) == pytest.approx((1 / 3, 1 / 3))
    assert [one.count for one in calibration.bins] == [0, 0, 0, 3, 0, 0, 0, 0, 0, 1]
    # 3/4 of the detections are off by 0, 1/4 by .05
    assert calibration.ece == pytest.approx(0.0125)
    assert calibration.kept_ece == pytest.approx(0.05)
    assert calibration.bins[0].mean_score is None


def test_calibration_of_nothing_and_of_all_wrong():
    assert calibration_error(np.zeros(0), np.zeros(0, bool)) is None
    assert calibration_error(np.array([0.8, 0.8]), np.array([False, False])) == pytest.approx(0.8)


# --- sizes and crowding ------------------------------------------------------------------------------


def test_sizes_and_quarters_by_hand():
    sides = [10, 20, 30, 40, 50, 60, 70, 80]  # squares: 3 below 32 pixels, 5 below 96
    gt_boxes = [truth("disc", box(0, 0, side), image) for side, image in zip(sides, [10, 20] * 4, strict=True)]
    gt_boxes = [{**one, "bbox": [80 * (i // 2), 0, *one["bbox"][2:]]} for i, one in enumerate(gt_boxes)]
    results = [
        {**found("disc", one["bbox"], 0.9), "image_id": one["image_id"]} for one in gt_boxes if one["bbox"][2] > 45
    ]
    parts = compute_breakdown(match_results(made_set(gt_boxes), results))
    # An AP of 1 up to a recall of 4/5 is 81 of 101 recalls.
    assert [(one.name, one.num_gt, one.AP) for one in parts.sizes] == [
        ("small", 3, 0.0),
        ("medium", 5, pytest.approx(81 / 101)),
        ("large", 0, None),
    ]
    assert [(one.num_gt, one.AR100) for one in parts.quartiles] == [(2, 0.0), (2, 0.0), (2, 1.0), (2, 1.0)]
    assert [(one.low, one.high) for one in parts.quartiles] == [(0, 30), (30, 50), (50, 70), (70, None)]


def test_crowding_by_hand():
    # Images with 1, 2 and 4 boxes; all are found but one of the four. Two of the four overlap by 8/12.
    gt_boxes = [truth("disc", box(0), 10)]
    gt_boxes += [truth("disc", box(x), 20) for x in (0, 100)]
    gt_boxes += [truth("disc", box(x), 30) for x in (0, 2, 100, 200)]
    results = [found("disc", one["bbox"], 0.9, one["image_id"]) for one in gt_boxes if one is not gt_boxes[4]]
    parts = compute_breakdown(match_results(made_set(gt_boxes), results))
    assert [(one.name, one.low, one.high, one.images, one.num_gt) for one in parts.image_groups] == [
        ("few", 1, 1, 1, 1),
        ("middle", 2, 2, 1, 2),
        ("many", 4, 4, 1, 4),
    ]
    # 3 of 4: an AP of 1 up to a recall of .75, which are 76 of 101
    assert [one.AP for one in parts.image_groups] == pytest.approx([1.0, 1.0, 76 / 101])
    assert [(one.name, one.num_gt, one.recall, one.AR100) for one in parts.overlap_groups] == [
        ("overlapped", 2, 0.5, 0.5),
        ("alone", 5, 1.0, 1.0),
    ]


def test_images_with_as_many_boxes_are_one_group():
    parts = compute_breakdown(match_results(made_set([truth("disc", box(0), image) for image in (10, 20, 30)]), []))
    assert [(one.name, one.images) for one in parts.image_groups] == [("few", 3)]
    assert compute_breakdown(match_results(made_set([]), [])).image_groups == ()


# --- label_issues and worst images -----------------------------------------------------------------------


def test_each_type_of_label_issue_is_found():
    gt_boxes = [
        truth("disc", box(0), 10),
        truth("disc", box(0), 20),  # a bar by a confident detection
        truth("cone", box(100), 20),  # seen by nothing but a score of .01
        truth("disc", box(200), 20),  # both a bar and a disc lie on it: no doubt about the label
    ]
    results = [
        found("disc", box(0), 0.8, 10),
        found("bar", box(150), 0.95, 10),  # on nothing, confident
        found("bar", box(250), 0.99, 10),  # and more so
        found("bar", box(350), 0.3, 10),  # not confident
        found("bar", box(1), 0.9, 20),  # IoU 9/11 = .82
        found("cone", box(100), 0.01, 20),
        found("disc", box(200), 0.8, 20),
        found("bar", box(200), 0.9, 20),
    ]
    # The best F1 keeps from .8 on, and all correct detections of a score worth the name have .8.
    label_issues = analyze_results(made_set(gt_boxes), results, name="a").label_issues
    assert label_issues.min_score == pytest.approx(0.8)
    assert label_issues.totals == (2, 1, 1)
    missing, also_missing, wrong, there = label_issues.issues
    assert (missing.issue_type, missing.image_id, missing.box_xywh, missing.score) == (
        "missing box",
        10,
        (250.0, 0.0, 10.0, 10.0),
        0.99,
    )
    assert also_missing.score == 0.95
    assert (wrong.issue_type, wrong.class_name, wrong.annotated_class, wrong.iou) == (
        "wrong class",
        "bar",
        "disc",
        pytest.approx(9 / 11),
    )
    assert (there.issue_type, there.class_name, there.file_name, there.score) == (
        "spurious box",
        "cone",
        "20.png",
        None,
    )


def test_label_issues_name_images_by_their_row_in_the_set():
    coco = made_set([truth("disc", box(0), 20)])
    (there,) = analyze_results(coco, [], name="a").label_issues.issues
    assert coco.image_id[there.dataset_index] == 20
    assert coco.name(there.dataset_index) == there.file_name


def test_the_worst_images_by_hand():
    gt_boxes = [truth("disc", box(0), 10), truth("disc", box(100), 10), truth("disc", box(0), 20)]
    results = [
        found("disc", box(0), 0.9, 10),
        found("bar", box(100), 0.8, 10),  # classification, and the disc is missed: 1.8
        found("disc", box(0), 0.9, 20),
        found("disc", box(1), 0.7, 20),  # duplicate: .7
        found("bar", box(300), 0.2, 30),  # below the threshold
        found("cone", box(110), 0.95, 30),  # inside the crowd, no error
    ]
    gt_boxes.append(truth("cone", box(100, 0, 60), 30, iscrowd=1))
    worst = analyze_results(made_set(gt_boxes), results, name="a", min_score=0.5).worst_images
    assert [(one.image_id, one.error_score, one.missed, one.wrong) for one in worst] == [
        (10, pytest.approx(1.8), 1, 1),
        (20, pytest.approx(0.7), 0, 1),
    ]
    assert [one.detected for one in worst[0].annotations] == [True, False]
    assert [(one.class_name, one.detection_type) for one in worst[0].detections] == [
        ("disc", "correct"),
        ("bar", "classification"),
    ]
    assert [one.detection_type for one in worst[1].detections] == ["correct", "duplicate"]
    assert analyze_results(made_set(gt_boxes), results, name="a", min_score=0.5, gallery=1).worst_images == worst[:1]


def test_summaries_name_the_costliest_error_first():
    gt_boxes = [truth("disc", box(0)), truth("disc", box(100)), truth("bar", box(200))]
    results = [found("disc", box(0), 0.9), found("bar", box(100), 0.8), found("bar", box(200), 0.7)]
    analysis = analyze_results(made_set(gt_boxes), results, name="mine")
    lines = full_summary(analysis)
    assert str(lines[0]).startswith("mine: AP ")
    (table,) = [line for line in lines if isinstance(line, Table)]
    error_types = [row[0] for row in table.rows]
    costs = {one.error_type: one.ap_cost for one in analysis.errors.costs}
    assert error_types[0] == "classification"
    assert [costs[kind] for kind in error_types] == sorted(costs.values(), reverse=True)
    assert "  disc detected as bar: 1 (50% of its boxes)" in lines
    assert any("lost to classification (correct box, wrong class): 1" in line for line in short_summary(analysis))
    assert set(analysis.class_names) == set(CLASSES)


def test_classes_that_are_never_detected_are_named_on_top():
    gt_boxes = [truth("disc", box(0)), truth("bar", box(100)), truth("bar", box(200))]
    results = [found("disc", box(0), 0.9), found("bar", box(104), 0.8)]
    analysis = analyze_results(made_set(gt_boxes), results, name="mine")
    assert full_summary(analysis)[2] == short_summary(analysis)[2] == "never detected at IoU 0.5: bar (2 boxes)"
    found_all = [*results, found("bar", box(100), 0.1)]
    assert "never detected" not in "\n".join(
        map(str, full_summary(analyze_results(made_set(gt_boxes), found_all, name="a")))
    )
