"""A trained model in place of the CONFIG of `cspdet train`."""

from __future__ import annotations

import csv
import json

import pytest
import torch
from darknet_data import TINY, write_pair

from cspdet.cli.main import main
from cspdet.datasets.synthetic.dataset import make_shapes
from cspdet.io.checkpoint import load_checkpoint
from cspdet.recipe import load_recipe


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A checkpoint with the classes circle and other, and a shapes dataset; both in the current folder."""
    cfg, weights = write_pair(tmp_path, TINY)
    (tmp_path / "x.names").write_text("circle\nother\n")
    monkeypatch.chdir(tmp_path)
    words = ["import-darknet", str(cfg), str(weights), "--output", "mine.pt", "--names", "x.names", "input.size=64"]
    assert main(words) == 0
    make_shapes(tmp_path / "shapes", images=8, size=64, seed=0)
    return tmp_path / "mine.pt"


@pytest.mark.e2e
def test_a_model_is_trained_further_by_the_recipe_finetune(model, tmp_path, capsys):
    words = ["data=shapes/shapes.yaml", "train.epochs=1", "train.batch_size=4", "train.workers=0", "--device", "cpu"]
    assert main(["train", "mine.pt", *words, "--output", "run", "train.optimizer.learning_rate=1e-12"]) == 0
    assert "kept 1 of 6 classes by name: circle" in capsys.readouterr().err
    recipe = load_recipe(tmp_path / "run/config.yaml")
    expected = load_recipe("csppelee_efm_sam", ["train=train/finetune.yaml"]).train
    assert recipe.train.schedule == expected.schedule
    assert recipe.train.schedule != load_recipe("csppelee_efm_sam").train.schedule
    assert (recipe.input.size, recipe.input.resize) == ((64, 64), "stretch")
    given, tuned = (load_checkpoint(path).weights for path in (model, tmp_path / "run/best.pt"))
    with (tmp_path / "run/transfer.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["taken"] for row in rows} == {"yes", "by class"}
    name = next(row["entry"] for row in rows if row["taken"] == "by class" and row["entry"].endswith("weight"))
    old, new = given[name].unflatten(0, (-1, 7)), tuned[name].unflatten(0, (-1, 11))
    assert torch.allclose(old[:, :5], new[:, :5], atol=1e-6)
    assert main(["export", "run", "--format", "safetensors", "--output", "shared.safetensors"]) == 0
    assert main(["train", "shared.safetensors", *words, "--output", "shared"]) == 0
    assert main(["train", "run", *words, "--output", "again"]) == 0  # a run folder is a model too
    metrics = [json.loads(line) for line in (tmp_path / "again/metrics.jsonl").read_text().splitlines()]
    assert len(metrics) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mine.pt"], "mine.pt: to train this model further, name the data: data=FILE"),
        (["gone.pt", "data=shapes/shapes.yaml"], "gone.pt: no such file"),
        (
            ["mine.pt", "data=shapes/shapes.yaml", "train.keep_classes=[circle,star]"],
            "train.keep_classes: star: mine.pt has no outputs of this class: expected a checkpoint with this class",
        ),
        (
            ["csppelee_prn", "data=shapes/shapes.yaml", "train.keep_classes=[circle]"],
            "train.keep_classes: circle: there are no initial weights: expected a checkpoint with this class as MODEL",
        ),
        (["mine.onnx"], "mine.onnx: expected a CONFIG (.yaml) or a checkpoint (.pt), found an exported file"),
        (["yolov4-tiny", "data=shapes/shapes.yaml"], "this model is not downloaded; `cspdet fetch yolov4-tiny`"),
    ],
)
def test_what_is_no_model_to_train_further_is_one_line(model, words, message, capsys):
    capsys.readouterr()
    assert main(["train", *words]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert message in line
