"""`eval`: a model over a split, a results file, the class check, what is printed and written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from evaluation_data import result, square_model, truth, write_set

from cspdet.cli import run_command
from cspdet.datasets.coco import load_coco
from cspdet.datasets.descriptor import load_descriptor
from cspdet.evaluation.coco import NUMBERS
from cspdet.evaluation.run import evaluate_model
from cspdet.model_file import LoadedModel

ROOT = Path(__file__).parents[1]

# The white squares of the pictures, which the network finds exactly; the third picture is empty.
SQUARES = [truth(10, 3, [0, 0, 32, 32]), truth(20, 3, [64, 32, 32, 32])]


@pytest.fixture(autouse=True)
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoadedModel:
    """The model finds white squares, and the working directory holds the data set."""
    model = square_model(write_set(tmp_path, SQUARES))
    monkeypatch.setattr("cspdet.commands.eval.load_model", lambda *_, **__: model)
    monkeypatch.chdir(tmp_path)
    return model


def test_a_model_is_judged_on_its_own_data(capsys):
    assert run_command("eval", ["squares.pt", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {*NUMBERS, "per_class", "images", "detections", "evaluator", "model", "size"}
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
    assert all(any(line.startswith(f"{name} ") for line in printed.splitlines()) for name in NUMBERS)
    assert "disc  1.0000 1.0000" in printed
    assert "bar       --     --" in printed
    assert sorted(path.name for path in Path("out").iterdir()) == ["detections.json", "metrics.json"]


def test_what_eval_wrote_can_be_judged_again(capsys):
    assert run_command("eval", ["squares.pt", "--output", "a"]) == 0
    words = ["--detections", "a/detections.json", "--data", "data.yaml", "--output", "b"]
    assert run_command("eval", words) == 0
    first, again = (json.loads(Path(folder, "metrics.json").read_text()) for folder in "ab")
    assert [first[name] for name in NUMBERS] == [again[name] for name in NUMBERS]
    assert (again["model"], again["size"]) == (None, None)


def test_a_results_file_needs_no_pictures(tmp_path, capsys):
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
    told = capsys.readouterr().err
    assert "expected 2 (3 disc, 17 bar); found 2 (3 disk, 17 bar)" in told
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "expected either a MODEL or --detections"),
        (["squares.pt", "--detections", "x.json"], "found both"),
        (["--detections", "x.json"], "--data DESCRIPTOR is missing"),
        (["--detections", "x.json", "--data", "data.yaml"], "x.json: cannot be read"),
        (["--detections", "x.json", "--data", "nowhere.yaml"], "no such data descriptor"),
        (["--detections", "x.json", "--data", "data.yaml", "--split", "test"], "no split 'test'"),
        (["--detections", "x.json", "--data", "data.yaml", "eval.min_score=0.1"], "no config"),
        (["squares.pt", "--min-score", "1"], "min_score: expected less than 1, found 1.0"),
        (["squares.pt", "--max-iou", "-1", "--max-detections", "0"], "max_detections: expected greater"),
        (["squares.pt", "--evaluator", "mine"], "invalid choice"),
    ],
)
def test_mistakes_end_with_2_and_a_line(words, told, capsys):
    assert run_command("eval", words) == 2
    printed = capsys.readouterr()
    assert any(line.startswith("error: ") and told in line for line in printed.err.splitlines()), printed.err
    assert printed.out == ""


def test_the_default_output_never_overwrites_an_earlier_run():
    for _ in range(2):
        assert run_command("eval", ["squares.pt"]) == 0
    assert sorted(path.name for path in Path("runs").iterdir()) == ["eval", "eval-2"]


def test_a_model_in_training_comes_back_in_training(loaded):
    coco = load_coco(load_descriptor("data.yaml").split("val"), "val")
    loaded.model.train()
    evaluate_model(loaded.model, coco, loaded.recipe.input, loaded.recipe.eval, torch.device("cpu"))
    assert loaded.model.training


@pytest.mark.e2e
def test_the_tool_judges_a_results_file(tmp_path):
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
