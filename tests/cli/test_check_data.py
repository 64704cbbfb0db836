"""check-data: sound sets pass, each planted fault is found, and the command keeps its contract."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cspdet.cli.main import main
from cspdet.datasets.checks.validate import ValidationReport, validate_dataset
from cspdet.datasets.descriptor import load_dataset_config

ROOT = Path(__file__).resolve().parents[2]


def make_set(folder: Path) -> Path:
    """Two splits of four pictures of 100x80 (width x height), two classes, a box in all pictures but one."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        (folder / split).mkdir()
        for i in range(4):
            pixels = rng.integers(0, 256, (80, 100, 3), dtype=np.uint8)
            (folder / split / f"{split}{i}.png").write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
        images = [{"id": i, "file_name": f"{split}{i}.png", "width": 100, "height": 80} for i in range(4)]
        boxes = [[5, 6, 40, 50], [60, 50, 20, 20], [30, 20, 33, 33]]
        annotations = [{"id": i, "image_id": i, "category_id": 1 + i % 2, "bbox": box} for i, box in enumerate(boxes)]
        categories = [{"id": 1, "name": "disk"}, {"id": 2, "name": "star"}]
        data = {"images": images, "annotations": annotations, "categories": categories}
        (folder / f"{split}.json").write_text(json.dumps(data))
    descriptor = folder / "set.yaml"
    lines = [f"{split}: {{images: {split}, annotations: {split}.json}}" for split in ("train", "val")]
    descriptor.write_text("\n".join(lines))
    return descriptor


def change(folder: Path, split: str, **lists: Any) -> None:
    path = folder / f"{split}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | lists))


def boxes(*values: list[float]) -> list[dict[str, Any]]:
    return [{"id": i, "image_id": i % 4, "category_id": 1, "bbox": box} for i, box in enumerate(values)]


def report(descriptor: Path, **options: bool) -> ValidationReport:
    return validate_dataset(load_dataset_config(descriptor), **options)


def test_a_sound_set_has_no_errors(tmp_path):
    found = report(make_set(tmp_path))
    assert found.errors == []
    train = found.splits["train"]
    assert (train.images, train.boxes, train.empty_images, train.crowds) == (4, 3, 1, 0)
    assert train.classes == [
        {"name": "disk", "category_id": 1, "boxes": 2},
        {"name": "star", "category_id": 2, "boxes": 1},
    ]
    assert train.sizes == {"small": 1, "medium": 2, "large": 0}  # 400 < 32 * 32 = 1024 < 1089, 2000 < 96 * 96
    assert all("1 of 4 images have no boxes" in note for note in found.warnings)


def test_planted_errors_are_found(tmp_path):
    descriptor = make_set(tmp_path)
    (tmp_path / "train" / "train0.png").unlink()
    (tmp_path / "val" / "val0.png").write_bytes(b"")
    change(tmp_path, "train", categories=[{"id": 1, "name": "disk"}, {"id": 2, "name": "moon"}])
    shutil.copy(tmp_path / "train" / "train1.png", tmp_path / "val" / "val1.png")
    text = "\n".join(report(descriptor).errors)
    assert "train0.png: no such image" in text
    assert "val0.png: the file is empty" in text
    assert "train and val have different categories: 2 is 'moon' and 'star'" in text
    assert "train and val have 1 images with the same content" in text
    assert "train1.png = " in text


def test_damage_inside_the_pixels_needs_decoding(tmp_path):
    descriptor = make_set(tmp_path)
    path = tmp_path / "train" / "train2.png"
    data = bytearray(path.read_bytes())
    data[100:120] = bytes(20)
    path.write_bytes(data)
    assert report(descriptor, fast=True).errors == []
    assert any("train2.png" in line for line in report(descriptor).errors)


def test_one_file_in_both_splits(tmp_path):
    descriptor = make_set(tmp_path)
    change(tmp_path, "val", images=[{"id": i, "file_name": f"../train/train{i}.png"} for i in range(4)])
    assert any("inside the image folder" in line for line in report(descriptor).errors)
    descriptor.write_text(
        "train: {images: train, annotations: train.json}\nval: {images: train, annotations: train.json}"
    )
    assert any("train and val have 4 images in common: train0.png" in line for line in report(descriptor).errors)


def test_corners_in_place_of_sizes(tmp_path):
    descriptor = make_set(tmp_path)
    change(tmp_path, "train", annotations=boxes([10, 10, 60, 50], [50, 40, 90, 70], [70, 10, 95, 30]))
    (error,) = report(descriptor).splits["train"].errors
    assert "2 of 3 boxes reach beyond" in error  # 50 + 90 > 100 and 70 + 95 > 100; 10 + 60 is inside
    assert "look like corners" in error


def test_normalized_boxes(tmp_path):
    descriptor = make_set(tmp_path)
    change(tmp_path, "train", annotations=boxes([0.1, 0.1, 0.5, 0.5], [0.5, 0.5, 0.25, 1]))
    assert any("look normalized" in line for line in report(descriptor).errors)


def test_what_is_only_noted(tmp_path):
    descriptor = make_set(tmp_path)
    planted = boxes([1, 1, 1.5, 9], [90, 70, 30, 30], [10, 10, 5, 0], [20, 20, 9, 9])
    repeated = [planted[3] | {"id": 9}, planted[3] | {"id": 10}]
    images = json.loads((tmp_path / "train.json").read_text())["images"]
    again = [*images, images[0] | {"id": 77}]
    change(tmp_path, "train", annotations=[*planted, *repeated], images=again)
    found = report(descriptor)
    assert found.errors == []
    text = "\n".join(found.splits["train"].warnings)
    assert "1 boxes are less than 2 pixels wide or high" in text
    assert "1 box partly outside the image clipped" in text
    assert "1 box without width or height skipped" in text
    assert "2 boxes repeat another of the same class" in text
    assert "1 classes have no boxes: star" in text
    assert "1 files are listed under more than one image id: train0.png" in text


def test_a_broken_split_does_not_hide_the_other(tmp_path):
    descriptor = make_set(tmp_path)
    (tmp_path / "train.json").write_text("{")
    (tmp_path / "val" / "val3.png").unlink()
    text = "\n".join(report(descriptor).errors)
    assert "train.json:1:2: not valid JSON" in text
    assert "val3.png: no such image" in text


def test_train_without_boxes_is_an_error_and_val_a_note(tmp_path):
    descriptor = make_set(tmp_path)
    for split in ("train", "val"):
        change(tmp_path, split, annotations=[])
    found = report(descriptor)
    assert [line for line in found.errors if "no boxes" in line] == [
        f"{tmp_path}/train.json: no boxes; a train split needs some"
    ]
    assert any("AP is undefined" in note for note in found.splits["val"].warnings)


# --- the command ---------------------------------------------------------------------------------


def test_errors_are_reported_once_and_counted_in_the_text(tmp_path, capsys):
    descriptor = make_set(tmp_path)
    (tmp_path / "val" / "val3.png").unlink()
    (tmp_path / "val" / "val2.png").unlink()
    assert main(["check-data", str(descriptor)]) == 2
    captured = capsys.readouterr()
    assert "val3.png" not in captured.out
    assert "val: 2 errors, listed below" in captured.out
    assert captured.out.endswith("2 errors, 2 notes\n")
    assert [line.count("val3.png: no such image") for line in captured.err.splitlines()] == [0, 1]
    assert all(line.startswith("error: ") for line in captured.err.splitlines())


def test_json_holds_the_errors_too(tmp_path, capsys):
    descriptor = make_set(tmp_path)
    (tmp_path / "val" / "val3.png").unlink()
    assert main(["check-data", str(descriptor), "--json"]) == 2
    (error,) = json.loads(capsys.readouterr().out)["errors"]
    assert "val3.png: no such image" in error


def test_a_report_is_one_page_in_a_free_folder(tmp_path, capsys, monkeypatch):
    descriptor = make_set(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    assert main(["check-data", str(descriptor), "--report"]) == 0
    assert main(["check-data", "--report", str(descriptor), "--samples", "0"]) == 0  # the word is the descriptor
    assert capsys.readouterr().out.count("open runs/check-data") == 2
    page, without_samples = (tmp_path / f"runs/{name}/index.html" for name in ("check-data", "check-data-2"))
    assert "train0.png" in page.read_text()
    assert 'id="near-duplicates"' in page.read_text()
    assert 'id="samples"' not in without_samples.read_text()
    assert {path: path.read_bytes() for path in before} == before


def test_a_report_is_written_before_errors_end_the_command(tmp_path, capsys):
    descriptor = make_set(tmp_path)
    (tmp_path / "train.json").write_text("{")
    page = tmp_path / "pages" / "data.html"
    assert main(["check-data", str(descriptor), "--report", str(page)]) == 2
    captured = capsys.readouterr()
    assert "train.json:1:2: not valid JSON" in captured.err
    assert f"open {page}" in captured.out
    assert "train.json:1:2: not valid JSON" in page.read_text()
    assert "val0.png" in page.read_text()


def test_a_report_has_its_figures_in_the_json(tmp_path, capsys):
    descriptor, page = make_set(tmp_path), tmp_path / "data.html"
    config = ROOT / "configs/csppelee_efm_sam.yaml"
    words = ["--config", str(config), "input.size=[320, 416]", "--report", str(page), "--json"]
    assert main(["check-data", str(descriptor), *words]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["page"] == str(page)
    assert document["statistics"]["train"]["classes"][0]["boxes"] == 2
    assert document["near_duplicates"]["images"] == 8
    assert document["anchors"]["size"] == [320, 416]
    assert 'id="input"' in page.read_text()
    # pictures of 80x100 fill the 320 rows: boxes are four times as large, and 20x20 is 80x80
    assert document["anchors"]["splits"]["val"]["sides"]["quantiles"][0] > 80


def test_a_fast_report_leaves_out_what_needs_decoding(tmp_path, capsys):
    descriptor, page = make_set(tmp_path), tmp_path / "data.html"
    assert main(["check-data", str(descriptor), "--fast", "--report", str(page), "--json"]) == 0
    assert "near_duplicates" not in json.loads(capsys.readouterr().out)
    assert 'id="near-duplicates"' not in page.read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "DESCRIPTOR is missing"),
        (["--report", "page.html"], "DESCRIPTOR is missing"),
        (["set.yaml", "--report", "train.json"], "--report: expected a file ending in .html, found 'train.json'"),
        (["set.yaml", "--config", "c.yaml"], "--config: needs --report"),
        (["set.yaml", "--report", "--samples", "-1"], "--samples: expected 0 or more, found -1"),
        (["set.yaml", "train.epochs=3"], "there is no --config that 'train.epochs=3' could override"),
        (["set.yaml", "--report", "--config", "c.yaml"], "c.yaml: no such"),
    ],
)
def test_mistakes_on_the_command_line(tmp_path, capsys, monkeypatch, words, message):
    make_set(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["check-data", *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def command(*words: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, str(ROOT / "tools" / "check_data.py"), *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, check=False, cwd=ROOT, timeout=120)


@pytest.mark.e2e
def test_the_command_exits_0_on_a_sound_set(tmp_path):
    done = command(make_set(tmp_path), "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert set(document) == {"splits", "errors", "notes"}
    assert document["errors"] == []
    assert document["splits"]["val"]["images"] == 4
    assert "error: " not in done.stderr


@pytest.mark.e2e
def test_the_command_exits_2_and_names_the_fault(tmp_path):
    descriptor = make_set(tmp_path)
    change(tmp_path, "train", annotations=boxes([1, 2, -3, 4]))
    done = command(descriptor)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "train.json: bbox [x, y, width, height] needs width and height of 0 or more: annotation 0" in done.stderr
    assert "Traceback" not in done.stderr
    assert re.search(r"(?m)^val +4 +1 +3 +0 +2 ", done.stdout), done.stdout
