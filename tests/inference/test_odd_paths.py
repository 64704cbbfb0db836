"""Whole commands on files and folders whose names are not UTF-8: every result is written, and read again."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from darknet_data import TINY, write_pair

from cspdet.cli.main import main
from cspdet.inference.records import read_records
from cspdet.io.line_file import LineFile
from cspdet.io.text import opencv_path

FOLDER = os.fsdecode(b"caf\xe9")
NAMES = (os.fsdecode(b"stra\xdfe.png"), "a=b [1]*\n.png", "é猫😀" * 10 + ".png", "n" * 200 + ".png")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / FOLDER).mkdir()
    cfg, weights = write_pair(tmp_path, TINY)
    image = cv2.imencode(".png", np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))[1].tobytes()
    (tmp_path / "images").mkdir()
    for name in NAMES:
        (tmp_path / "images" / name).write_bytes(image)
    path = f"{FOLDER}/x.pt"
    assert main(["import-darknet", str(cfg), str(weights), "--output", path]) == 0
    return path


def test_detect_writes_and_reads_any_name(model, tmp_path, capsys):
    output = tmp_path / FOLDER / "out"
    assert main(["detect", model, "images", "--output", str(output), "--backend", "torch", "--min-score", "0"]) == 0
    sources = {record["source"] for record in read_records(output / "detections.jsonl")}
    assert sources == {f"images/{name}" for name in NAMES}
    assert {path.name for path in output.iterdir()} == {*NAMES, "detections.jsonl"}
    (output / "detections.jsonl").read_text(encoding="utf-8")
    capsys.readouterr()
    output = tmp_path / FOLDER / "json"
    assert main(["detect", model, "images", "--output", str(output), "--backend", "torch", "--json"]) == 0
    assert {result["source"] for result in json.loads(capsys.readouterr().out)["results"]} == sources


@pytest.mark.parametrize(("export_format", "suffix"), [("onnx", "onnx"), ("openvino", "xml"), ("torchscript", "ts")])
def test_exported_files_in_a_folder_of_any_name_are_used(model, tmp_path, export_format, suffix):
    pytest.importorskip({"onnx": "onnxruntime", "openvino": "openvino"}.get(export_format, "torch"))
    exported = f"{FOLDER}/y.{suffix}"
    assert main(["export", model, "--format", export_format, "--output", exported]) == 0
    assert main(["detect", exported, "images", "--output", "out", "--no-draw"]) == 0
    assert len(read_records(tmp_path / "out/detections.jsonl")) == len(NAMES)


def test_opencv_reads_and_writes_paths_as_bytes(tmp_path):
    path = tmp_path / FOLDER / NAMES[0]
    path.parent.mkdir()
    assert cv2.imwrite(opencv_path(path), np.full((8, 9, 3), 7, np.uint8))
    assert cv2.imread(opencv_path(path)).shape == (8, 9, 3)


@pytest.mark.parametrize("command", ["detect yf.pt x.jpg", "eval yf.pt", "analyze x", "train x.yaml", "export yf.pt"])
@pytest.mark.parametrize("flag", [["--output", ""], ["--output="]])
def test_an_empty_output_is_refused(command, flag, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*command.split(), *flag]) == 2
    assert capsys.readouterr().err == "error: --output: expected a path, found an empty text\n"
    assert not list(tmp_path.iterdir())


def test_an_output_that_is_a_circle_of_links_is_refused(model, tmp_path, capsys):
    Path("circle").symlink_to("circle")
    cv2.imwrite("a.jpg", np.zeros((20, 20, 3), np.uint8))
    assert main(["detect", model, "a.jpg", "--output", "circle"]) == 2
    assert "error: " in capsys.readouterr().err


def test_a_folder_into_which_another_run_detects_stays_as_it_is(model, tmp_path, capsys):
    def detect() -> int:
        return main(["detect", model, "images", "--output", "out", "--backend", "torch", "--mot", "mot.txt"])

    assert detect() == 0
    for locked in ("out/detections.jsonl", "mot.txt"):
        before = {path: path.stat().st_mtime_ns for path in (*Path("out").iterdir(), Path("mot.txt"))}
        other = LineFile(Path(locked))
        other.open()
        assert detect() == 2
        assert f"error: {locked}: another run writes this file" in capsys.readouterr().err
        other.close(failed=True)
        assert {path: path.stat().st_mtime_ns for path in (*Path("out").iterdir(), Path("mot.txt"))} == before
    assert detect() == 0
