"""COCO numbers that can be worked out by hand, agreement with plain pycocotools, and the traps around it."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluation_data import result, truth, write_set
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cspdet.datasets.coco import CocoSet, load_coco
from cspdet.datasets.descriptor import load_descriptor
from cspdet.errors import DataError
from cspdet.evaluation.coco import NUMBERS, CocoEvaluator, evaluate_results
from cspdet.evaluation.results import cut_results, read_results
from cspdet.evaluation.run import match_classes
from cspdet.types import Classes, Detections


def open_set(folder: Path, annotations: list[dict[str, Any]]) -> CocoSet:
    return load_coco(load_descriptor(write_set(folder, annotations)).split("val"), "val")


def detections(box: list[list[float]], score: list[float], class_id: list[int]) -> Detections:
    return Detections(torch.tensor(box).reshape(-1, 4), torch.tensor(score), torch.tensor(class_id).long())


def test_numbers_worked_out_by_hand(tmp_path):
    # disc: two truths of 20x20 = 400 px2 (small). Best detection: exact. Second: wrong picture. Third: 20x20
    # shifted by 2: shared 18 x 20 = 360, union 440, IoU 0.818: right up to IoU .80, at 7 of 10 thresholds.
    #   IoU .50-.80: precision 1 up to recall 1/2, then 2/3 up to 1: (51 x 1 + 50 x 2/3) / 101 = 0.834983
    #   IoU .85-.95: precision 1 up to recall 1/2: 51 / 101 = 0.504950
    #   AP = (7 x 0.834983 + 3 x 0.504950) / 10 = 0.735974;  AR100 = (7 x 1 + 3 x 1/2) / 10 = 0.85
    # bar has no truth: no number, and no part in the means.
    coco = open_set(tmp_path, [truth(10, 3, [5, 5, 20, 20]), truth(20, 3, [30, 20, 20, 20])])
    evaluator = CocoEvaluator(coco)
    evaluator.add(10, detections([[5, 5, 25, 25]], [0.9], [0]))
    evaluator.add(20, detections([[32, 20, 52, 40]], [0.5], [0]))
    evaluator.add(30, detections([[0, 0, 20, 20]], [0.7], [0]))
    metrics = evaluator.evaluate()
    assert metrics["AP"] == pytest.approx(0.735974, abs=1e-6)
    assert metrics["AP50"] == metrics["AP75"] == pytest.approx(0.834983, abs=1e-6)
    assert metrics["AR100"] == metrics["AR1"] == pytest.approx(0.85)
    assert metrics["APs"] == metrics["AP"]
    assert metrics["APm"] is None
    assert metrics["ARl"] is None
    assert metrics.per_class == {
        "disc": {"AP": metrics["AP"], "AP50": metrics["AP50"]},
        "bar": {"AP": None, "AP50": None},
    }
    assert (metrics.images, metrics.detections) == (3, 3)


def test_json_has_the_promised_keys_and_nulls(tmp_path):
    document = evaluate_results(open_set(tmp_path, [truth(10, 3, [5, 5, 20, 20])]), []).to_json()
    assert set(document) == {*NUMBERS, "per_class", "images", "detections", "evaluator"}
    assert document["AP"] == 0.0, "a truth that nobody found"
    assert json.loads(json.dumps(document))["APl"] is None
    assert document["evaluator"].startswith("pycocotools 2")


def test_nothing_to_find_is_undefined_not_zero(tmp_path):
    metrics = evaluate_results(open_set(tmp_path, []), [result(10, 3, [0, 0, 9, 9], 0.5)])
    assert set(metrics.numbers.values()) == {None}


def test_results_carry_the_original_category_ids_in_pixels_of_the_picture(tmp_path):
    evaluator = CocoEvaluator(open_set(tmp_path, []))
    evaluator.add(20, detections([[1.5, 2, 11.25, 22]], [0.5], [1]))
    assert evaluator.results == [result(20, 17, [1.5, 2.0, 9.75, 20.0], 0.5)]


def test_an_annotation_with_id_0_counts_as_found(tmp_path):
    box = [5, 5, 20, 20]
    coco = open_set(tmp_path, [truth(10, 3, box, id=0, area=400, iscrowd=0), truth(20, 3, box, id=1)])
    metrics = evaluate_results(coco, [result(10, 3, box, 0.9), result(20, 3, box, 0.8)])
    assert metrics["AP"] == pytest.approx(1.0)


def test_size_ranges_go_by_the_area_of_the_annotation(tmp_path):
    # 40x40 = 1600 px2 is medium as a box, but the object's own area of 900 px2 is small.
    coco = open_set(tmp_path, [truth(10, 3, [5, 5, 40, 40], area=900)])
    metrics = evaluate_results(coco, [result(10, 3, [5, 5, 40, 40], 0.9)])
    assert (metrics["APs"], metrics["APm"]) == (pytest.approx(1.0), None)


def test_detections_inside_a_crowd_are_neither_right_nor_wrong(tmp_path):
    coco = open_set(tmp_path, [truth(10, 3, [0, 0, 60, 50], iscrowd=1), truth(20, 3, [5, 5, 20, 20])])
    inside = [result(10, 3, [i, i, 20, 20], 0.9) for i in range(5)]
    assert evaluate_results(coco, [*inside, result(20, 3, [5, 5, 20, 20], 0.5)])["AP"] == pytest.approx(1.0)


def test_standard_output_is_left_alone(tmp_path, capsys):
    evaluate_results(open_set(tmp_path, [truth(10, 3, [5, 5, 20, 20])]), [])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("image_id", "told"), [(11, "not in this set"), (10, "added twice")])
def test_pictures_are_added_once_and_are_known(tmp_path, image_id, told):
    evaluator = CocoEvaluator(open_set(tmp_path, []))
    evaluator.add(10, detections([], [], []))
    with pytest.raises(ValueError, match=told):
        evaluator.add(image_id, detections([], [], []))


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    with pytest.raises(ValueError, match="not finite"):
        CocoEvaluator(open_set(tmp_path, [])).add(10, detections([[0, 0, float("nan"), 5]], [0.5], [0]))


BOX = st.tuples(st.integers(0, 40), st.integers(0, 30), st.integers(3, 40), st.integers(3, 30)).map(list)
PLACE = st.tuples(st.sampled_from([10, 20, 30]), st.sampled_from([3, 17]), BOX)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    truths=st.lists(st.tuples(PLACE, st.booleans()), min_size=1, max_size=12),
    found=st.lists(st.tuples(PLACE, st.integers(1, 20)), min_size=1, max_size=20),
)
def test_agrees_with_pycocotools_used_as_its_authors_do(tmp_path, truths, found):
    annotations = [
        truth(*place, id=i, area=place[2][2] * place[2][3], iscrowd=int(crowd))
        for i, (place, crowd) in enumerate(truths, start=1)
    ]
    results = [result(*place, score / 20) for place, score in found]
    coco = open_set(tmp_path, annotations)
    with contextlib.redirect_stdout(io.StringIO()):
        official = COCO(str(coco.files.annotations))
        judge = COCOeval(official, official.loadRes([dict(one) for one in results]), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    numbers = evaluate_results(coco, results).numbers
    assert [-1 if value is None else value for value in numbers.values()] == judge.stats.tolist()


def written(folder: Path, content: object) -> Path:
    (folder / "found.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return folder / "found.json"


GOOD = result(10, 3, [0, 0, 5, 5], 0.5)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "not JSON"),
        ({"annotations": []}, "expected a list of COCO results, found a dict"),
        ([GOOD, GOOD | {"score": float("nan")}], "finite score: 1 such, the first is result 1: nan"),
        (
            [GOOD | {"bbox": [0, 0, float("inf"), 5]}] * 3,
            "four finite numbers: 3 such, the first is result 0",
        ),
        ([GOOD | {"bbox": [0, 0, 5]}], "four finite numbers: 1 such"),
        ([GOOD | {"bbox": [0, 0, -5, 5]}], "no negative size: 1 such"),
        (
            [GOOD, GOOD | {"image_id": 11}],
            "image id of the annotations: 1 such, the first is result 1: image_id 11",
        ),
        ([GOOD | {"category_id": 1}], "category id of the annotations (3, 17): 1 such"),
        ([{"image_id": 10}], "no 'category_id': 1 such, the first is result 0: has the keys image_id"),
        ([7], "not a result: 1 such"),
    ],
)
def test_results_files_with_mistakes_are_refused_with_the_first_and_the_count(tmp_path, content, told):
    with pytest.raises(DataError) as caught:
        read_results(written(tmp_path, content), open_set(tmp_path, []))
    assert told in str(caught.value)
    assert "found.json" in str(caught.value)


def test_all_kinds_of_mistakes_are_told_at_once(tmp_path):
    path = written(tmp_path, [GOOD | {"image_id": 1}, GOOD | {"category_id": 1}, GOOD | {"score": None}])
    with pytest.raises(DataError) as caught:
        read_results(path, open_set(tmp_path, []))
    assert len(caught.value.problems) == 3


def test_an_empty_results_file_is_legal(tmp_path):
    assert read_results(written(tmp_path, []), open_set(tmp_path, [])) == []


def test_results_are_cut_picture_by_picture():
    results = [result(i, 3, [0, 0, 5, 5], score) for i in (1, 2) for score in (0.1, 0.9, 0.5)]
    assert cut_results(results, None, None) == results
    cut = cut_results(results, 0.1, 2)  # 0.1 is not above 0.1
    assert [(one["image_id"], one["score"]) for one in cut] == [(1, 0.9), (1, 0.5), (2, 0.9), (2, 0.5)]
    assert [one["score"] for one in cut_results(results, None, 1)] == [0.9, 0.9]


def test_classes_match_by_name():
    model = Classes(("disc", "bar"), (3, 17))
    assert match_classes(model, model, "x.json") is None
    assert match_classes(model, Classes(("bar", "disc"), (17, 3)), "x.json") == (1, 0)
    assert match_classes(model, Classes(("disc", "bar"), (0, 1)), "x.json") == (0, 1)


def test_classes_that_differ_are_told_with_what_was_expected_and_found():
    with pytest.raises(DataError) as caught:
        match_classes(Classes(("disc", "bar"), (3, 17)), Classes(("disc", "ring"), (3, 4)), "x.json")
    summary, *problems = caught.value.problems
    assert "expected 2 (3 disc, 17 bar); found 2 (3 disc, 4 ring)" in summary
    assert len(problems) == 2
    assert "'bar'" in problems[0]
    assert "'ring'" in problems[1]


def test_classes_that_share_a_name_cannot_be_matched_by_it():
    with pytest.raises(DataError, match="share a name"):
        match_classes(Classes(("disc", "disc"), (3, 17)), Classes(("disc", "disc"), (3, 4)), "x.json")
