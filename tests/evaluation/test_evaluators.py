"""pycocotools and hotcoco give the same numbers, and give them through this package as used by their authors' own hand.

CSPDET_EVALUATOR_CASES=1000 makes a thousand cases instead of sixty.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import types
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from evaluation_data import result, truth, write_set
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cspdet.cli.main import run_command
from cspdet.datasets.descriptor import SplitFiles, load_dataset_config
from cspdet.datasets.formats.coco import CocoDataset, load_coco
from cspdet.errors import ConfigError, DataError
from cspdet.evaluation import coco_backends as engines
from cspdet.evaluation.coco import CocoEvaluator, Metrics, evaluate_results
from cspdet.evaluation.coco_backends import EVALUATORS, select_backend
from cspdet.evaluation.records import DETECTION_DTYPE, GROUND_TRUTH_DTYPE, index_in_sorted, to_records, to_results
from cspdet.models.config import EvalConfig

CASES = int(os.environ.get("CSPDET_EVALUATOR_CASES", "60"))
FAR = 1e-12

# Ids with gaps, 0, below 0, and beyond what floating point tells apart (2^53 + 1).
IMAGE_IDS = [30, 0, -7, 20, 2**53 + 1, 2**53]
CATEGORY_IDS = [17, 3, 0, 90]


class Case(NamedTuple):
    """A set and results, as their files have them."""

    annotations: list[dict[str, Any]]
    results: list[dict[str, Any]]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Few places, sizes and scores, so that boxes meet, areas stand on COCO's bounds, and scores tie.

    Some images and classes stay empty; now and then one image gets more than 100 detections of a class.
    """
    used = draw(st.lists(st.sampled_from(IMAGE_IDS), min_size=1, max_size=4, unique=True))
    classes = draw(st.lists(st.sampled_from(CATEGORY_IDS), min_size=1, max_size=3, unique=True))
    side = st.sampled_from([0, 5, 16, 31.9, 32, 32.0001, 64, 96, 100])  # 32^2 and 96^2 are the bounds, 0 has no area
    box = st.tuples(st.sampled_from([0, 1, 3.5, 8, 60]), st.sampled_from([0, 2, 7.25]), side, side).map(list)
    place = st.tuples(st.sampled_from(used), st.sampled_from(classes), box)
    area = st.sampled_from([None, 0, 900, 32**2, 32**2 + 1e-9, 96**2, 96**2 + 0.5, 1e5**2])
    ground_truth = draw(st.lists(st.tuples(place, area, st.integers(0, 1)), min_size=1, max_size=14))
    # Half of the detections stand where a truth is, shifted a little: else hardly any would be right.
    near = st.tuples(st.sampled_from(ground_truth), st.sampled_from([0, 0.5, 2, 5])).map(
        lambda drawn: (*drawn[0][0][:2], [drawn[0][0][2][0] + drawn[1], *drawn[0][0][2][1:]])
    )
    score = st.integers(0, 8).map(lambda eighths: eighths / 8)
    found = draw(st.lists(st.tuples(st.one_of(place, near), score), max_size=30))
    if draw(st.integers(0, 4)) == 0:
        image_id, category_id, first = ground_truth[0][0]
        crowded = [((image_id, category_id, [first[0] + i % 7, *first[1:]]), i % 9 / 9) for i in range(110)]
        found = [*crowded, *found]
    return Case(
        [
            truth(*place, id=7 * i, iscrowd=crowd, **({} if area is None else {"area": area}))
            for i, (place, area, crowd) in enumerate(ground_truth)
        ],
        [result(*place, score) for place, score in found],
    )


def write_case(folder: Path, case: Case) -> CocoDataset:
    images = [{"id": i, "file_name": f"{k}.png", "height": 200, "width": 200} for k, i in enumerate(IMAGE_IDS)]
    categories = [{"id": i, "name": f"class {i}"} for i in CATEGORY_IDS]
    content = {"images": images, "categories": categories, "annotations": case.annotations}
    (folder / "case.json").write_text(json.dumps(content))
    return load_coco(SplitFiles(folder, folder / "case.json"), "val")


def as_its_authors_do(case: Case) -> COCOeval:
    """pycocotools with nothing of ours around it, but ids of annotations from 1 and areas where they are missing."""
    annotations = [
        {"area": one["bbox"][2] * one["bbox"][3], **one, "id": i} for i, one in enumerate(case.annotations, start=1)
    ]
    official = COCO()
    official.dataset = {
        "images": [{"id": i} for i in IMAGE_IDS],
        "categories": [{"id": i} for i in CATEGORY_IDS],
        "annotations": annotations,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        official.createIndex()
        evaluate = COCOeval(official, official.loadRes([dict(one) for one in case.results]), "bbox")
        evaluate.evaluate()
        evaluate.accumulate()
        evaluate.summarize()
    return evaluate


def number(value: float | None) -> float:
    return -1.0 if value is None else value


def far_apart(metrics: Metrics, evaluate: COCOeval) -> float:
    """The largest difference of the 12 numbers and of AP and AP50 of each class."""
    differences = [abs(number(a) - b) for a, b in zip(metrics.stats.values(), evaluate.stats, strict=True)]
    for category_id, k in zip(evaluate.params.catIds, range(len(CATEGORY_IDS)), strict=True):
        precision = evaluate.eval["precision"][:, :, k, 0, 2]
        of_class = metrics.per_class[f"class {category_id}"]
        for name, part in (("AP", precision), ("AP50", precision[0])):
            expected = part[part > -1].mean() if (part > -1).any() else -1.0
            differences.append(abs(number(of_class[name]) - expected))
    return max(differences)


@pytest.mark.parametrize("evaluator", ["pycocotools", "hotcoco"])
@settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=cases())
def test_evaluators_agree_with_pycocotools_used_as_its_authors_do(tmp_path, evaluator, case):
    if evaluator == "hotcoco":
        pytest.importorskip("hotcoco")
    coco = write_case(tmp_path, case)
    metrics = evaluate_results(coco, case.results, evaluator=evaluator)
    if not case.results:  # loadRes fails; what matters is that nothing was found
        assert metrics["AP"] in (0.0, None)
        return
    assert far_apart(metrics, as_its_authors_do(case)) <= FAR


# --- which one judges ----------------------------------------------------------------------------

SQUARE = [5, 5, 20, 20]


@pytest.fixture
def coco(tmp_path: Path) -> CocoDataset:
    path = write_set(tmp_path, [truth(10, 3, SQUARE), truth(20, 17, SQUARE)])
    return load_coco(load_dataset_config(path).split("val"), "val")


@pytest.fixture
def without_hotcoco(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hotcoco", None)  # importing it fails, as where it is not installed


def test_the_config_and_the_engines_know_the_same_names():
    assert EVALUATORS == ("auto", "pycocotools", "hotcoco")
    assert [EvalConfig(evaluator=name).evaluator for name in EVALUATORS] == list(EVALUATORS)
    assert EvalConfig().evaluator == "auto"


def test_auto_is_hotcoco_where_it_is_installed(coco):
    hotcoco = pytest.importorskip("hotcoco")
    assert evaluate_results(coco, []).evaluator == f"hotcoco {hotcoco.__version__}"
    assert evaluate_results(coco, [], evaluator="pycocotools").evaluator.startswith("pycocotools 2")


@pytest.mark.usefixtures("without_hotcoco")
def test_auto_is_pycocotools_where_hotcoco_is_missing(coco):
    metrics = evaluate_results(coco, [result(10, 3, SQUARE, 0.5)])
    assert metrics.evaluator.startswith("pycocotools 2")
    assert metrics["AP"] == pytest.approx(0.5)  # disc 1, bar 0


@pytest.mark.usefixtures("without_hotcoco")
def test_hotcoco_that_is_asked_for_but_missing_is_reported_before_any_image(coco):
    with pytest.raises(ConfigError, match=r"pip install 'cspdet\[analysis\]'"):
        CocoEvaluator(coco, "hotcoco")


def test_a_hotcoco_that_is_too_old_is_passed_over_or_reported(monkeypatch):
    old = types.SimpleNamespace(COCO=object)
    monkeypatch.setitem(sys.modules, "hotcoco", old)
    monkeypatch.setattr("cspdet.evaluation.coco_backends.importlib.metadata.version", lambda name: "0.9")
    assert select_backend("auto").title == "pycocotools 0.9"
    with pytest.raises(ConfigError, match=r"0\.9 is too old, expected 1\.3 or newer"):
        select_backend("hotcoco")


def test_an_unknown_evaluator_is_reported_with_the_names_there_are():
    with pytest.raises(ConfigError, match="expected auto, pycocotools, hotcoco, found 'mine'"):
        select_backend("mine")  # type: ignore[arg-type]


@pytest.mark.parametrize("evaluator", ["pycocotools", "hotcoco"])
def test_engines_write_nothing_to_the_terminal(coco, evaluator, capfd):
    if evaluator == "hotcoco":
        pytest.importorskip("hotcoco")
    evaluate_results(coco, [result(10, 3, SQUARE, 0.5)], evaluator=evaluator)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("evaluator", ["pycocotools", "hotcoco"])
def test_without_truth_engines_say_what_is_said_without_them(evaluator):
    if evaluator == "hotcoco":
        pytest.importorskip("hotcoco")
    found = to_records([result(0, 1, SQUARE, 0.5), result(1, 0, SQUARE, 0.5)])
    case = engines.CocoEvalInput(2, 2, np.empty(0, GROUND_TRUTH_DTYPE), found)
    for said, expected in zip(select_backend(evaluator).evaluate(case), engines.empty_result(case), strict=True):
        np.testing.assert_array_equal(said, expected)


@pytest.mark.parametrize(("key", "value"), [("image_id", 11), ("image_id", 2**53), ("category_id", 4)])
@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_unknown_ids_reach_no_engine(coco, evaluator, key, value):
    if evaluator == "hotcoco":
        pytest.importorskip("hotcoco")
    found = [result(10, 3, SQUARE, 0.5), result(20, 3, SQUARE, 0.5) | {key: value}]
    with pytest.raises(DataError, match=f"unknown {key}: 1 such, the first is result 1 has {value}"):
        evaluate_results(coco, found, evaluator=evaluator)


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_images_whose_ids_are_one_in_floating_point_are_kept_apart(tmp_path, evaluator):
    if evaluator == "hotcoco":
        pytest.importorskip("hotcoco")
    coco = write_case(tmp_path, Case([truth(2**53, 3, SQUARE)], []))
    for image_id, expected in ((2**53, 1.0), (2**53 + 1, 0.0)):
        metrics = evaluate_results(coco, [result(image_id, 3, SQUARE, 0.5)], evaluator=evaluator)
        assert metrics["AP"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "cannot be read again"),
        ("{", "cannot be read again"),
        ("[]", "cannot be read again"),
        ({"annotations": [truth(10, 3, SQUARE), truth(11, 3, SQUARE)]}, "has changed since it was read: 1 annotations"),
        ({"annotations": [truth(10, 3, SQUARE), {"id": 1}]}, "has changed since it was read: 1 annotations"),
    ],
)
def test_annotations_that_went_or_changed_meanwhile_are_reported(coco, change, message):
    path = coco.files.annotations
    path.unlink()
    if change is not None:
        path.write_text(change if isinstance(change, str) else json.dumps(change))
    with pytest.raises(DataError, match=message):
        evaluate_results(coco, [])


def test_the_command_line_decides_over_the_config(coco, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "found.json").write_text("[]")
    words = ["--detections", "found.json", "--data", "data.yaml", "--json"]
    assert run_command("eval", [*words, "--evaluator", "pycocotools"]) == 0
    assert json.loads(capsys.readouterr().out)["evaluator"].startswith("pycocotools")
    monkeypatch.setitem(sys.modules, "hotcoco", None)
    assert run_command("eval", [*words, "--evaluator", "hotcoco"]) == 2
    assert "error: evaluator hotcoco: cannot be imported" in capsys.readouterr().err


# --- records -------------------------------------------------------------------------------------


def test_results_survive_as_records():
    found = [result(2**53 + 1, 3, [0.1, -2.5, 3.0, 4.25], 0.75), result(-7, 0, [0.0] * 4, 0.0)]
    records = to_records(found)
    assert (records.dtype, records.nbytes) == (DETECTION_DTYPE, 2 * 56)
    assert to_results(records) == found
    assert to_results(to_records([])) == []


def test_results_may_be_evaluated_as_records(coco):
    found = [result(10, 3, SQUARE, 0.5), result(20, 17, [9, 9, 20, 20], 0.5)]
    assert evaluate_results(coco, to_records(found)) == evaluate_results(coco, found)


def test_ranks_are_places_among_the_sorted_ids():
    assert index_in_sorted(np.array([30, 7, -5, 31]), np.array([30, -5, 10])).tolist() == [2, -1, 0, -1]
    assert index_in_sorted(np.array([1]), np.array([], np.int64)).tolist() == [-1]
