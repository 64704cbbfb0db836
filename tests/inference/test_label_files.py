"""`detect --save-as`: annotation files that the data formats read back, with the boxes of detections.jsonl."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from evaluation_data import image_with_square, square_model
from video_data import write_video

from cspdet.cli.main import run_command
from cspdet.datasets.formats.base import build_format


@pytest.fixture(autouse=True)
def finder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command finds white squares as category 3 of (3, 17), and runs in an empty folder."""
    loaded = square_model()
    monkeypatch.setattr("cspdet.checkpoints.loading.load_model", lambda *_, **__: loaded)
    monkeypatch.chdir(tmp_path)
    Path("squares.pt").touch()


def save(path: str, image: np.ndarray) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(path, image)


def detect(*words: str) -> int:
    return run_command("detect", ["squares.pt", *words, "--output", "out", "--no-draw"])


def read(name: str) -> Any:
    return json.loads(Path("out", name).read_text(encoding="utf-8"))


def test_the_three_formats_have_the_boxes_of_the_images(capsys):
    save("photos/a.png", image_with_square(1, 2))
    save("photos/sub/b.png", image_with_square(9, 9))
    assert detect("photos", "--save-as", "coco,yolo", "--save-csv") == 0
    document = read("coco.json")
    assert [(image["id"], image["file_name"]) for image in document["images"]] == [(1, "a.png"), (2, "sub/b.png")]
    assert [c["id"] for c in document["categories"]] == [3, 17]
    (annotation,) = document["annotations"]
    assert annotation.pop("score") == pytest.approx(0.99991, abs=1e-5)
    assert annotation == {
        "id": 1, "image_id": 1, "category_id": 3, "bbox": [64.0, 32.0, 32.0, 32.0], "area": 1024.0, "iscrowd": 0,
    }  # fmt: skip
    x, y, width, height = (64 + 16) / 96, (32 + 16) / 64, 32 / 96, 32 / 64
    assert Path("out/labels/a.txt").read_text() == f"0 {x:.6f} {y:.6f} {width:.6f} {height:.6f}\n"
    assert Path("out/labels/sub/b.txt").read_text() == ""
    assert Path("out/classes.txt").read_text() == "disc\nbar\n"
    (row,) = csv.DictReader(Path("out/detections.csv").read_text().splitlines())
    assert (row["source"], row["class_id"], row["class_name"], row["category_id"]) == ("photos/a.png", "0", "disc", "3")
    assert [float(row[side]) for side in ("x1", "y1", "x2", "y2")] == [64.0, 32.0, 96.0, 64.0]
    assert "also written: coco.json, labels, classes.txt, detections.csv" in capsys.readouterr().err


def test_the_coco_file_is_a_dataset():
    save("photos/a.png", image_with_square(1, 2))
    assert detect("photos", "--save-as", "coco") == 0
    Path("data.yaml").write_text("val: {images: photos, annotations: out/coco.json}\n")
    assert run_command("check-data", ["data.yaml"]) == 0


def test_the_yolo_files_are_a_dataset():
    save("set/images/a.png", image_with_square(1, 2))
    assert detect("set/images", "--save-as", "yolo") == 0
    Path("out/labels").rename("set/labels")
    names = Path("out/classes.txt").read_text().splitlines()
    Path("set/data.yaml").write_text(json.dumps({"path": ".", "train": "images", "val": "images", "names": names}))
    dataset = build_format("yolo", []).read(Path("set/data.yaml"))
    (image,) = dataset.splits["val"].images
    assert [dataset.categories[box.category_id] for box in image.boxes] == ["disc"]
    assert image.boxes[0].xywh == pytest.approx((64, 32, 32, 32), abs=0.01)


def test_frames_of_a_video_are_images_with_numbers():
    write_video(Path("clip.mp4"), (image_with_square(0, i) for i in range(2)), 12.5)
    assert detect("clip.mp4", "--save-as", "coco,yolo") == 0
    assert [image["file_name"] for image in read("coco.json")["images"]] == ["clip_000000.jpg", "clip_000001.jpg"]
    assert sorted(path.name for path in Path("out/labels").iterdir()) == ["clip_000000.txt", "clip_000001.txt"]


def test_several_sources_are_taken_once_each_and_keep_different_names(capsys):
    save("a/x.png", image_with_square(0, 0))
    save("b/x.png", image_with_square(0, 1))
    assert detect("a/x.png", "b", "a", "--save-as", "coco") == 0
    assert [image["file_name"] for image in read("coco.json")["images"]] == ["a/x.png", "b/x.png"]
    assert "2 images in" in capsys.readouterr().out


def test_images_that_would_share_a_label_file_are_refused_before_the_run(capsys):
    save("a/x.png", image_with_square(0, 0))
    save("a/x.jpg", image_with_square(0, 0))
    assert detect("a", "--save-as", "yolo") == 2
    assert "x.jpg and x.png would have the same label file, x.txt" in capsys.readouterr().err
    assert not Path("out").exists()
