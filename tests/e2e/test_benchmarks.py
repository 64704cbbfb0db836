"""The scripts in benchmarks/: each starts, and those that stand beside others write and count what they say."""

from __future__ import annotations

import importlib
import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cspdet.datasets.descriptor import load_dataset_config
from cspdet.datasets.formats.coco import load_coco
from cspdet.datasets.formats.yolo import YoloFormat
from cspdet.datasets.synthetic.dataset import make_shapes

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks"
# Parts of the others, not to be started by hand.
PARTS = ("training_step", "yolo_folder", "against_ultralytics_side")
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in PARTS)
STEP_PARTS = ["data", "to_input", "forward", "loss", "backward", "optimizer", "ema"]


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A script of benchmarks/, imported as they import each other."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module(name)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("set") / "shapes", images=8, size=64).config_path


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_describes_the_script(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if "openvino" in (FOLDER / f"{name}.py").read_text():
        pytest.importorskip("openvino")
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: {name}.py")
    assert f"python benchmarks/{name}.py" in text


@pytest.mark.e2e
def test_a_training_step_adds_up(shapes: Path) -> None:
    words = ("configs/csppelee_prn.yaml", "--data", str(shapes), "--size", "64", "--batch", "2", "--steps", "2",
             "--warm-up", "1", "--threads", "1", "--json")  # fmt: skip
    command = [sys.executable, str(FOLDER / "train_speed.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert (row["size"], row["batch"], row["steps"], row["threads"]) == ([64, 64], 2, 2, 1)
    assert list(row["parts_ms"]) == STEP_PARTS
    assert all(ms > 0 for ms in row["parts_ms"].values())
    assert row["cpu_ms"] > 0
    # The rate, the operations and the shares all follow from the time of a step.
    assert row["images_per_second"] * row["step_ms"] == pytest.approx(2000)
    assert row["bflops_per_second"] == pytest.approx(row["images_per_second"] * row["bflops"])
    assert row["step_gflops"] == pytest.approx(3 * row["bflops_per_second"])
    assert row["fraction_of_peak"] == pytest.approx(row["step_gflops"] / row["gemm_peak_gflops"])
    assert 0 < row["fraction_of_peak"] < 1
    assert 0 < row["data_wait_fraction"] < 1
    assert row["peak_memory_mib"] > 100  # torch alone is more


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((str(ROOT / "configs/csppelee_prn.yaml"), "--steps", "0"), "--steps: expected 1 or more, found 0"),
        (
            ("configs/csppelee_prn.yaml", "--precision", "fp8"),
            "--precision: expected auto, fp32, bf16, fp16, found fp8",
        ),
        (("configs/csppelee_prm.yaml",), "csppelee_prm.yaml: no such file"),
    ],
)
def test_a_mistake_is_one_line(
    words: tuple[str, ...], expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script("train_speed", monkeypatch).main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert expected in line


def test_the_folder_for_ultralytics_holds_the_same_boxes(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There and back again, through the converter of `cspdet prepare-data yolo`."""
    descriptor = load_dataset_config(shapes)
    data = script("yolo_folder", monkeypatch).write_yolo_folder(descriptor, tmp_path / "yolo")
    back = load_dataset_config(YoloFormat().convert(data, tmp_path / "back").config_path)
    for split in ("train", "val"):
        first, second = (load_coco(given.split(split), split) for given in (descriptor, back))
        assert second.classes.names == first.classes.names
        order = {Path(second.name(i)).stem: i for i in range(len(second))}
        assert set(order) == {str(image_id) for image_id in first.image_id.tolist()}
        for i in range(len(first)):
            there, again = first.boxes(i), second.boxes(order[str(int(first.image_id[i]))])
            np.testing.assert_allclose(again[0], there[0], atol=0.01)
            np.testing.assert_array_equal(again[1], there[1])


def test_their_categories_become_those_of_the_val_split(shapes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    descriptor = load_dataset_config(shapes)
    train, val = (load_coco(descriptor.split(split), split) for split in ("train", "val"))
    found = [
        {"image_id": 7, "file_name": "7.jpg", "category_id": n, "bbox": [1, 2, 3, 4], "score": 0.5}
        for n in range(1, len(train.classes) + 1)
    ]
    converted = script("against_ultralytics", monkeypatch).original_ids(found, train, val)
    by_id = dict(zip(val.classes.category_ids, val.classes.names, strict=True))
    assert [by_id[row["category_id"]] for row in converted] == list(train.classes.names)
    assert all(set(row) == {"image_id", "category_id", "bbox", "score"} for row in converted)
