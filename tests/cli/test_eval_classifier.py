"""`eval-classifier`: what it prints and writes, its flags and its errors."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from classification_data import color_model, save, write_colors

from cspdet.cli.main import run_command
from cspdet.errors import ConfigError
from cspdet.inference.classifier import override_eval_config
from cspdet.models.config import ClassifierEvalConfig
from cspdet.models.published import CLASSIFIERS


def test_settings_given_replace_those_of_the_model():
    base = ClassifierEvalConfig(resize=100, ten_crop=True)
    assert override_eval_config(base, {"crop": 0.5}) == ClassifierEvalConfig(crop=0.5, ten_crop=True)
    assert override_eval_config(base, {"crop": 0.5, "resize": 90}).resize == 90
    with pytest.raises(ConfigError, match="crop"):
        override_eval_config(base, {"crop": 1.5})


# --- the command -----------------------------------------------------------------------------------


@pytest.fixture
def colors(tmp_path, monkeypatch):
    loaded = color_model(more=3)
    monkeypatch.setattr("cspdet.checkpoints.loading.load_model", lambda *_, **__: loaded)
    monkeypatch.chdir(tmp_path)
    Path("colors.pt").touch()
    return write_colors(tmp_path / "data")


def test_the_command_prints_and_writes(colors, capsys):
    assert run_command("eval-classifier", ["colors.pt", "--data", "data", "--output", "out"]) == 0
    printed = capsys.readouterr().out
    assert "6 images, center of 32x32, short side 36" in printed
    assert "top-1 83.33%" in printed
    assert "top-5 100.00%" in printed  # the three colors stand before the three other classes
    assert "blue           red       1" in printed
    document = json.loads(Path("out/metrics.json").read_text())
    assert document["top1"] == pytest.approx(5 / 6)
    assert document["per_class"]["blue"] == {"images": 2, "top1": 0.5, "top5": 1.0}
    assert document["per_class"]["other0"] == {"images": 0, "top1": None, "top5": None}
    assert document["confusions"] == [{"class": "blue", "predicted": "red", "images": 1}]
    assert (document["model"], document["size"], document["resize"]) == ("colors", [32, 32], 36)
    rows = list(csv.DictReader(io.StringIO(Path("out/predictions.csv").read_text())))
    assert [(row["path"], row["class"], row["correct"], row["predicted_1"]) for row in rows][1] == (
        "val/blue/2.png", "blue", "0", "red",
    )  # fmt: skip
    assert len(rows) == 6


def test_the_flags_reach_the_crop_and_json_is_one_document(colors, capsys):
    words = ["--resize", "50", "--ten-crop", "--interpolation", "bicubic", "--batch-size", "2", "--json"]
    assert run_command("eval-classifier", ["colors.pt", "--data", "data", *words]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["resize"], document["ten_crop"], document["interpolation"]) == (50, True, "bicubic")
    assert json.loads(Path("runs/eval-classifier/metrics.json").read_text()) == document


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--data DIR is missing"),
        (["--data", "nowhere"], "nowhere: no such folder"),
        (["--data", "data", "--split", "train"], "no train split"),
        (["--data", "data", "--resize", "20"], "resize: expected the 32 pixels of the input or more, found 20"),
        (["--data", "data", "--crop", "0"], "crop"),
        (["--data", "data", "--batch-size", "0"], "batch_size"),
        (["--data", "other"], "other (val): class 'pink' is unknown to the model"),
    ],
)
def test_mistakes_are_errors(colors, capsys, words, message):
    save(Path("other/val/pink/1.png"), "red")
    assert run_command("eval-classifier", ["colors.pt", *words]) == 2
    log = capsys.readouterr().err
    assert message in log
    assert "Traceback" not in log
    assert not Path("runs/eval-classifier").exists()


def test_the_page_has_the_published_figures():
    text = (Path(__file__).parents[2] / "docs/how-to/classification.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip(" `") for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| `")
    ]
    table = {row[0]: row[1:6] for row in rows if len(row) == 8}
    assert table == {
        name: [str(p.size[0]), f"{p.conv_weights / 1e6:.2f}", f"{p.bflops:g}", f"{p.top1:.1f}", f"{p.top5:.1f}"]
        for name, p in CLASSIFIERS.items()
    }
