"""Runs against each other: no difference with oneself, a clear one found, a lucky one not believed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from analysis_data import CLASSES, box, found, made_set, truth

from cspdet.analysis.comparison import compare, sign_test_p_value, with_changed_images
from cspdet.analysis.matched_run import match_results
from cspdet.analysis.summary import comparison_summary
from cspdet.errors import DataError

IMAGE_IDS = tuple(range(1, 41))


def forty_images(hit_fraction: float, seed: int = 0):
    """A disc in each of 40 images; a share of them found, all with a wrong detection of a middling score."""
    random = np.random.default_rng(seed)
    coco = made_set([truth("disc", box(0), image_id) for image_id in IMAGE_IDS], images=IMAGE_IDS)
    results = [found("disc", box(200), 0.5, image_id) for image_id in IMAGE_IDS]
    results += [
        found("disc", box(0), float(random.uniform(0.3, 0.9)), image_id)
        for image_id in IMAGE_IDS
        if random.random() < hit_fraction
    ]
    return coco, match_results(coco, results)


def test_a_run_does_not_differ_from_itself():
    _, run = forty_images(0.7)
    comparison = compare([run, run], ["a", "b"], resamples=50)
    (one,) = comparison.against_first
    for number in (one.AP, one.AP50):
        assert (number.difference, number.mean, number.low, number.high) == (0.0, 0.0, 0.0, 0.0)
        assert (number.p_value, number.significant) == (1.0, False)
        assert number.verdict == "no significant difference"
    assert {part.difference for part in one.classes} == {0.0, None}


def test_a_clearly_worse_run_is_significant():
    good, bad = forty_images(1.0)[1], forty_images(0.4)[1]
    comparison = compare([good, bad], ["good", "bad"], resamples=300)
    ap = comparison.against_first[0].AP
    assert ap.difference < -0.2
    assert ap.low <= ap.mean <= ap.high < 0
    assert ap.p_value == pytest.approx(2 / 301)  # no resample has the other sign
    assert ap.verdict == "significant difference"
    assert json.loads(json.dumps(comparison.to_json()))["verdicts"][0]["AP"] == "significant difference"
    assert any("significant difference" in line for line in comparison_summary(comparison))
    disc, bar, _ = comparison.against_first[0].classes
    assert (disc.name, disc.num_gt, disc.difference) == ("disc", 40, pytest.approx(ap.difference))
    assert disc.low == pytest.approx(ap.low)
    assert (bar.num_gt, bar.difference, bar.low) == (0, None, None)


def test_changed_images_are_those_with_other_errors():
    """Image 1 loses its disc, image 2 gains one; in image 3 both find the disc with other scores."""
    images = (1, 2, 3)
    coco = made_set([truth("disc", box(0), image_id) for image_id in images], images=images)
    before = [found("disc", box(0), 0.9, 1), found("disc", box(0), 0.8, 3)]
    after = [found("disc", box(0), 0.9, 2), found("disc", box(0), 0.6, 3), found("bar", box(100), 0.7, 1)]
    runs = [match_results(coco, results) for results in (before, after)]
    comparison = with_changed_images(compare(runs, ["a", "b"], resamples=2), runs, (0.5, 0.5), 9)
    changed = comparison.against_first[0].changed_images
    # one missed box and a wrong detection of .7 more in image 1, one missed box less in image 2
    assert [(one.before.image_id, one.before.error_score, one.after.error_score) for one in changed] == [
        (1, 0.0, pytest.approx(1.7)),
        (2, 1.0, 0.0),
    ]
    assert [one.after.annotations[0].score for one in changed] == [None, 0.9]
    (one,) = with_changed_images(comparison, runs, (0.5, 0.5), 1).against_first[0].changed_images
    assert one.before.image_id == 1
    # at a threshold of .7 the other run misses the disc of image 3, too
    higher = with_changed_images(comparison, runs, (0.5, 0.7), 9).against_first[0].changed_images
    assert [one.before.image_id for one in higher] == [1, 2, 3]


def test_one_image_more_of_forty_is_no_difference():
    coco, run = forty_images(0.5)
    missing = sorted(set(range(40)) - set(run.detections.image_index[run.match.correct].tolist()))
    results = [
        found("disc", row.tolist(), float(score), IMAGE_IDS[image])
        for row, score, image in zip(
            run.detections.box_xywh, run.detections.score, run.detections.image_index.tolist(), strict=True
        )
    ]
    # one box more, and one of the others less sure
    other = match_results(coco, [*results[1:], found("disc", box(0), 0.31, IMAGE_IDS[missing[0]])])
    ap = compare([run, other], ["a", "b"], resamples=200).against_first[0].AP
    assert ap.difference != 0
    assert not ap.significant


def test_draws_are_the_same_for_a_seed_and_others_for_another():
    good, bad = forty_images(1.0)[1], forty_images(0.6)[1]
    first, again, other = (compare([good, bad], ["a", "b"], resamples=20, seed=seed) for seed in (3, 3, 4))
    assert first.against_first == again.against_first
    assert first.against_first[0].AP.mean != other.against_first[0].AP.mean


def test_the_share_of_the_other_sign_by_hand():
    # 1 of 9 has the other sign, counted with one more on that side: 2 * 2 / 10
    assert sign_test_p_value(np.array([1.0] * 8 + [-1.0])) == pytest.approx(0.4)
    assert sign_test_p_value(np.array([-1.0] * 9)) == pytest.approx(0.2)
    assert sign_test_p_value(np.zeros(9)) == 1.0


def test_runs_on_other_images_are_refused():
    _, run = forty_images(1.0)
    other = match_results(made_set([truth("disc", box(0), 10)]), [])
    with pytest.raises(DataError, match="other: expected the images"):
        compare([run, other], ["first", "other"], resamples=1)


def test_without_boxes_there_is_nothing_to_compare():
    run = match_results(made_set([]), [found("disc", box(0), 0.5)])
    one = compare([run, run], ["a", "b"], resamples=3).against_first[0]
    assert (one.AP.difference, one.AP.verdict) == (None, "no ground truth to compare on")
    assert [part.name for part in one.classes] == list(CLASSES)


def test_boxes_count_as_often_as_their_images():
    # Whatever is drawn, all boxes that are there are found by one run and none by the other.
    gt_boxes = [truth("disc", box(0), 10), *(truth("disc", box(x), 20) for x in (0, 50, 100))]
    results = [found("disc", one["bbox"], 0.9, one["image_id"]) for one in gt_boxes]
    coco = made_set(gt_boxes, images=(10, 20))
    ap = (
        compare([match_results(coco, results), match_results(coco, [])], ["all", "none"], resamples=30)
        .against_first[0]
        .AP
    )
    assert (ap.mean, ap.low, ap.high) == pytest.approx((-1.0, -1.0, -1.0))
