"""Kinds of errors and their costs by hand, their laws, TIDE's numbers by hotcoco, the confusion matrix."""

from __future__ import annotations

import numpy as np
import pytest
from analysis_data import CLASSES, box, found, made_set, random_case, truth
from hypothesis import given, settings
from hypothesis import strategies as st

from cspdet.analysis.confusion import confused_pairs, confusion_matrix
from cspdet.analysis.error_types import CLASSIFICATION, LOCALIZATION, classify_errors, measure_errors
from cspdet.analysis.findings import DETECTION_TYPES, ERROR_TYPES
from cspdet.analysis.matched_run import match_results

SEEDS = st.integers(0, 2**32 - 1)
HALF = 51 / 101  # precision 1 up to recall 1/2: the recalls 0, .01 ... .50

TWO_DISCS = [truth("disc", box(0)), truth("disc", box(100))]
FIRST = found("disc", box(0), 0.9)
SECOND = found("disc", box(100), 0.7)

# name: (gt_boxes, detections, counts, AP50, costs); what is not named is 0
CASES = {
    "all correct": (TWO_DISCS, [FIRST, SECOND], {"correct": 2}, 1.0, {}),
    # the second disc is called a bar; called a disc, it is found
    "classification": (
        TWO_DISCS,
        [FIRST, found("bar", box(100), 0.8)],
        {"correct": 1, "classification": 1},
        HALF,
        {"classification": 1 - HALF},
    ),
    # the box of the second disc is off by 4 of 10 pixels: IoU .43
    "localization": (
        TWO_DISCS,
        [FIRST, found("disc", box(104), 0.8)],
        {"correct": 1, "localization": 1},
        HALF,
        {"localization": 1 - HALF},
    ),
    # precision 1, 1/2, 2/3 along the ranks: 2/3 for the 50 recalls above 1/2
    "duplicate": (
        TWO_DISCS,
        [FIRST, found("disc", box(2), 0.8), SECOND],
        {"correct": 2, "duplicate": 1},
        (51 + 50 * 2 / 3) / 101,
        {"duplicate": 50 / 3 / 101},
    ),
    "background": (
        TWO_DISCS,
        [FIRST, found("disc", box(200), 0.8), SECOND],
        {"correct": 2, "background": 1},
        (51 + 50 * 2 / 3) / 101,
        {"background": 50 / 3 / 101},
    ),
    # IoU .053 with the first disc is nothing
    "hardly touching is background": (
        TWO_DISCS,
        [FIRST, found("disc", box(9), 0.8), SECOND],
        {"correct": 2, "background": 1},
        (51 + 50 * 2 / 3) / 101,
        {"background": 50 / 3 / 101},
    ),
    # A bar beside the second disc, IoU .43, before the bar that is found: AP of the bars 1/2. It finds nothing, so
    # that the second disc is missed entirely; without that disc the AP of the discs is 1.
    "both": (
        [*TWO_DISCS, truth("bar", box(0), 20)],
        [FIRST, found("bar", box(104), 0.8), found("bar", box(0), 0.5, 20)],
        {"correct": 2, "both": 1, "missed": 1},
        (HALF + 0.5) / 2,
        {"both": 0.25, "missed": (1 - HALF) / 2},
    ),
    "missed": (TWO_DISCS, [FIRST], {"correct": 1, "missed": 1}, HALF, {"missed": 1 - HALF}),
    "nothing found at all": (TWO_DISCS, [], {"missed": 2}, 0.0, {"missed": 1.0}),
    # The bars are never found; a bar beside the first of them must not hide that. Corrected, it gives the bars the
    # first 34 of the 101 recalls.
    "a class that is never found": (
        [truth("disc", box(0)), *(truth("bar", box(100 * i), 20) for i in range(3))],
        [FIRST, found("bar", box(4), 0.8, 20)],
        {"correct": 1, "localization": 1, "missed": 2},
        0.5,
        {"localization": 34 / 101 / 2, "missed": 2 / 3 / 2},
    ),
    # Both are beside the second disc; one of them can be mended, the other would be a duplicate then and goes.
    "two on one box": (
        TWO_DISCS,
        [FIRST, found("disc", box(104), 0.8), found("disc", box(96), 0.7)],
        {"correct": 1, "localization": 2},
        HALF,
        {"localization": 1 - HALF},
    ),
    # A bar on a disc that is found already: mended it would be a duplicate, so it goes, which costs the bars nothing
    # but what stood behind it: AP of the bars 1/2, without it 1.
    "classification of what is found": (
        [truth("disc", box(0)), truth("bar", box(0), 20)],
        [FIRST, found("bar", box(0), 0.8), found("bar", box(0), 0.5, 20)],
        {"correct": 2, "classification": 1},
        0.75,
        {"classification": 0.25},
    ),
    # a crowd absorbs what lies inside it, and is not to be found
    "crowd": (
        [truth("disc", box(0)), truth("disc", box(200, 0, 60), iscrowd=1)],
        [found("disc", box(210), 0.95), found("disc", box(230), 0.93), FIRST],
        {"correct": 1, "ignored": 2},
        1.0,
        {},
    ),
    # the crowd is of discs only
    "a bar in a crowd of discs": (
        [truth("bar", box(0)), truth("disc", box(200, 0, 60), iscrowd=1)],
        [found("bar", box(210), 0.95), found("bar", box(0), 0.9)],
        {"correct": 1, "background": 1},
        0.5,
        {"background": 0.5},
    ),
}


@pytest.mark.parametrize(("gt_boxes", "results", "counts", "ap", "costs"), CASES.values(), ids=CASES)
def test_kinds_and_costs_by_hand(gt_boxes, results, counts, ap, costs):
    run = match_results(made_set(gt_boxes), results)
    errors = measure_errors(run, classify_errors(run), 0.0)
    measured = {one.error_type: one.count for one in errors.costs}
    measured |= {"correct": errors.correct, "ignored": errors.ignored}
    assert measured == {kind: counts.get(kind, 0) for kind in (*DETECTION_TYPES, *ERROR_TYPES)}
    assert errors.ap == pytest.approx(ap)
    assert {one.error_type: one.ap_cost for one in errors.costs} == pytest.approx(
        {kind: costs.get(kind, 0.0) for kind in ERROR_TYPES}, abs=1e-9
    )


def test_what_all_wrong_detections_and_all_missing_boxes_cost():
    # Precision 1/2 at recall 1/2; the second disc is not found, though a bar lies on it.
    results = [found("disc", box(200), 0.95), FIRST, found("bar", box(100), 0.3)]
    run = match_results(made_set(TWO_DISCS), results)
    errors = measure_errors(run, classify_errors(run), 0.9)
    assert errors.ap == pytest.approx(51 * 0.5 / 101)
    assert errors.false_positive_cost == pytest.approx(HALF - 51 * 0.5 / 101)
    assert errors.false_negative_cost == pytest.approx(0.5 - 51 * 0.5 / 101)
    assert (errors.detected, errors.missed, errors.missed_entirely) == (1, 1, 0)
    # above a score of .9: the first disc and what is on nothing
    assert {one.error_type: one.kept for one in errors.costs if one.kept} == {"background": 1, "missed": 1}
    assert errors.kept_correct == 1


def test_without_boxes_there_is_no_cost():
    run = match_results(made_set([]), [FIRST])
    errors = measure_errors(run, classify_errors(run), 0.0)
    assert errors.ap is None
    assert {one.ap_cost for one in errors.costs} == {None}
    assert [one.count for one in errors.costs] == [0, 0, 0, 0, 1, 0]


@settings(max_examples=40)
@given(SEEDS, st.sampled_from([0.3, 0.5, 0.75]), st.floats(0, 1))
def test_every_detection_has_one_kind_and_every_box_is_found_or_missed(seed, iou, threshold):
    gt_boxes, results = random_case(seed)
    run = match_results(made_set(gt_boxes), results, iou=iou)
    errors = measure_errors(run, classify_errors(run), threshold)
    wrong = errors.costs[:-1]
    assert errors.correct + errors.ignored + sum(one.count for one in wrong) == errors.evaluated == len(results)
    kept = sum(one["score"] >= threshold for one in results)
    assert errors.kept_correct + errors.kept_ignored + sum(one.kept for one in wrong) == kept
    assert errors.detected + errors.missed == errors.num_gt == sum(not one["iscrowd"] for one in gt_boxes)
    assert errors.detected == errors.correct
    assert errors.kept_correct + errors.costs[-1].kept == errors.num_gt
    assert errors.costs[-1].count == errors.missed_entirely <= errors.missed


@settings(max_examples=40)
@given(SEEDS)
def test_tide_by_hotcoco_says_the_same(seed):
    hotcoco = pytest.importorskip("hotcoco")
    gt_boxes, results = random_case(seed, crowds=False, ties=False)
    if not gt_boxes or not results:
        return
    coco = made_set(gt_boxes)
    expected = hotcoco.COCO(str(coco.files.annotations))
    evaluator = hotcoco.COCOeval(expected, expected.load_res(results), "bbox")
    evaluator.evaluate()
    tide = evaluator.tide_errors()
    run = match_results(coco, results)
    error_types = classify_errors(run)
    errors = measure_errors(run, error_types, 0.0)
    names = dict(zip(("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss"), errors.costs, strict=True))
    assert {name: one.count for name, one in names.items()} == tide["counts"]
    assert errors.ap == pytest.approx(tide["ap_base"], abs=1e-9)
    costs = {name: one.ap_cost for name, one in names.items()}
    costs |= {"FP": errors.false_positive_cost, "FN": errors.false_negative_cost}
    # It differs from us on purpose in two places. A box on which errors of both error_types lie is given to one of them
    # only, even where the other alone is repaired; a class of which no box is left has an AP of 0 there, 1 here.
    meant = [
        set(error_types.intended_gt[error_types.detection_type == kind].tolist())
        for kind in (CLASSIFICATION, LOCALIZATION)
    ]
    different = {"Cls", "Loc"} if meant[0] & meant[1] else set()
    left = run.count_gt_per_class(run.is_target & error_types.matched_gt)
    different |= {"Miss", "FN"} if (left[run.num_gt > 0] == 0).any() else set()
    for name in costs.keys() - different:
        assert costs[name] == pytest.approx(tide["delta_ap"][name], abs=1e-9), name


# --- confusion ---------------------------------------------------------------------------------------


def test_confusion_by_hand():
    gt_boxes = [
        truth("disc", box(0)),  # found, although a bar of a better score lies on it too
        truth("disc", box(100)),  # taken for a bar
        truth("bar", box(200)),  # found below the threshold only
        truth("cone", box(300, 0, 50), iscrowd=1),
    ]
    results = [
        found("bar", box(0), 0.95),
        found("disc", box(1), 0.9),
        found("bar", box(101), 0.8),
        found("bar", box(200), 0.3),
        found("cone", box(310), 0.9),  # absorbed
        found("cone", box(50), 0.7),  # on nothing
    ]
    confusion = confusion_matrix(match_results(made_set(gt_boxes), results), 0.5)
    # rows and columns: disc, bar, cone, background
    assert confusion.counts.tolist() == [[1, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0], [0, 1, 1, 0]]
    (pair,) = confused_pairs(match_results(made_set(gt_boxes), results), confusion)
    assert (pair.gt_class, pair.detected_class, pair.count, pair.fraction) == ("disc", "bar", 1, 0.5)


def test_what_is_left_takes_the_box_that_it_overlaps_most_best_score_first():
    gt_boxes = [truth("cone", box(3)), truth("disc", box(0)), truth("cone", box(-3))]
    # The first bar overlaps the disc by 10/10, the cones by 7/13. The second, at the same place, gets what is left.
    results = [found("bar", box(0), 0.6), found("bar", box(0.5), 0.5)]
    run = match_results(made_set(gt_boxes), results)
    assert confusion_matrix(run, 0.55).counts[:-1, 1].tolist() == [1, 0, 0]
    # rows disc, bar, cone: both bars lie on something, the last cone is missed
    assert confusion_matrix(run, 0.0).counts[:-1].tolist() == [[0, 1, 0, 0], [0, 0, 0, 0], [0, 1, 0, 1]]


@settings(max_examples=40)
@given(SEEDS, st.floats(0, 1))
def test_rows_are_the_boxes_and_columns_the_kept_detections(seed, threshold):
    gt_boxes, results = random_case(seed)
    run = match_results(made_set(gt_boxes), results)
    counts = confusion_matrix(run, threshold).counts
    kept = (run.detections.score >= threshold) & ~run.match.ignored
    assert counts[:-1].sum(axis=1).tolist() == run.num_gt.tolist()
    assert counts[:, :-1].sum(axis=0).tolist() == run.count_detections_per_class(kept).tolist()
    assert counts[-1, -1] == 0
    correct = np.bincount(run.detections.class_id[kept & run.match.correct], minlength=len(CLASSES))
    assert np.diag(counts)[:-1].tolist() == correct.tolist()
