"""Training classifiers as a user does: the command on a small folder of pictures, with interruptions and rubbish."""

from __future__ import annotations

import csv
import json
import math
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest
import torch
import torch.nn.functional as F
from faults_data import PROOF
from hypothesis import given
from hypothesis import strategies as st
from image_set_data import write_images

from cspdet.checkpoints.recipes import make_checkpoint, recipe_from_checkpoint
from cspdet.cli.main import run_command
from cspdet.config.loader import load_config, parse_config
from cspdet.darknet.cfg import parse_cfg
from cspdet.darknet.network import DarknetClassifier
from cspdet.darknet.num_classes import set_num_classes
from cspdet.errors import ConfigError
from cspdet.io.checkpoint import load_checkpoint, save_checkpoint
from cspdet.recipe import ClassificationRecipe, load_recipe
from cspdet.structures import Categories
from cspdet.training.config import ClassifierTrainConfig
from cspdet.training.losses.classification import class_loss
from cspdet.training.visualization import GUTTER

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs/classification/csppeleenet.yaml"
# A network of a tenth of the width would do, but the point is that the shipped one runs.
SMALL = [
    "input.size=32",
    "train.batch_size=6",
    "train.nominal_batch_size=6",
    "train.epochs=4",
    "train.precision=fp32",
    "train.workers=0",
    "eval.workers=0",
    "train.augment.close_mixing=1",
    "train.augment.mosaic=0.2",
]
TINY_CFG = """[net]
height=32
width=32
channels=3

[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=leaky

[convolutional]
filters=10
size=1
activation=linear

[avgpool]

[softmax]
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_images(tmp_path_factory.mktemp("colors") / "set", train=5, val=2)


def train(*words: str | Path) -> int:
    return run_command("train-classifier", [str(word) for word in words])


# --- the loss ------------------------------------------------------------------------------------


def test_the_loss_by_hand():
    """Logits that are all the same: every class has probability 1/4, whatever the goal."""
    class_id, fraction = torch.tensor([[2, 0, 0, 0]]), torch.tensor([[1.0, 0, 0, 0]])
    for smoothing in (0.0, 0.3):
        assert class_loss(torch.zeros(1, 4), class_id, fraction, smoothing).item() == pytest.approx(math.log(4))
    # p = (3/4, 1/4), the goal 0.9 and 0.1 of a smoothing of 0.2
    logits = torch.tensor([[math.log(3), 0.0]])
    expected = -(0.9 * math.log(3 / 4) + 0.1 * math.log(1 / 4))
    assert class_loss(logits, torch.tensor([[0]]), torch.ones(1, 1), 0.2).item() == pytest.approx(expected)


@given(seed=st.integers(0, 99), smoothing=st.floats(0, 0.9), classes=st.integers(2, 9), scale=st.floats(0.1, 20))
def test_the_loss_is_torchs_with_probabilities(seed, smoothing, classes, scale):
    """A class may stand twice in a mosaic: its shares add up."""
    draw = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(5, classes, generator=draw)
    class_id = torch.randint(classes, (5, 4), generator=draw)
    fraction = torch.rand(5, 4, generator=draw)
    fraction /= fraction.sum(dim=1, keepdim=True)
    target = torch.zeros(5, classes).scatter_add_(1, class_id, fraction)
    expected = F.cross_entropy(logits, target, label_smoothing=smoothing)
    torch.testing.assert_close(class_loss(logits, class_id, fraction, smoothing), expected)


# --- recipes -------------------------------------------------------------------------------------


def test_the_papers_recipe_takes_the_papers_steps():
    paper = load_config(CONFIG, ClassificationRecipe, [f"train={ROOT}/configs/train/classifier_paper.yaml"]).train
    assert paper.nominal_batch_size == 128
    assert paper.epochs * 1_281_167 / 128 == pytest.approx(800_000, rel=0.001)
    assert (paper.schedule.name, paper.schedule.power, paper.optimizer.learning_rate) == ("polynomial", 4, 0.1)
    assert (paper.optimizer.momentum, paper.optimizer.weight_decay) == (0.9, 0.0005)


def test_every_classifier_is_trained_by_the_recommended_recipe_by_default():
    expected = load_config(ROOT / "configs/train/classifier_recommended.yaml", ClassifierTrainConfig)
    assert expected.label_smoothing == 0.1
    assert expected.augment.mixup > 0 < expected.augment.cutmix
    paths = sorted((ROOT / "configs/classification").glob("*.yaml"))
    assert len(paths) > 20
    for path in paths:
        assert load_config(path, ClassificationRecipe).train == expected, path


def test_configs_from_before_there_was_training_are_read():
    values = {"model": {"backbone": {"name": "csppeleenet"}, "num_classes": 4}, "input": {"size": [64, 64]}}
    recipe = parse_config(values, ClassificationRecipe, "an old checkpoint")
    assert recipe.data is None
    assert recipe.eval.crop == 0.887
    assert recipe.train.augment.crop_area == (1.0, 1.0)


def test_a_section_of_the_other_task_is_refused():
    with pytest.raises(ConfigError, match=r"train\.assigner: unknown key"):
        load_config(CONFIG, ClassificationRecipe, ["train.assigner.ignore_iou=0.7"])
    with pytest.raises(ConfigError, match=r"train\.augment\.crop_area: unknown key"):
        load_recipe(ROOT / "configs/csppelee_efm_sam.yaml", ["train.augment.crop_area=[0.5,1]"])


# --- cfgs for other classes ----------------------------------------------------------------------


def test_a_cfg_gets_other_outputs_by_one_line():
    changed = set_num_classes(TINY_CFG, 3, "x.cfg")
    differing = [(a, b) for a, b in zip(TINY_CFG.split("\n"), changed.split("\n"), strict=True) if a != b]
    assert differing == [("filters=10", "filters=3")]
    assert set_num_classes(TINY_CFG, 10, "x.cfg") == TINY_CFG
    assert DarknetClassifier(parse_cfg(changed, "x.cfg")).num_classes == 3


def test_a_cfg_whose_default_count_is_used_gets_a_line():
    without = TINY_CFG.replace("filters=10\n", "")
    assert DarknetClassifier(parse_cfg(set_num_classes(without, 7, "x.cfg"), "x.cfg")).num_classes == 7


def test_a_cfg_whose_outputs_are_not_those_of_its_last_weights_is_refused():
    joined = TINY_CFG.replace("[avgpool]", "[route]\nlayers=-1,-1\n\n[avgpool]")
    with pytest.raises(
        ConfigError, match=r"x\.cfg:14: \[convolutional\] does not set the number of classes: for 3 the network has 6"
    ):
        set_num_classes(joined, 3, "x.cfg")


# --- whole runs ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory) -> Path:
    """Four epochs in one go."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    assert train(CONFIG, "--data", data, *SMALL, "--output", folder) == 0
    return folder


@pytest.mark.e2e
def test_a_run_leaves_what_the_documentation_says(straight, data):
    names = {path.name for path in straight.iterdir()}
    assert names == {
        "config.yaml", "metrics.jsonl", "metrics.json", "last.pt", "best.pt", "tensorboard", "train_batch.jpg",
        "val_predictions.jpg", "curves.png", "report.html",
    }  # fmt: skip
    lines = [json.loads(line) for line in (straight / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    assert [line["images_seen"] for line in lines] == [15, 30, 45, 60]
    assert [line["step"] for line in lines] == [3, 6, 9, 12]
    for line in lines:
        assert line["loss"] == line["loss_class"] > 0
        assert 0 <= line["top1"] <= 1
        assert line["top5"] is None  # three classes
        assert min(line["lr"], line["images_per_second"], line["data_wait_fraction"]) >= 0
    best = load_checkpoint(straight / "best.pt")
    assert best.training is None
    assert best.task == best.config["task"] == "classification"
    assert best.config["model"]["num_classes"] == 3
    assert best.config["data"] == str(data.absolute())
    assert (best.categories.names, best.categories.category_ids) == (("blue", "green", "red"), (0, 1, 2))
    page = (straight / "report.html").read_text()
    assert all(f'id="{anchor}"' in page for anchor in ("results", "curves", "samples", "data", "config"))
    assert "Images of each class" in page
    document = json.loads((straight / "metrics.json").read_text())
    assert document["top1"] == max(line["top1"] for line in lines)
    assert list(document["per_class"]) == ["blue", "green", "red"]
    # 15 pictures in batches of 6: the first six at 192 pixels, in three columns, over a strip of words
    height, width = cv2.imread(str(straight / "train_batch.jpg")).shape[:2]
    assert width == 3 * 192 + 2 * GUTTER
    assert height > 2 * 192


@pytest.mark.e2e
def test_the_config_of_a_run_is_a_config(straight):
    again = load_config(straight / "config.yaml", ClassificationRecipe)
    assert again == recipe_from_checkpoint(load_checkpoint(straight / "best.pt"), "best.pt")


@pytest.mark.e2e
def test_tensorboard_has_the_accuracy(straight):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(straight / "tensorboard"))
    events.Reload()
    assert {"loss/total", "loss/class", "accuracy/top1", "run/lr"} <= set(events.Tags()["scalars"])
    assert set(events.Tags()["images"]) == {"train_batch", "val_predictions"}


@pytest.fixture
def tiny(tmp_path) -> Path:
    """The config of a network that trains in a moment."""
    (tmp_path / "tiny.cfg").write_text(TINY_CFG)
    (tmp_path / "tiny.yaml").write_text("model: {name: darknet, cfg: tiny.cfg}\ninput: {size: 32}\n")
    return tmp_path / "tiny.yaml"


@pytest.mark.e2e
def test_colors_are_learned(data, tiny, tmp_path):
    words = ["train.epochs=20", "train.optimizer.learning_rate=0.1", *SMALL[1:3], *SMALL[4:7]]
    assert train(tiny, "--data", data, *words, "--output", tmp_path / "run") == 0
    lines = PROOF.read_metrics(tmp_path / "run")
    assert lines[-1]["top1"] == 1.0
    assert lines[-1]["loss"] < 0.3 * lines[0]["loss"]


@pytest.mark.e2e
def test_two_epochs_and_two_resumed_are_four(data, straight, tmp_path):
    folder = tmp_path / "run"
    assert train(CONFIG, "--data", data, *SMALL, "--output", folder, "--stop-after", "2") == 0
    assert len(PROOF.read_metrics(folder)) == 2
    assert train("--resume", folder) == 0
    assert PROOF.compare_runs(folder, straight) == []


@pytest.mark.e2e
def test_workers_and_a_stop_within_an_epoch_change_nothing(data, straight, tmp_path):
    """SIGTERM once training has begun: exit 143 with everything saved, and resuming ends at the same bits."""
    folder = tmp_path / "run"
    words = [sys.executable, "tools/train_classifier.py", CONFIG, "--data", data, *SMALL, "train.workers=2"]
    process = subprocess.Popen(
        [str(word) for word in [*words, "--output", folder]], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 240
    while not (folder / "train_batch.jpg").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=240)
    assert process.returncode == 143, said
    assert f"resume with: cspdet train-classifier --resume {folder}" in said
    assert load_checkpoint(folder / "last.pt").training["progress"]["epoch"] < 4
    assert train("--resume", folder, "train.workers=0", "--data", data) == 0
    assert PROOF.compare_runs(folder, straight) == []


@pytest.mark.e2e
def test_resume_refuses_what_would_be_another_run(data, straight, tmp_path, capsys):
    more = write_images(tmp_path / "two", classes=2)
    cases = {
        ("--resume", straight, "train.augment.cutmix=0.5"): "cannot be changed on --resume",
        ("--resume", straight, "--data", more): "its classes differ from those of the resumed run",
        ("--resume", straight, ROOT / "configs/classification/peleenet.yaml"): "the model differs from that of the run",
        (CONFIG, "--data", data, "--output", straight): "resume it with cspdet train-classifier --resume",
    }
    for words, expected in cases.items():
        assert train(*words) == 2
        said = capsys.readouterr().err
        assert said.splitlines()[-1].startswith("error: ")
        assert expected in said
    # the same network, whose config has another number of classes, is no other network
    assert train("--resume", straight, CONFIG, "--stop-after", "4") == 0


@pytest.mark.e2e
def test_weights_for_other_classes_bring_the_classes_of_the_same_name(data, straight, tmp_path, capsys):
    """At a rate of next to nothing, what a run ends with is what it began with."""
    two = write_images(tmp_path / "two", train=3, val=1, classes=2)
    words = (CONFIG, "--data", two, *SMALL, "train.epochs=1", "train.optimizer.learning_rate=1e-12")
    assert train(*words, "--output", tmp_path / "run", "--weights", straight / "best.pt") == 0
    said = capsys.readouterr().err
    assert "the network has 2 outputs" in said
    assert "kept 2 of 2 classes by name" in said
    given, kept = (load_checkpoint(folder / "best.pt").weights for folder in (straight, tmp_path / "run"))
    assert (given["fc.weight"].shape[0], kept["fc.weight"].shape[0]) == (3, 2)
    with (tmp_path / "run" / "transfer.csv").open(newline="") as file:
        rows = {row["entry"]: row for row in csv.DictReader(file)}
    assert list(rows) == [name for name in kept if not name.endswith("num_batches_tracked")]
    assert {name for name, row in rows.items() if row["taken"] != "yes"} == {"fc.weight", "fc.bias"}
    assert {rows[name]["taken"] for name in ("fc.weight", "fc.bias")} == {"by class"}
    assert torch.allclose(kept["fc.weight"], given["fc.weight"][:2], rtol=0, atol=1e-6)
    assert [rows["fc.bias"][key] for key in ("shape", "found")] == ["2", "3"]
    assert not (straight / "transfer.csv").exists()
    learned = [name for name in given if name.endswith("conv.weight")]
    assert len(learned) > 50
    for name in learned:
        torch.testing.assert_close(kept[name], given[name])


@pytest.mark.e2e
def test_one_image_per_class_and_no_val_split_train(tmp_path, capsys):
    root = write_images(tmp_path / "set", train=1, val=0)
    assert train(CONFIG, "--data", root, *SMALL, "train.epochs=1", "--output", tmp_path / "run") == 0
    assert "no val split; trains without evaluation" in capsys.readouterr().err
    (line,) = PROOF.read_metrics(tmp_path / "run")
    assert "top1" not in line
    one, two = (load_checkpoint(tmp_path / f"run/{name}.pt").weights for name in ("best", "last"))
    assert PROOF.differences(one, two) == []


@pytest.mark.e2e
def test_a_classifier_of_a_cfg_trains_with_the_classes_of_the_data(data, tiny, tmp_path):
    """At several sizes, with accumulated gradients, Darknet's rate and no average."""
    options = [
        f"train={ROOT}/configs/train/classifier_paper.yaml", "train.nominal_batch_size=12", "train.epochs=1",
        "train.multi_scale={low: 0.5, high: 2, interval: 1}", *SMALL[4:7], "train.batch_size=6",
    ]  # fmt: skip
    assert train(tiny, "--data", data, *options, "--output", tmp_path / "run") == 0
    (line,) = PROOF.read_metrics(tmp_path / "run")
    assert line["step"] == 2  # 15 pictures in batches of 6, two batches a step
    best = load_checkpoint(tmp_path / "run/best.pt")
    assert "filters=3\n" in best.config["model"]["cfg"]
    assert [value.shape[0] for name, value in best.weights.items() if name.endswith("conv.weight")] == [8, 3]


@pytest.mark.e2e
def test_a_run_that_diverges_stops_and_names_the_images(data, tiny, tmp_path, capsys):
    wild = ["train.optimizer.learning_rate=1e30", "train.optimizer.clip_norm=null", "train.epochs=20"]
    assert train(tiny, "--data", data, *SMALL, *wild, "--output", tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert "20 steps in a row without a finite gradient (images of the last: train/" in said


# --- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "expected a CONFIG, such as configs/classification/csppeleenet.yaml, or --resume DIR"),
        ([CONFIG], "expected --data DIR, a folder with train/CLASS/*"),
        ([CONFIG, "--data", "nowhere"], "nowhere: no such folder"),
        ([CONFIG, "train.epohcs=3"], "unknown key (did you mean 'epochs'?)"),
        ([CONFIG, "--dta", "x"], "unexpected '--dta' (did you mean '--data'?)"),
        (
            [ROOT / "configs/csppelee_efm_sam.yaml"],
            "expected a classifier, such as classification/csppeleenet, found a detector",
        ),
    ],
)
def test_errors_on_the_command_line_are_reported(capsys, words, expected):
    assert train(*words) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert expected in said


def test_mistakes_in_the_folders_stop_before_training(tmp_path, capsys):
    def reported(change: str) -> str:
        assert train(CONFIG, "--data", tmp_path / change, *SMALL, "--output", tmp_path / "run") == 2
        assert not (tmp_path / "run").exists()
        lines = capsys.readouterr().err.splitlines()
        return "\n".join(line for line in lines if line.startswith("error: "))

    for name in ("empty", "unknown", "rubbish", "halfway", "crop"):
        write_images(tmp_path / name, train=2, val=1)
    (tmp_path / "empty/train/yellow").mkdir()
    assert "yellow: no image in this class folder" in reported("empty")
    shutil.copytree(tmp_path / "unknown/val/red", tmp_path / "unknown/val/rad")
    assert "class 'rad' is not one of the 3 classes" in reported("unknown")
    (tmp_path / "rubbish/train/red/x.jpg").write_text("<html>")
    assert "x.jpg" in (said := reported("rubbish"))
    assert "train.on_bad_image=skip trains without them" in said
    (tmp_path / "halfway/val/red/0.png").write_bytes(b"")
    assert "halfway/val/red/0.png: the file is empty" in (said := reported("halfway"))
    assert "skip" not in said
    words = ("--data", tmp_path / "crop", "--output", tmp_path / "run", *SMALL, "eval.resize=20")
    assert train(CONFIG, *words) == 2
    assert "resize: expected the 32 pixels of the input or more, found 20" in capsys.readouterr().err
    assert train(CONFIG, *words[:-1], "train.batch_size=1") == 2
    assert "train.batch_size: batch normalization needs 2 images or more" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.e2e
def test_unreadable_training_images_can_be_replaced(tmp_path, capsys):
    root = write_images(tmp_path / "set", train=2, val=1)
    (root / "train/red/x.jpg").write_text("<html>")
    (root / "train/red/notes.txt").write_text("no picture by its name, so only counted")
    words = (CONFIG, "--data", root, *SMALL, "train.epochs=1", "train.on_bad_image=skip", "--output", tmp_path / "run")
    assert train(*words) == 0
    said = capsys.readouterr().err
    assert "replaced by another image" in said
    assert "files without an image suffix skipped" in said
    assert "1 unreadable images were replaced by others so far" in said


def test_a_run_of_the_other_kind_cannot_be_resumed(tmp_path, capsys):
    recipe = load_recipe(ROOT / "configs/csppelee_efm_sam.yaml")
    save_checkpoint(tmp_path / "last.pt", make_checkpoint(recipe, Categories(("disc",), (1,)), {}, {"progress": {}}))
    assert load_checkpoint(tmp_path / "last.pt").task == "detection"
    assert train("--resume", tmp_path) == 2
    assert f"resume with: cspdet train --resume {tmp_path}" in capsys.readouterr().err
