"""COCO numbers that can be worked out by hand, the traps around them, and results files good and bad."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluation_data import result, truth, write_set
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cspdet.datasets.descriptor import load_dataset_config
from cspdet.datasets.formats.coco import CocoDataset, load_coco
from cspdet.errors import DataError
from cspdet.evaluation.coco import METRIC_NAMES, CocoEvaluator, evaluate_results
from cspdet.evaluation.detection import match_classes
from cspdet.evaluation.results import clip_results, filter_results, read_results
from cspdet.structures import Categories, Detections


def open_set(folder: Path, annotations: list[dict[str, Any]]) -> CocoDataset:
    return load_coco(load_dataset_config(write_set(folder, annotations)).split("val"), "val")


@pytest.fixture
def empty(tmp_path: Path) -> CocoDataset:
    """The set without annotations."""
    return open_set(tmp_path, [])


def detections(box: list[list[float]], score: list[float], class_id: list[int]) -> Detections:
    return Detections(torch.tensor(box).reshape(-1, 4), torch.tensor(score), torch.tensor(class_id).long())


def test_numbers_computed_by_hand(tmp_path):
    # disc: two ground_truth of 20x20 = 400 px2 (small). Best detection: exact. Second: wrong image. Third: 20x20
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
    coco = open_set(tmp_path, [truth(10, 3, [5, 5, 20, 20])])
    document = evaluate_results(coco, [], evaluator="pycocotools").to_json()
    assert set(document) == {*METRIC_NAMES, "per_class", "images", "detections", "evaluator"}
    assert document["AP"] == 0.0, "a truth that nobody found"
    assert json.loads(json.dumps(document))["APl"] is None
    assert document["evaluator"].startswith("pycocotools 2")


def test_nothing_to_find_is_undefined_not_zero(tmp_path):
    metrics = evaluate_results(open_set(tmp_path, []), [result(10, 3, [0, 0, 9, 9], 0.5)])
    assert set(metrics.stats.values()) == {None}


def test_results_carry_the_original_category_ids_in_pixels_of_the_image(tmp_path):
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


def test_a_negative_area_is_replaced_by_that_of_the_box(tmp_path):
    coco = open_set(tmp_path, [truth(10, 3, [5, 5, 40, 40], area=-1)])
    metrics = evaluate_results(coco, [result(10, 3, [5, 5, 40, 40], 0.9)])
    assert (metrics["AP"], metrics["APm"]) == (pytest.approx(1.0), pytest.approx(1.0))


def test_detections_inside_a_crowd_are_neither_right_nor_wrong(tmp_path):
    coco = open_set(tmp_path, [truth(10, 3, [0, 0, 60, 50], iscrowd=1), truth(20, 3, [5, 5, 20, 20])])
    inside = [result(10, 3, [i, i, 20, 20], 0.9) for i in range(5)]
    assert evaluate_results(coco, [*inside, result(20, 3, [5, 5, 20, 20], 0.5)])["AP"] == pytest.approx(1.0)


def test_detections_are_held_in_56_bytes_each_and_images_in_none(tmp_path):
    evaluator = CocoEvaluator(open_set(tmp_path, []))
    evaluator.add(10, detections([], [], []))
    assert evaluator.records.nbytes == 0
    evaluator.add(20, detections([[0, 0, 5, 5]] * 7, [0.5] * 7, [1] * 7))
    evaluator.add(30, detections([], [], []))
    assert evaluator.records.nbytes == 7 * 56


@pytest.mark.parametrize(("image_id", "message"), [(11, "not in this dataset"), (10, "added twice")])
def test_images_are_added_once_and_are_known(tmp_path, image_id, message):
    evaluator = CocoEvaluator(open_set(tmp_path, []))
    evaluator.add(10, detections([], [], []))
    with pytest.raises(ValueError, match=message):
        evaluator.add(image_id, detections([], [], []))


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    with pytest.raises(ValueError, match="not finite"):
        CocoEvaluator(open_set(tmp_path, [])).add(10, detections([[0, 0, float("nan"), 5]], [0.5], [0]))


def written(folder: Path, content: object) -> Path:
    """A results file of these bytes, this text, or this value as JSON."""
    if not isinstance(content, bytes):
        content = (content if isinstance(content, str) else json.dumps(content)).encode()
    (folder / "found.json").write_bytes(content)
    return folder / "found.json"


GOOD = result(10, 3, [0, 0, 5, 5], 0.5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "found.json:1:2: not JSON: "),
        ("", "the file is empty; expected a JSON list of COCO results"),
        (" \n", "the file is empty"),
        (b"\x1f\x8b\x08\x00", "gzip-compressed; unpack it first"),
        (b"PK\x03\x04rest", "a zip archive; unpack it first"),
        (b"[\xff]", "not JSON: byte 1 is not utf-8 text"),
        ("[" * 100_000, "not JSON: "),
        ("[" + "9" * 5000 + "]", "not JSON: "),
        (7, "[{image_id, category_id, bbox, score}, ...], found 7"),
        (GOOD, "found a single result outside of a list"),
        ({"results": [GOOD]}, "found a dict with the keys results"),
        ({"images": [], "annotations": []}, "found a dict with the keys images, annotations (annotations?)"),
        ([GOOD, GOOD | {"score": float("nan")}], "finite score: 1 such, the first is result 1: nan"),
        ([GOOD | {"score": float("-inf")}], "finite score: 1 such, the first is result 0: -inf"),
        ([GOOD | {"score": True}], "finite score: 1 such, the first is result 0: True"),
        ([GOOD | {"score": "0.5"}], "finite score: 1 such, the first is result 0: '0.5'"),
        ([GOOD | {"score": 10**400}], "finite score: 1 such, the first is result 0: 1000"),
        (
            [GOOD | {"bbox": [0, 0, float("inf"), 5]}] * 3,
            "four finite numbers: 3 such, the first is result 0: [0.0, 0.0, inf, 5.0]",
        ),
        # Some mistakes show while the file is parsed, some only afterwards: they share a count, and the first is first.
        ([GOOD | {"bbox": [0, 0, float("nan"), 5]}, GOOD | {"bbox": None}], "2 such, the first is result 0: [0.0, 0."),
        ([GOOD | {"bbox": None}, GOOD | {"bbox": [0, 0, float("nan"), 5]}], "2 such, the first is result 0: None"),
        ([GOOD | {"bbox": [True, 0, 5, 5]}], "four finite numbers: 1 such, the first is result 0: [True, 0, 5, 5]"),
        ([GOOD | {"bbox": [10**400, 0, 5, 5]}], "four finite numbers: 1 such"),
        ([GOOD | {"bbox": [0, 0, 5]}], "four finite numbers: 1 such"),
        ([GOOD | {"bbox": [0, 0, -5, 5]}], "without negative size: 1 such"),
        (
            [GOOD, GOOD | {"image_id": 11}],
            "image id of the annotations: 1 such, the first is result 1: image_id 11",
        ),
        ([GOOD | {"category_id": 1}], "category id of the annotations (3, 17): 1 such"),
        ([{"image_id": 10}], "no 'category_id': 1 such, the first is result 0: has the keys image_id"),
        ([GOOD, GOOD | {"image_id": 10.0}], "integer as image_id: 1 such, the first is result 1: 10.0"),
        ([GOOD | {"image_id": True}], "integer as image_id: 1 such, the first is result 0: True"),
        ([GOOD | {"image_id": "10"}], "integer as image_id: 1 such, the first is result 0: '10'"),
        ([GOOD | {"image_id": 2**63}], "integer as image_id: 1 such, the first is result 0: 9223372036854775808"),
        ([GOOD | {"category_id": False}], "integer as category_id: 1 such, the first is result 0: False"),
        ([GOOD | {"category_id": 3.5}] * 2, "integer as category_id: 2 such, the first is result 0: 3.5"),
        (
            [GOOD | {"image_id": 391895}, GOOD | {"image_id": 22}],
            "results of another dataset? No image id is one of ",
        ),
        (
            [GOOD | {"image_id": 391895}, GOOD | {"image_id": 22}],
            "val.json (10, 20, 30): 2 such, the first is result 0: image_id 391895",
        ),
        (
            '[{"image_id": 10, "score": 0.5, "score": 0.6}]',
            "a key occurs twice: 1 such, the first is result 0: 'score'",
        ),
        ([7], "not a result: 1 such"),
        ([GOOD, [GOOD]], "not a result: 1 such, the first is result 1: a list of 1"),
        ([GOOD, {}], "no 'image_id': 1 such, the first is result 1: has the keys none"),
    ],
)
def test_results_files_with_mistakes_are_refused_with_the_first_and_the_count(tmp_path, content, message):
    with pytest.raises(DataError) as caught:
        read_results(written(tmp_path, content), open_set(tmp_path, []))
    assert message in str(caught.value)
    assert "found.json" in str(caught.value)


def test_all_kinds_of_mistakes_are_reported_together(tmp_path):
    path = written(tmp_path, [GOOD | {"image_id": 1}, GOOD | {"category_id": 1}, GOOD | {"score": None}])
    with pytest.raises(DataError) as caught:
        read_results(path, open_set(tmp_path, []))
    assert len(caught.value.problems) == 3


def test_a_file_without_results_is_legal(tmp_path):
    assert read_results(written(tmp_path, []), open_set(tmp_path, [])) == []


def test_an_evaluation_without_detections_is_reported(tmp_path, log_capture):
    coco = open_set(tmp_path, [truth(10, 3, [0, 0, 32, 32])])
    assert evaluate_results(coco, [])["AP"] == 0
    assert "no detections to evaluate" in log_capture.text


def test_results_keep_their_order_and_only_their_four_keys(tmp_path):
    other = {"segmentation": {"size": [64, 96], "counts": "x"}, "area": 25, "id": 5, "iscrowd": 0}
    kept = [GOOD, GOOD | {"score": 0, "bbox": [-1.5, 2, 0, 0]}, GOOD | {"image_id": 30, "score": 7.25}]
    path = written(tmp_path, [one | other for one in kept])
    assert read_results(path, open_set(tmp_path, [])) == kept


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_results_may_come_in_the_encodings_of_json(tmp_path, encoding):
    path = written(tmp_path, json.dumps([GOOD]).encode(encoding))
    assert read_results(path, open_set(tmp_path, [])) == [GOOD]


def test_a_results_file_that_does_not_exist_is_reported(tmp_path):
    with pytest.raises(DataError, match=r"found\.json: no such file"):
        read_results(tmp_path / "found.json", open_set(tmp_path, []))


# Anything that JSON can say, often close to a result.
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text("ab", max_size=4),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from([*GOOD, "x"]), inner, max_size=5),
    max_leaves=8,
)
NEARLY = st.dictionaries(st.sampled_from(list(GOOD)), VALUE, max_size=2).map(lambda wrong: GOOD | wrong)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.lists(NEARLY | VALUE, max_size=4) | VALUE.filter(lambda value: not isinstance(value, str)))
def test_any_json_is_read_or_refused_with_its_name(empty, content):
    path = written(empty.files.annotations.parent, content)
    try:
        results = read_results(path, empty)
    except DataError as error:
        problems = error.problems
    else:
        problems = ()
        assert len(results) == len(content)
        assert all(math.isfinite(number) for one in results for number in [*one["bbox"], one["score"]])
    assert all(problem.startswith(str(path)) for problem in problems)


def test_boxes_are_cut_at_the_border_of_their_images(tmp_path):
    coco = open_set(tmp_path, [])  # 96x64 pixels each
    found = [
        result(10, 3, [-5, 60, 20, 30], 0.5),
        result(30, 17, [90.5, -9, 9, 80], 0.5),
        result(20, 3, [1, 2, 3, 4], 1),
    ]
    cut = clip_results(found, coco)
    assert [one["bbox"] for one in cut] == [[0, 60, 15, 4], [90.5, 0, 5.5, 64], [1, 2, 3, 4]]
    assert [{**one, "bbox": 0} for one in cut] == [{**one, "bbox": 0} for one in found]
    (outside,) = clip_results([result(10, 3, [200, 5, 10, 10], 0.5)], coco)
    assert outside["bbox"] == [96, 5, 0, 10]


def test_results_are_cut_image_by_image():
    results = [result(i, 3, [0, 0, 5, 5], score) for i in (1, 2) for score in (0.1, 0.9, 0.5)]
    assert filter_results(results, None, None) == results
    cut = filter_results(results, 0.1, 2)  # 0.1 is not above 0.1
    assert [(one["image_id"], one["score"]) for one in cut] == [(1, 0.9), (1, 0.5), (2, 0.9), (2, 0.5)]
    assert [one["score"] for one in filter_results(results, None, 1)] == [0.9, 0.9]


def test_classes_match_by_name():
    model = Categories(("disc", "bar"), (3, 17))
    assert match_classes(model, model, "x.json") is None
    assert match_classes(model, Categories(("bar", "disc"), (17, 3)), "x.json") == (1, 0)
    assert match_classes(model, Categories(("disc", "bar"), (0, 1)), "x.json") == (0, 1)


def test_classes_that_differ_are_reported_with_what_was_expected_and_found():
    with pytest.raises(DataError) as caught:
        match_classes(Categories(("disc", "bar"), (3, 17)), Categories(("disc", "ring"), (3, 4)), "x.json")
    summary, *problems = caught.value.problems
    assert "expected 2 (3 disc, 17 bar); found 2 (3 disc, 4 ring)" in summary
    assert len(problems) == 2
    assert "'bar'" in problems[0]
    assert "'ring'" in problems[1]


def test_classes_that_share_a_name_cannot_be_matched_by_it():
    with pytest.raises(DataError, match="have the same name"):
        match_classes(Categories(("disc", "disc"), (3, 17)), Categories(("disc", "disc"), (3, 4)), "x.json")
