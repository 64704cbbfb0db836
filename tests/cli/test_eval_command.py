"""`eval`: a model over a split, a results file, the class check, what is printed and written."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from darknet_data import TINY, write_pair
from engine_data import CLASSES, small_detector, write_checkpoint
from evaluation_data import result, square_model, truth, write_set

from cspdet.checkpoints.loading import load_model
from cspdet.cli.main import run_command
from cspdet.datasets.descriptor import load_dataset_config
from cspdet.datasets.formats.coco import load_coco
from cspdet.evaluation.coco import METRIC_NAMES
from cspdet.evaluation.detection import evaluate_detector
from cspdet.evaluation.predictors import NetworkDetector, evaluation_mode
from cspdet.evaluation.results import submission_name
from cspdet.io.checkpoint import load_checkpoint
from cspdet.models.bundle import ModelBundle
from cspdet.models.config import EvalConfig, YoloHeadConfig
from cspdet.models.head import Anchors

ROOT = Path(__file__).parents[2]

# The white squares of the pictures, which the network finds exactly; the third picture is empty.
SQUARES = [truth(10, 3, [0, 0, 32, 32]), truth(20, 3, [64, 32, 32, 32])]


@pytest.fixture(autouse=True)
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelBundle:
    """The model finds white squares, and the working directory holds the dataset."""
    model = square_model(write_set(tmp_path, SQUARES))
    monkeypatch.setattr("cspdet.checkpoints.loading.load_model", lambda *_, **__: model)
    monkeypatch.chdir(tmp_path)
    Path("squares.pt").touch()
    return model


def test_a_model_is_evaluated_on_its_own_data(capsys):
    assert run_command("eval", ["squares.pt", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {*METRIC_NAMES, "per_class", "images", "detections", "evaluator", "model", "size"}
    assert document["AP"] == pytest.approx(1.0)
    assert document["per_class"] == {
        "disc": {"AP": document["AP"], "AP50": document["AP50"]},
        "bar": {"AP": None, "AP50": None},
    }
    assert (document["images"], document["detections"]) == (3, 2)
    assert (document["model"], document["size"]) == ("squares", [64, 96])
    assert json.loads(Path("runs/eval/metrics.json").read_text()) == document
    found = json.loads(Path("runs/eval/detections.json").read_text())
    assert [one["bbox"] for one in found] == [[0.0, 0.0, 32.0, 32.0], [64.0, 32.0, 32.0, 32.0]]
    assert [(one["image_id"], one["category_id"]) for one in found] == [(10, 3), (20, 3)]


def test_the_table_names_all_numbers_and_classes(capsys):
    assert run_command("eval", ["squares.pt", "--output", "out"]) == 0
    printed = capsys.readouterr().out
    assert all(any(line.startswith(f"{name} ") for line in printed.splitlines()) for name in METRIC_NAMES)
    rows = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line}
    assert rows["class"] == ["images", "instances", "P", "R", "F1", "AP50", "AP75", "AP"]
    assert rows["disc"] == ["2", "2", "1.000", "1.000", "1.000", "1.0000", "1.0000", "1.0000"]
    assert rows["bar"] == ["0", "0", *["--"] * 6]
    assert rows["all"] == ["3", *rows["disc"][1:]]
    assert sorted(path.name for path in Path("out").iterdir()) == ["detections.json", "metrics.json"]


def test_of_many_classes_those_with_the_lowest_ap_are_listed(monkeypatch, capsys):
    monkeypatch.setattr("cspdet.cli.eval_table.MAX_LISTED_CLASSES", 1)
    assert run_command("eval", ["squares.pt", "--output", "out"]) == 0
    printed = capsys.readouterr().out
    assert "the 1 class with the lowest AP, of 2; metrics.json has all" in printed
    assert not [line for line in printed.splitlines() if line.startswith("bar ")]  # it has no boxes


def test_detections_of_eval_can_be_evaluated_again(capsys):
    assert run_command("eval", ["squares.pt", "--output", "a"]) == 0
    words = ["--detections", "a/detections.json", "--data", "data.yaml", "--output", "b"]
    assert run_command("eval", words) == 0
    first, again = (json.loads(Path(folder, "metrics.json").read_text()) for folder in "ab")
    assert [first[name] for name in METRIC_NAMES] == [again[name] for name in METRIC_NAMES]
    assert (again["model"], again["size"]) == (None, None)


def test_a_results_file_needs_no_images(tmp_path, capsys):
    Path("found.json").write_text(json.dumps([result(10, 3, [0, 0, 32, 32], 0.5)]))
    Path("other.yaml").write_text("val: {images: nowhere, annotations: val.json}\n")
    assert run_command("eval", ["--detections", "found.json", "--data", "other.yaml", "--json"]) == 0
    # One of two truths is found: precision 1 up to recall 1/2, which are 51 of the 101 recalls.
    assert json.loads(capsys.readouterr().out)["AP"] == pytest.approx(51 / 101)


def test_limits_cut_detections_and_leave_the_meaning_of_the_numbers(capsys):
    found = [
        result(10, 3, [0, 0, 32, 32], 0.9),
        result(10, 17, [9, 9, 20, 20], 0.8),
        result(20, 3, [64, 32, 32, 32], 0.2),
    ]
    Path("found.json").write_text(json.dumps(found))
    words = ["--detections", "found.json", "--data", "data.yaml", "--json"]
    kept = []
    for limit in ([], ["--max-detections", "1"], ["--min-score", "0.5"]):
        assert run_command("eval", words + limit) == 0
        document = json.loads(capsys.readouterr().out)
        kept.append((document["detections"], round(document["AR100"], 3)))
    assert kept == [(3, 1.0), (2, 1.0), (2, 0.5)]


def test_box_voting_is_asked_for_in_the_config_or_on_the_line_and_moves_boxes_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("cspdet.checkpoints.loading.load_model", load_model)
    categories = [
        {"id": number, "name": name} for number, name in zip(CLASSES.category_ids, CLASSES.names, strict=True)
    ]
    write_set(tmp_path, SQUARES, categories=categories)
    small = str(write_checkpoint(tmp_path / "small.pt", small_detector()))
    found = {}
    for name, words in {
        "plain": [],
        "line": ["--vote-iou", "0.3"],
        "config": ["eval.vote_iou=0.3"],
        "engine": ["eval.vote_iou=0.3", "--backend", "torch"],
        "off": ["eval.vote_iou=0.3", "--vote-iou", "1"],
    }.items():
        assert run_command("eval", [small, "--data", "data.yaml", "--output", name, *words]) == 0
        found[name] = json.loads(Path(name, "detections.json").read_text())
    boxes = {name: [each["bbox"] for each in results] for name, results in found.items()}
    assert len(boxes["plain"]) > 100
    assert boxes["line"] == boxes["config"] != boxes["plain"] == boxes["off"]
    assert np.abs(np.subtract(boxes["engine"], boxes["line"])).max() < 0.1
    for results in found.values():
        assert [each["score"] for each in results] == pytest.approx(
            [each["score"] for each in found["plain"]], abs=1e-4
        )


def test_classes_in_another_order_with_other_ids_are_matched_by_name(tmp_path, capsys):
    moved = [{**square, "category_id": 8} for square in SQUARES]
    write_set(tmp_path, moved, categories=[{"id": 2, "name": "bar"}, {"id": 8, "name": "disc"}])
    assert run_command("eval", ["squares.pt", "--json", "--output", "out"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["per_class"]["disc"]["AP"] == pytest.approx(1.0)
    assert "matched by name" in printed.err
    assert {one["category_id"] for one in json.loads(Path("out/detections.json").read_text())} == {8}


def test_other_classes_are_an_error_not_an_ap_of_0(tmp_path, capsys):
    write_set(tmp_path, [], categories=[{"id": 3, "name": "disk"}, {"id": 17, "name": "bar"}])
    assert run_command("eval", ["squares.pt"]) == 2
    message = capsys.readouterr().err
    assert "expected 2 (3 disc, 17 bar); found 2 (3 disk, 17 bar)" in message
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected either a MODEL or --detections"),
        (["squares.pt", "--detections", "x.json"], "found both"),
        (["--detections", "x.json"], "--data DESCRIPTOR is missing"),
        (["--detections", "x.json", "--data", "data.yaml"], "x.json: no such file"),
        (["--detections", "x.json", "--data", "nowhere.yaml"], "no such data descriptor"),
        (["--detections", "val.json", "--data", "data.yaml", "--split", "test"], "no split 'test'"),
        (["--detections", "x.json", "--data", "data.yaml", "eval.min_score=0.1"], "no config"),
        (["squares.pt", "--min-score", "1"], "min_score: expected less than 1, found 1.0"),
        (["squares.pt", "--nms-iou", "-1", "--max-detections", "0"], "max_detections: expected greater"),
        (["squares.pt", "--vote-iou", "2"], "vote_iou: expected less than or equal to 1, found 2.0"),
        (
            ["--detections", "x.json", "--data", "data.yaml", "--vote-iou", "0.6"],
            "does not contain the boxes that are averaged",
        ),
        (
            ["--detections", "x.json", "--data", "data.yaml", "--nms-iou", "0.5"],
            "--nms-iou: NMS was already applied to a results file",
        ),
        (["--detections", "x.json", "--data", "data.yaml", "--weights", "a.pt"], "--weights: a results file has no"),
        (["--detections", "x.json", "--data", "data.yaml", "--backend", "onnx"], "--backend: a results file has no"),
        (["squares.pt", "--evaluator", "mine"], "invalid choice"),
        (["squares.pt", "--name", "mine"], "applies only to the zip of --split test, found --split val"),
        (["squares.pt", "--split", "test", "--name", "../mine"], "--name: expected letters and digits"),
        (["squares.pt", "--split", "test", "--name", ""], "--name: expected letters and digits"),
    ],
)
def test_mistakes_end_with_2_and_a_line(words, message, capsys):
    assert run_command("eval", words) == 2
    printed = capsys.readouterr()
    assert any(line.startswith("error: ") and message in line for line in printed.err.splitlines()), printed.err
    assert printed.out == ""


def test_the_default_output_never_overwrites_an_earlier_run():
    for _ in range(2):
        assert run_command("eval", ["squares.pt"]) == 0
    assert sorted(path.name for path in Path("runs").iterdir()) == ["eval", "eval-2"]


def test_a_model_in_training_comes_back_in_training(loaded):
    coco = load_coco(load_dataset_config("data.yaml").split("val"), "val")
    loaded.network.train()
    predictor = NetworkDetector(loaded.network, torch.device("cpu"))
    with evaluation_mode(loaded.network):
        assert not loaded.network.training
        evaluate_detector(predictor, coco, loaded.config.input, loaded.config.eval)
    assert loaded.network.training


def test_bad_results_are_reported_and_nothing_is_written(capsys):
    found = [result(10, 3, [0, 0, 32, 32], 0.5), result(10, 3, [0, 0, -1, 32], 0.5), result(9, 3, [0, 0, 1, -1], 0.5)]
    Path("found.json").write_text(json.dumps(found))
    assert run_command("eval", ["--detections", "found.json", "--data", "data.yaml"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: found.json: expected a bbox [x, y, width, height] without negative size: 2 such, "
        "the first is result 1: [0.0, 0.0, -1.0, 32.0]",
        "error: found.json: not an image id of the annotations: 1 such, the first is result 2: image_id 9",
    ]
    assert not Path("runs").exists()


# --- the border of the picture -------------------------------------------------------------------


@pytest.fixture
def sticking_out(loaded: ModelBundle) -> ModelBundle:
    """Boxes of 64x64 pixels in the middle of the cells: 16 pixels more than the cell on each side."""
    loaded.network.anchors = Anchors(YoloHeadConfig(anchors=(((64, 64),),), scale_x_y=(1.0,)), (32,))
    return loaded


UNCUT = [[-16.0, -16.0, 64.0, 64.0], [48.0, 16.0, 64.0, 64.0]]
CUT = [[0.0, 0.0, 48.0, 48.0], [48.0, 16.0, 48.0, 48.0]]


@pytest.mark.parametrize(
    ("config", "flags", "expected"),
    [
        (True, [], CUT),
        (False, [], UNCUT),
        (False, ["--clip-boxes"], CUT),
        (True, ["--no-clip-boxes"], UNCUT),
    ],
)
def test_boxes_are_cut_as_the_config_and_the_flags_say(sticking_out, monkeypatch, config, flags, expected):
    eval_ = sticking_out.config.eval.model_copy(update={"clip_boxes": config})
    changed = sticking_out.config.model_copy(update={"eval": eval_})
    model = ModelBundle("detection", sticking_out.network, changed, sticking_out.categories, "squares")
    monkeypatch.setattr("cspdet.checkpoints.loading.load_model", lambda *_, **__: model)
    assert run_command("eval", ["squares.pt", "--output", "out", *flags]) == 0
    assert [one["bbox"] for one in json.loads(Path("out/detections.json").read_text())] == expected


@pytest.mark.parametrize(("flags", "expected"), [([], UNCUT), (["--no-clip-boxes"], UNCUT), (["--clip-boxes"], CUT)])
def test_a_results_file_is_evaluated_unchanged_by_default(flags, expected):
    found = [result(image_id, 3, box, 0.5) for image_id, box in zip((10, 20), UNCUT, strict=True)]
    Path("found.json").write_text(json.dumps(found))
    words = ["--detections", "found.json", "--data", "data.yaml", "--output", "out", *flags]
    assert run_command("eval", words) == 0
    assert [one["bbox"] for one in json.loads(Path("out/detections.json").read_text())] == expected


@pytest.mark.parametrize(("more", "clip"), [([], False), (["eval.clip_boxes=true"], True)])
def test_a_model_from_a_cfg_is_evaluated_with_unclipped_boxes(tmp_path, more, clip):
    cfg, weights = write_pair(tmp_path, TINY)
    assert run_command("import-darknet", [str(cfg), str(weights), "--output", "x.pt", *more]) == 0
    config = load_checkpoint(Path("x.pt")).config
    assert config["eval"] == EvalConfig(clip_boxes=clip).model_dump(mode="json")


def test_a_checkpoint_alone_imports_no_dataset_format(tmp_path, monkeypatch, capsys):
    module = f"formats_of_{tmp_path.name.replace('-', '_')}"
    source = "from cspdet.datasets.formats.coco_format import CocoFormat\n\n\nclass Mine(CocoFormat):\n    pass\n"
    Path(f"{module}.py").write_text(source)
    Path("data.yaml").write_text(f"format: {{name: '{module}:Mine', val_fraction: 0.9}}\nsource: val.json\n")
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert run_command("eval", ["squares.pt"]) == 2
    assert f"add --import {module}" in capsys.readouterr().err
    assert module not in sys.modules
    for words in (["--data", "data.yaml"], ["--import", module]):
        assert run_command("eval", ["squares.pt", *words]) == 0
        del sys.modules[module]


# --- a split without boxes -----------------------------------------------------------------------


@pytest.fixture
def hidden_set(tmp_path: Path) -> list[str]:
    """The words that evaluate a split whose annotations are kept back."""
    write_set(tmp_path, [])
    content = json.loads(Path("val.json").read_text())
    del content["annotations"]
    Path("image_info_test2017.json").write_text(json.dumps(content))
    Path("hidden.yaml").write_text("test: {images: images, annotations: image_info_test2017.json}\n")
    return ["squares.pt", "--data", "hidden.yaml", "--split", "test", "--output", "out"]


def test_a_split_without_boxes_leaves_the_zip_for_the_server(hidden_set, capsys):
    assert run_command("eval", hidden_set) == 0
    printed = capsys.readouterr().out
    name = "detections_test2017_cspdet_results"
    assert printed.splitlines() == [
        f"3 images, 2 detections; {Path('image_info_test2017.json').resolve()} has no ground-truth boxes, "
        "so there is no AP",
        "",
        f"written to out: metrics.json, detections.json, {name}.zip",
        f"for the COCO evaluation server: out/{name}.zip",
    ]
    with zipfile.ZipFile(f"out/{name}.zip") as archive:
        assert archive.namelist() == [f"{name}.json"]
        assert json.loads(archive.read(f"{name}.json")) == json.loads(Path("out/detections.json").read_text())
    metrics = json.loads(Path("out/metrics.json").read_text())
    assert [metrics[number] for number in METRIC_NAMES] == [None] * 12
    assert metrics["per_class"] == {name: {"AP": None, "AP50": None} for name in ("disc", "bar")}
    assert metrics["detections"] == 2


def test_equal_results_make_equal_zips_under_the_name_given(hidden_set, capsys):
    for folder in "ab":
        assert run_command("eval", [*hidden_set, "--output", folder, "--name", "my-own_2", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["AP"] is None
    a, b = (Path(folder, "detections_test2017_my-own_2_results.zip").read_bytes() for folder in "ab")
    assert a == b


def test_a_results_file_for_such_a_split_is_packed_too(hidden_set):
    Path("found.json").write_text(json.dumps([result(10, 3, [0, 0, 32, 32], 0.5)]))
    assert run_command("eval", ["--detections", "found.json", *hidden_set[1:]]) == 0
    with zipfile.ZipFile("out/detections_test2017_cspdet_results.zip") as archive:
        assert len(json.loads(archive.read(archive.namelist()[0]))) == 1


def test_a_test_split_with_boxes_is_evaluated_and_makes_no_zip(tmp_path):
    Path("both.yaml").write_text("test: {images: images, annotations: val.json}\n")
    assert run_command("eval", ["squares.pt", "--data", "both.yaml", "--split", "test", "--output", "out"]) == 0
    assert sorted(path.name for path in Path("out").iterdir()) == ["detections.json", "metrics.json"]
    assert json.loads(Path("out/metrics.json").read_text())["AP"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("file", "set_"),
    [
        ("image_info_test-dev2017.json", "test-dev2017"),
        ("image_info_test2017.json", "test2017"),
        ("image_info_test2015.json", "test2015"),
        ("instances_val2014.json", "val2014"),
        ("image_info_test-challenge2018.json", "test-challenge2018"),
        ("hidden.json", "test-dev2017"),
        ("test20170.json", "test-dev2017"),
    ],
)
def test_the_annotations_name_the_set(file, set_):
    assert submission_name(Path("annotations") / file, "x") == f"detections_{set_}_x_results"


@pytest.mark.e2e
def test_the_tool_evaluates_a_results_file(tmp_path):
    (tmp_path / "found.json").write_text("[]")
    tool = [
        sys.executable,
        str(ROOT / "tools/eval.py"),
        "--detections",
        "found.json",
        "--data",
        "data.yaml",
        "--json",
    ]
    done = subprocess.run(tool, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["AP"] == 0.0
