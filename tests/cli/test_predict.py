"""`predict` and `eval` serve detectors and classifiers: the model decides what they do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from classification_data import color_model
from evaluation_data import square_model, truth, write_set
from PIL import Image

from cspdet.cli.main import run_command

SQUARES = [truth(10, 3, [0, 0, 32, 32])]


@pytest.fixture
def detector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = square_model(write_set(tmp_path, SQUARES))
    monkeypatch.setattr("cspdet.checkpoints.loading.load_model", lambda *_, **__: model)
    monkeypatch.chdir(tmp_path)
    Path("model.pt").touch()


@pytest.fixture
def classifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = color_model()
    monkeypatch.setattr("cspdet.checkpoints.loading.load_model", lambda *_, **__: model)
    monkeypatch.chdir(tmp_path)
    Path("model.pt").touch()
    Image.fromarray(np.full((40, 40, 3), (255, 0, 0), np.uint8)).save("red.png")


def test_predict_detects_with_a_detector(detector, capsys):
    Image.fromarray(np.zeros((64, 96, 3), np.uint8)).save("black.png")
    assert run_command("predict", ["model.pt", "black.png", "--output", "out", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["results"][0]["detections"] == []
    assert Path("out/detections.jsonl").is_file()


def test_predict_classifies_with_a_classifier(classifier, capsys):
    assert run_command("predict", ["model.pt", "red.png", "--top", "2", "--json"]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert record["source"] == "red.png"
    assert len(record["predictions"]) == 2


def test_flags_of_the_other_task_are_refused(classifier, capsys):
    assert run_command("predict", ["model.pt", "red.png", "--min-score", "0.5", "--hide-labels"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: --min-score: is for detectors; model.pt is not one",
        "error: --hide-labels: is for detectors; model.pt is not one",
    ]
    assert run_command("eval", ["model.pt", "--nms-iou", "0.5"]) == 2
    assert "--nms-iou: is for detectors" in capsys.readouterr().err


def test_flags_of_classifiers_are_refused_with_a_detector(detector, capsys):
    assert run_command("predict", ["model.pt", "images", "--top", "3"]) == 2
    assert capsys.readouterr().err == "error: --top: is for classifiers; model.pt is not one\n"
    assert run_command("eval", ["model.pt", "--crop", "0.5"]) == 2
    assert "--crop: is for classifiers" in capsys.readouterr().err


def test_eval_gives_top_1_of_a_classifier(classifier, capsys):
    for split in ("train", "val"):
        Path("data", split, "red").mkdir(parents=True)
        Image.open("red.png").save(Path("data", split, "red", "0.png"))
    assert run_command("eval", ["model.pt", "--data", "data", "--output", "out", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["images"], document["top1"]) == (1, 1.0)
    assert Path("out/predictions.csv").is_file()
