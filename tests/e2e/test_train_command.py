"""Training as a user runs it: the tool itself, on a small set, with interruptions and rubbish."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from faults_data import PROOF

from cspdet.cli.main import run_command
from cspdet.datasets.synthetic.dataset import make_shapes
from cspdet.io.checkpoint import load_checkpoint

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs/csppelee_efm_sam.yaml"
# A network of a tenth of the width would do, but the point is that the shipped one runs.
SMALL = [
    "input.size=64",
    "train.batch_size=8",
    "train.epochs=4",
    "train.precision=fp32",
    "train.workers=0",
    "eval.workers=0",
    "train.augment.close_mosaic=1",
]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    make_shapes(folder, images=20, size=64, seed=0)
    return folder / "shapes.yaml"


def train(*words: str | Path) -> int:
    return run_command("train", [str(word) for word in words])


@pytest.fixture(scope="module")
def straight(shapes, tmp_path_factory) -> Path:
    """Four epochs in one go."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    assert train(CONFIG, f"data={shapes}", *SMALL, "--output", folder) == 0
    return folder


@pytest.mark.e2e
def test_a_run_leaves_what_the_contract_says(straight):
    names = {path.name for path in straight.iterdir()}
    assert {"config.yaml", "metrics.jsonl", "last.pt", "best.pt", "tensorboard", "train_batch.jpg"} <= names
    assert {"val_detections.jpg", "curves.png", "report.html"} <= names
    lines = [json.loads(line) for line in (straight / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    assert [line["images_seen"] for line in lines] == [20, 40, 60, 80]
    assert [line["step"] for line in lines] == [3, 6, 9, 12] or lines[0]["step"] > 0
    for key in ("lr", "loss", "loss_box", "loss_objectness", "loss_class", "images_per_second", "data_wait_fraction"):
        assert all(line[key] >= 0 for line in lines)
    assert all("AP50" in line for line in lines)
    assert lines[-1]["loss"] < lines[0]["loss"]
    best = load_checkpoint(straight / "best.pt")
    assert best.training is None
    assert best.categories.category_ids == (3, 5, 6, 10, 11, 17)


@pytest.mark.e2e
def test_tensorboard_groups_the_numbers_of_every_epoch(straight):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(straight / "tensorboard"))
    events.Reload()
    assert {"loss/total", "loss/box", "loss/class", "AP/AP50", "AR/AR100", "run/lr"} <= set(events.Tags()["scalars"])
    lines = [json.loads(line) for line in (straight / "metrics.jsonl").read_text().splitlines()]
    assert [entry.step for entry in events.Scalars("loss/total")] == [line["step"] for line in lines]
    assert [entry.value for entry in events.Scalars("loss/total")] == pytest.approx([line["loss"] for line in lines])
    assert set(events.Tags()["images"]) == {"train_batch", "val_detections"}


@pytest.mark.e2e
def test_without_val_boxes_nothing_becomes_worse(tmp_path, capsys):
    """AP is undefined then: early stopping does not count, and best.pt has the last weights."""
    make_shapes(tmp_path, images=6, size=64, seed=0)
    val = tmp_path / "annotations/instances_val.json"
    val.write_text(json.dumps(json.loads(val.read_text()) | {"annotations": []}))
    words = [f"data={tmp_path / 'shapes.yaml'}", *SMALL, "train.epochs=3", "train.patience=1", "input.size=32"]
    assert train(CONFIG, *words, "train.batch_size=5", "--output", tmp_path / "run") == 0  # the sixth image joins them
    assert [line["images_seen"] for line in PROOF.read_metrics(tmp_path / "run")] == [6, 12, 18]
    best, last = (load_checkpoint(tmp_path / "run" / name).weights for name in ("best.pt", "last.pt"))
    assert all(torch.equal(best[name], value) for name, value in last.items())
    assert "AP is undefined, and best.pt will be the last weights" in capsys.readouterr().err


@pytest.mark.e2e
def test_two_epochs_and_two_resumed_are_four(shapes, straight, tmp_path):
    folder = tmp_path / "run"
    assert train(CONFIG, f"data={shapes}", *SMALL, "--output", folder, "--stop-after", "2") == 0
    assert len(PROOF.read_metrics(folder)) == 2
    assert train("--resume", folder) == 0
    assert PROOF.compare_runs(folder, straight) == []


@pytest.mark.e2e
def test_workers_and_a_stop_within_an_epoch_change_nothing(shapes, straight, tmp_path):
    """SIGTERM once training has begun: exit 143 with everything saved, and resuming ends at the same bits."""
    folder = tmp_path / "run"
    words = [sys.executable, "tools/train.py", CONFIG, f"data={shapes}", *SMALL, "train.workers=2", "--output", folder]
    process = subprocess.Popen([str(word) for word in words], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while not (folder / "train_batch.jpg").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=240)
    assert process.returncode == 143, said
    assert "resume with: cspdet train --resume" in said
    assert said.splitlines()[-1].endswith(f"report: {folder / 'report.html'}")
    assert "The run was stopped before its end." in (folder / "report.html").read_text()
    assert train("--resume", folder, "train.workers=0") == 0
    assert "The run was stopped" not in (folder / "report.html").read_text()
    assert PROOF.compare_runs(folder, straight) == []


@pytest.mark.e2e
def test_ctrl_c_saves_and_exits_130(shapes, tmp_path):
    folder = tmp_path / "run"
    words = [sys.executable, "tools/train.py", CONFIG, f"data={shapes}", *SMALL, "train.epochs=500", "--output", folder]
    process = subprocess.Popen([str(word) for word in words], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while not (folder / "train_batch.jpg").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=240)
    assert process.returncode == 130, said
    assert load_checkpoint(folder / "last.pt").training["progress"]["images_seen"] > 0


@pytest.mark.e2e
def test_resume_refuses_what_would_be_another_run(shapes, straight, tmp_path, capsys):
    cases = {
        ("--resume", straight, "train.optimizer.learning_rate=1"): "cannot be changed on --resume",
        ("--resume", straight, "--output", tmp_path): "remove --weights and --output",
        ("--resume", tmp_path): "no such file",
        ("--resume", straight, ROOT / "configs/csppelee_efm.yaml"): "the model differs from that of the run",
        (
            CONFIG,
            "--output",
            straight,
            f"data={load_checkpoint(straight / 'last.pt').config['data']}",
        ): "already contains a run",
    }
    for words, expected in cases.items():
        assert train(*words) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ")
        assert expected in said


@pytest.mark.e2e
def test_weights_of_a_run_start_another(shapes, straight, tmp_path, capsys):
    """At a rate of next to nothing, what a run ends with is what it began with."""
    words = (CONFIG, f"data={shapes}", *SMALL, "train.epochs=1", "train.optimizer.learning_rate=1e-12")
    assert train(*words, "--output", tmp_path / "run", "--weights", straight / "best.pt") == 0
    assert "entries" in capsys.readouterr().err
    given, kept = (load_checkpoint(folder / "best.pt").weights for folder in (straight, tmp_path / "run"))
    learned = [name for name in given if name.endswith("conv.weight")]
    assert len(learned) > 50
    for name in learned:
        torch.testing.assert_close(kept[name], given[name])


def test_without_coco_both_ways_to_continue_are_reported(tmp_path):
    """What a newcomer meets first: exit 2, the download command and the built-in set, no traceback."""
    config = tmp_path / "configs/csppelee_efm_sam.yaml"
    for name in ("csppelee_efm_sam.yaml", "train/recommended.yaml"):
        (tmp_path / "configs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "configs" / name).write_text((ROOT / "configs" / name).read_text())
    (tmp_path / "data").mkdir()
    (tmp_path / "data/coco.yaml").write_text((ROOT / "data/coco.yaml").read_text())
    words = [sys.executable, str(ROOT / "tools/train.py"), str(config)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, cwd=tmp_path, env=os.environ)
    assert done.returncode == 2
    assert all(line.startswith("error: ") for line in done.stderr.splitlines())
    assert "prepare-data coco" in done.stderr
    assert "prepare-data shapes" in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "expected a CONFIG"),
        (["nothing.yaml"], "nothing.yaml: no such file"),
        ([CONFIG, "train.epohcs=3"], "unknown key (did you mean 'epochs'?)"),
        ([CONFIG, "--devise", "cpu"], "unexpected '--devise' (did you mean '--device'?)"),
        ([CONFIG, "--device", "tpu"], "expected auto, cpu, cuda or cuda:N, found 'tpu'"),
        ([CONFIG, "--stop-after", "0"], "--stop-after: expected 1 or more"),
        ([CONFIG, "data=nowhere.yaml"], "nowhere.yaml: no such data descriptor"),
    ],
)
def test_errors_on_the_command_line_are_reported_in_one_line(capsys, words, expected):
    assert train(*words) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert expected in said


def test_an_empty_train_split_and_missing_images_stop_before_training(shapes, tmp_path, capsys):
    truth = json.loads((shapes.parent / "annotations/instances_train.json").read_text())
    for change, expected in [
        ({"images": [], "annotations": []}, "'images' is empty; expected at least one"),
        ({"images": [dict(image, file_name=f"gone-{image['file_name']}") for image in truth["images"]]}, "gone-"),
        ({"images": [dict(image, width=image["width"] + 1) for image in truth["images"]]}, "the annotations say 65x64"),
    ]:
        (tmp_path / "train.json").write_text(json.dumps({**truth, **change}))
        (tmp_path / "mine.yaml").write_text(
            f"train: {{images: {shapes.parent}/train, annotations: train.json}}\n"
            f"val: {{images: {shapes.parent}/val, annotations: {shapes.parent}/annotations/instances_val.json}}\n"
        )
        assert train(CONFIG, f"data={tmp_path}/mine.yaml", *SMALL, "--output", tmp_path / "run") == 2
        said = capsys.readouterr().err
        assert any(line.startswith("error: ") and expected in line for line in said.splitlines()), said
        assert not (tmp_path / "run").exists()


@pytest.mark.e2e
def test_a_run_that_diverges_stops_and_names_the_images(shapes, tmp_path, capsys):
    wild = ["train.optimizer.learning_rate=1e30", "train.optimizer.clip_norm=null", "train.epochs=20"]
    assert train(CONFIG, f"data={shapes}", *SMALL, *wild, "--output", tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert "20 steps in a row without a finite gradient (image ids of the last: " in said
    assert "lower train.optimizer.learning_rate (now 1e+30)" in said


@pytest.mark.e2e
def test_every_option_of_a_recipe_trains(shapes, tmp_path):
    """Accumulation, multi-scale, no average, steps, mse, albumentations, non-square input: one epoch of all at once."""
    options = [
        "train=configs/train/paper.yaml", "train.nominal_batch_size=16", "train.multi_scale={low: 0.5, interval: 1}",
        "train.augment.mosaic=0.5", "train.augment.albumentations=[{name: GaussianBlur, args: {p: 1.0}}]",
        "input.size=[64,96]", "model.neck.sam=false", "model.backbone.gamma=0.25", "model.backbone.fusion=last",
    ]  # fmt: skip
    words = [CONFIG, f"data={shapes}", *options, *SMALL[1:], "train.epochs=1", "--output", tmp_path / "run"]
    done = subprocess.run(
        [sys.executable, "tools/train.py", *(str(word) for word in words)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "best.pt: AP " in done.stderr  # and what it is made of
    assert "the full analysis, with images: cspdet analyze" in done.stderr
    assert done.stderr.splitlines()[-1].endswith(f"report: {tmp_path / 'run/report.html'}")
    (line,) = PROOF.read_metrics(tmp_path / "run")
    assert line["step"] == 2  # 20 pictures in batches of 8, two batches a step
    assert load_checkpoint(tmp_path / "run/last.pt").training["ema_updates"] is None


@pytest.mark.e2e
def test_patience_ends_a_run_that_does_not_get_better(shapes, tmp_path, capsys):
    """At this rate nothing is learned: the first evaluation is the best one."""
    run = tmp_path / "run"
    words = [CONFIG, f"data={shapes}", *SMALL, "train.epochs=9", "train.optimizer.learning_rate=1e-9"]
    assert train(*words, "train.patience=2", "--output", run) == 0
    assert [line["epoch"] for line in PROOF.read_metrics(run)] == [1, 2, 3]
    assert "no improvement in 2 evaluations (train.patience): early stopping after epoch 3" in capsys.readouterr().err
    assert train("--resume", run, "train.patience=3") == 0
    assert len(PROOF.read_metrics(run)) == 4


@pytest.mark.e2e
def test_a_frozen_backbone_stays_as_it_came(shapes, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    words = [CONFIG, f"data={shapes}", *SMALL, "train.epochs=1", "train.ema=null"]
    assert train(*words, "--output", first) == 0
    assert train(*words, "--weights", first / "best.pt", "train.freeze=[backbone]", "--output", second) == 0
    before, after = load_checkpoint(first / "best.pt").weights, load_checkpoint(second / "best.pt").weights
    changed = {name.split(".")[0] for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {"neck", "head"}
