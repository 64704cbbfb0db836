"""`classify`, `extract-features` and `load_classifier`: what comes out for every kind of source and model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from classification_data import SHARPNESS, ColorClassifier, color_image, color_model, save
from darknet_data import CLASSIFIER, write_pair

import cspdet
from cspdet import load_classifier
from cspdet.checkpoints.building import build_classifier
from cspdet.checkpoints.loading import load_model
from cspdet.checkpoints.recipes import make_checkpoint
from cspdet.cli.main import main, run_command
from cspdet.config.loader import load_config
from cspdet.darknet.weight_order import layers_in_file_order
from cspdet.darknet.weights import write_weights
from cspdet.datasets.classification.crops import ImageCrop
from cspdet.datasets.image_io import read_image
from cspdet.errors import CheckpointError, ConfigError, DataError
from cspdet.inference.classifier import Prediction
from cspdet.io.checkpoint import save_checkpoint
from cspdet.recipe import ClassificationRecipe
from cspdet.structures import Categories

ROOT = Path(__file__).parents[2]
E = float(np.exp(SHARPNESS))
SCORE = E / (E + 2)  # softmax of (SHARPNESS, 0, 0)

CONFIG = """
model: {backbone: {name: csppeleenet}, num_classes: 3, normalize: {mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25]}}
input: {size: [64, 96]}
eval: {crop: 0.5}
"""


@pytest.fixture
def color_classifier(tmp_path, monkeypatch) -> ColorClassifier:
    """The commands tell colors, in an empty folder."""
    loaded = color_model()
    monkeypatch.setattr("cspdet.checkpoints.loading.load_model", lambda *_, **__: loaded)
    monkeypatch.chdir(tmp_path)
    Path("colors.pt").touch()
    return loaded.network  # type: ignore[return-value]


def saved_classifier(folder: Path) -> Path:
    (folder / "small.yaml").write_text(CONFIG)
    recipe = load_config(folder / "small.yaml", ClassificationRecipe)
    torch.manual_seed(0)
    model = build_classifier(recipe, "test")
    save_checkpoint(
        folder / "small.pt", make_checkpoint(recipe, Categories(("a", "b", "c"), (1, 2, 3)), model.state_dict())
    )
    return folder / "small.pt"


# --- classify --------------------------------------------------------------------------------------


def test_a_line_for_each_of_the_best_classes(color_classifier, capsys):
    save(Path("in/sea.png"), "blue")
    assert run_command("classify", ["colors.pt", "in/sea.png", "--top", "2"]) == 0
    best, second = capsys.readouterr().out.splitlines()
    assert best == f"in/sea.png  blue  {SCORE:.4f}"
    assert second.split("  ")[2] == f"{(1 - SCORE) / 2:.4f}"


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_folders_and_files_of_results(color_classifier, capsys, suffix):
    save(Path("in/sub/a.jpg"), "red", 20, 300)
    save(Path("in/b.png"), "green", 41, 17)
    assert run_command("classify", ["colors.pt", "in", "--output", f"out{suffix}", "--json", "--batch-size", "1"]) == 0
    records = json.loads(capsys.readouterr().out)
    text = Path(f"out{suffix}").read_text()
    assert records == (json.loads(text) if suffix == ".json" else [json.loads(line) for line in text.splitlines()])
    assert records[0] == {
        "source": "in/b.png", "width": 17, "height": 41,
        "predictions": [{"class_id": 1, "class_name": "green", "score": round(SCORE, 6)}],
    }  # fmt: skip
    assert [(r["source"], r["width"], r["predictions"][0]["class_name"]) for r in records] == [
        ("in/b.png", 17, "green"),
        ("in/sub/a.jpg", 300, "red"),
    ]


def test_unreadable_images_are_reported_and_the_others_are_classified(color_classifier, capsys):
    save(Path("in/c.png"), "green")
    Path("in/a.jpg").write_bytes(b"no picture")
    Path("in/b.png").touch()
    Path("in/film.mp4").touch()
    assert run_command("classify", ["colors.pt", "in", "--output", "out.json"]) == 2
    output = capsys.readouterr()
    assert output.out.startswith("in/c.png  green")
    errors = [line for line in output.err.splitlines() if line.startswith("error: ")]
    assert [error.split(":")[1].strip() for error in errors] == ["in/a.jpg", "in/b.png"]
    assert "videos skipped: 1, the first is in/film.mp4" in output.err
    assert len(json.loads(Path("out.json").read_text())) == 1


def test_an_interruption_keeps_what_is_done(color_classifier, capsys):
    for i in range(3):
        save(Path(f"in/{i}.png"), "red")
    color_classifier.interrupt_at = 3
    assert run_command("classify", ["colors.pt", "in", "--batch-size", "1", "--output", "out.jsonl"]) == 130
    assert len(Path("out.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.jpg"], "nowhere.jpg: no such image"),
        (["film.mp4"], "film.mp4: expected an image"),
        (["in", "--top", "0"], "--top: expected 1 or more, found 0"),
        (["in", "--batch-size", "0"], "--batch-size: expected 1 or more"),
        (["in", "--output", "x.csv"], "--output: expected a file named .json or .jsonl, found 'x.csv'"),
        (["in", "--resize", "5"], "resize: expected the 32 pixels of the input or more, found 5"),
        (["in", "--device", "abacus"], "--device"),
    ],
)
def test_mistakes_are_errors(color_classifier, capsys, words, message):
    Path("film.mp4").touch()
    save(Path("in/1.png"), "red")
    assert run_command("classify", ["colors.pt", *words]) == 2
    assert message in capsys.readouterr().err


# --- Python ----------------------------------------------------------------------------------------


def test_a_prediction_ranks_its_classes():
    found = Prediction(("a", "b", "c"), torch.tensor([0.2, 0.5, 0.3]))
    assert (found.class_id, found.class_name, found.score) == (1, "b", 0.5)
    assert [best.class_name for best in found.top(2)] == ["b", "c"]
    assert len(found.top()) == 3
    assert repr(found) == "Prediction('b', score=0.5000)"


def test_one_image_or_a_list(color_classifier):
    path = save(Path("x.png"), "green")
    classifier = cspdet.load_classifier("colors.pt", device="cpu")
    assert classifier(path).class_name == "green"
    assert classifier(str(path)).score == pytest.approx(SCORE)
    many = classifier([path, *(color_image("blue") for _ in range(20))])
    assert [found.class_name for found in many] == ["green", *["blue"] * 20]
    assert classifier.probabilities(path).shape == (3,)
    assert classifier.probabilities([path, path]).shape == (2, 3)
    assert classifier.probabilities([]).shape == (0, 3)
    assert classifier([]) == []
    assert repr(classifier).startswith("ClassifierPredictor(")
    assert classifier(color_image("blue")[..., ::-1], bgr=True).class_name == "blue"
    assert classifier(path).to_dict()["source"] == "x.png"
    with pytest.raises(ValueError, match="expected an array"):
        classifier(np.zeros(4))
    with pytest.raises(ValueError, match="got int"):
        classifier(3)
    with pytest.raises(DataError, match="no such image"):
        classifier("nothing.png")
    with pytest.raises(ValueError, match="no separate backbone"):
        classifier.features(path)


def test_the_settings_reach_the_images(color_classifier):
    image = color_image("red", 64, 64)
    image[16:48, 16:48] = (0, 0, 255)  # the middle half
    assert load_classifier("x", crop=1.0)(image).class_name == "red"
    assert load_classifier("x", crop=0.5)(image).class_name == "blue"  # only the middle half is seen
    corners = load_classifier("x", crop=0.5, ten_crop=True).probabilities(image)
    assert corners[0] > corners[2] > corners[1]  # 8 corners are three quarters red, 2 centers blue
    with pytest.raises(ConfigError, match="resize"):
        load_classifier("x", resize=3)


def test_features_of_a_checkpoint_are_those_of_its_backbone(tmp_path):
    path = saved_classifier(tmp_path)
    file = save(tmp_path / "x.png", "red", 150, 200)
    classifier = load_classifier(path, device="cpu")
    maps = classifier.features(file)
    views = torch.from_numpy(ImageCrop((64, 96), 192)(read_image(file), "x"))
    model = load_model(path).classifier
    with torch.no_grad():
        expected = model.backbone((views / 255 - 0.5) / 0.25)
        logits = model(views / 255)
    assert [tuple(m.shape[1:]) for m in maps] == [(8, 12), (4, 6), (2, 3)]
    for x, y in zip(maps, expected, strict=True):
        assert torch.allclose(x, y[0], atol=1e-5)
    assert torch.allclose(classifier.pooled_features(file), expected[-1][0].mean(dim=(1, 2)), atol=1e-5)
    assert torch.allclose(classifier.probabilities(file), logits.softmax(1)[0], atol=1e-6)
    many = classifier.features([file, color_image("blue")])
    assert len(many) == 2
    assert torch.allclose(many[0][0], maps[0], atol=1e-5)


def test_models_of_every_kind(tmp_path):
    path = saved_classifier(tmp_path)
    assert load_model(path).categories.names == ("a", "b", "c")
    config = tmp_path / "small.yaml"
    fresh = load_model(config)
    assert fresh.categories.names == ("class 1", "class 2", "class 3")
    thousand = tmp_path / "thousand.yaml"
    thousand.write_text(CONFIG.replace("num_classes: 3", "num_classes: 1000"))
    loaded = load_model(thousand, weights=path)  # as many classes as the weights have
    assert (loaded.network.num_classes, loaded.categories.names) == (3, ("a", "b", "c"))
    write_weights(tmp_path / "x.weights", layers_in_file_order(loaded.network))
    again = load_model(config, weights=tmp_path / "x.weights").classifier.state_dict()
    assert all(torch.equal(again[name], value) for name, value in loaded.network.state_dict().items())
    with pytest.raises(CheckpointError, match=r"has .* values, but the network needs"):
        load_model(thousand, weights=tmp_path / "x.weights")
    with pytest.raises(CheckpointError, match="has its own weights"):
        load_model(path, weights=path)
    with pytest.raises(
        ConfigError, match="expected a classifier, such as classification/csppeleenet, found a detector"
    ):
        load_model(ROOT / "configs/yolov3_tiny.yaml", task="classification")
    with pytest.raises(CheckpointError, match="expected a detector, found a classifier"):
        load_model(path, task="detection")
    with pytest.raises(CheckpointError, match="no such file"):
        load_model("nothing.pt")


# --- extract-features ------------------------------------------------------------------------------


def test_pooled_features_in_one_file(tmp_path, capsys):
    path = saved_classifier(tmp_path)
    files = [save(tmp_path / f"in/{name}.png", name) for name in ("red", "green")]
    (tmp_path / "in/bad.jpg").write_bytes(b"no picture")
    out = tmp_path / "f.npz"
    assert main(["extract-features", str(path), str(tmp_path / "in"), "--output", str(out)]) == 2
    output = capsys.readouterr()
    assert "2 images, features 704" in output.out
    assert "bad.jpg" in output.err
    with np.load(out) as found:
        assert sorted(found) == ["features", "names"]
        assert found["names"].tolist() == [str(files[1]), str(files[0])]  # in the order of their paths
        expected = load_classifier(path, device="cpu").pooled_features(files[1]).numpy()
        assert np.allclose(found["features"][0], expected, atol=1e-5)


def test_maps_of_another_size_in_a_folder(tmp_path):
    path = saved_classifier(tmp_path)
    save(tmp_path / "in/sub/red.png", "red")
    words = ["--output", str(tmp_path / "maps"), "--layer", "maps", "--size", "96x64", "--crop", "1"]
    assert main(["extract-features", str(path), str(tmp_path / "in"), *words]) == 0
    with np.load(tmp_path / "maps/sub/red.png.npz") as found:
        assert {name: found[name].shape[1:] for name in found} == {
            "stride8": (12, 8), "stride16": (6, 4), "stride32": (3, 2),
        }  # fmt: skip
    assert main(["extract-features", str(path), str(tmp_path / "in"), "--output", str(tmp_path / "vectors")]) == 0
    assert np.load(tmp_path / "vectors/sub/red.png.npy").shape == (704,)


def test_a_detector_gives_the_features_of_its_backbone(tmp_path):
    save(tmp_path / "red.png", "red")
    words = [str(tmp_path / "red.png"), "--output", str(tmp_path / "f.npz"), "--layer", "maps", "--size", "64"]
    assert main(["extract-features", str(ROOT / "configs/yolov3_tiny.yaml"), *words]) == 0
    with np.load(tmp_path / "f.npz") as found:
        assert {name: found[name].shape for name in found} == {
            "names": (1,), "stride8": (1, 128, 8, 8), "stride16": (1, 256, 4, 4), "stride32": (1, 1024, 2, 2),
        }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--output", "x.csv"], "--output: expected FILE.npz or a folder, found 'x.csv'"),
        (["--output", "x.npz", "--size", "big"], "--size: expected a side such as 416, or HEIGHTxWIDTH"),
        (["--output", "x.npz", "--size", "70"], "input.size: expected multiples of 32, found 70x70"),
        (["--output", "x.npz", "--batch-size", "0"], "--batch-size"),
        (["--output", "x.npz", "--weights", "small.pt"], "has its own weights"),
        (["--output", "taken"], "taken: is a file; expected a folder"),
    ],
)
def test_extraction_that_cannot_be(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    path = saved_classifier(tmp_path)
    save(Path("in/red.png"), "red")
    Path("taken").touch()
    assert main(["extract-features", str(path), "in", *words]) == 2
    assert message in capsys.readouterr().err
    assert not Path("x.npz").exists()


def test_a_cfg_has_classes_but_no_features(tmp_path, capsys):
    cfg, weights = write_pair(tmp_path, CLASSIFIER)
    assert main(["import-darknet", str(cfg), str(weights), "--output", str(tmp_path / "x.pt")]) == 0
    image = save(tmp_path / "red.png", "red")
    assert main(["classify", str(tmp_path / "x.pt"), str(image), "--top", "9"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 5  # what the import said, and all five classes
    assert main(["extract-features", str(tmp_path / "x.pt"), str(image), "--output", str(tmp_path / "f.npz")]) == 2
    assert "error: x: the network of a Darknet cfg has no separate backbone" in capsys.readouterr().err


@pytest.mark.e2e
def test_the_scripts_run(tmp_path):
    path = saved_classifier(tmp_path)
    for name in ("red", "green"):
        for label in "abc":
            save(tmp_path / f"data/val/{label}/{name}.png", name)
    for words in (
        ["tools/classify.py", path, tmp_path / "data/val/a"],
        ["tools/eval_classifier.py", path, "--data", tmp_path / "data", "--output", tmp_path / "out"],
        ["tools/extract_features.py", path, tmp_path / "data/val", "--output", tmp_path / "f.npz"],
    ):
        done = subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout
