"""`prepare-data objects`: objects cut out of a detection set into class folders."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cspdet.cli.main import main
from cspdet.datasets.classification.crop_objects import crop_objects, expand_box
from cspdet.datasets.classification.image_folder import load_image_folder
from cspdet.errors import ConfigError, DataError


def detection_set(folder: Path, boxes: list[list[float]], *, names: tuple[str, ...] = ("ant", "bee")) -> Path:
    """One image of 40x60 whose pixel (y, x) has the color (y, x, 0); its boxes are of the two classes in turn."""
    y, x = np.mgrid[:40, :60].astype(np.uint8)
    (folder / "images").mkdir(parents=True)
    cv2.imwrite(str(folder / "images/a.png"), np.stack([np.zeros_like(x), x, y], axis=2))  # OpenCV writes BGR
    annotations = [
        {"id": i + 1, "image_id": 7, "category_id": i % 2, "bbox": box, "area": box[2] * box[3], "iscrowd": int(i == 3)}
        for i, box in enumerate(boxes)
    ]
    document = {
        "images": [{"id": 7, "file_name": "a.png", "height": 40, "width": 60}],
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in enumerate(names)],
    }
    (folder / "a.json").write_text(json.dumps(document))
    (folder / "set.yaml").write_text("train: {images: images, annotations: a.json}\n")
    return folder / "set.yaml"


def test_object_is_cut_out_with_its_margin(tmp_path):
    descriptor = detection_set(tmp_path, [[10, 20, 20, 10], [0, 0, 10, 40], [5, 5, 30, 4]])
    prepared = crop_objects(descriptor, tmp_path / "out", margin=0.1, min_side=5)
    assert prepared.counts == {"train": {"images": 2, "boxes": 3}}
    assert prepared.warnings == ("train: 1 boxes with a side below 5 pixels were left out",)
    # 20x10 at (10, 20), a tenth on each side: x 8 to 32, y 19 to 31
    ant = cv2.imread(str(tmp_path / "out/train/ant/7-0.png"))[:, :, ::-1]
    assert ant.shape == (12, 24, 3)
    assert ant[0, 0].tolist() == [19, 8, 0]
    assert ant[-1, -1].tolist() == [30, 31, 0]
    # at the left, the top and the bottom there is nothing to add
    assert cv2.imread(str(tmp_path / "out/train/bee/7-1.png")).shape == (40, 11, 3)
    images = load_image_folder(tmp_path / "out", "train")
    assert images.classes == ("ant", "bee")
    assert images.label.tolist() == [0, 1]


@given(
    box=st.tuples(st.floats(0, 50), st.floats(0, 30), st.floats(1, 10), st.floats(1, 10)), margin=st.floats(0, 4)
)  # fmt: skip
def test_cut_holds_its_box_and_lies_in_the_image(box, margin):
    x, y, width, height = box
    x1, y1, x2, y2 = expand_box(np.array([x, y, x + width, y + height]), margin, (40, 60))
    assert 0 <= x1 <= x
    assert x + width <= x2 <= 60
    assert 0 <= y1 <= y
    assert y + height <= y2 <= 40


def test_the_command_names_what_it_left_out(tmp_path, capsys):
    descriptor = detection_set(tmp_path, [[1, 1, 20, 20], [9, 9, 20, 20], [9, 9, 2, 20], [1, 1, 30, 30]])
    assert main(["prepare-data", "objects", str(descriptor), "--output", str(tmp_path / "out"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["train"] == {"images": 2, "boxes": 4}
    assert result["notes"] == [
        "train: 1 crowds were left out",
        "train: 1 boxes with a side below 8 pixels were left out",
    ]


def test_errors_are_reported_and_nothing_is_overwritten(tmp_path):
    descriptor = detection_set(tmp_path / "set", [[1, 1, 20, 20]])
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="expected a new or empty folder"):
        crop_objects(descriptor, tmp_path / "full")
    for wrong in ({"margin": -1.0}, {"margin": float("nan")}, {"min_side": 0.0}, {"min_side": float("nan")}):
        with pytest.raises(ConfigError, match="expected"):
            crop_objects(descriptor, tmp_path / "out", **wrong)
    slashed = detection_set(tmp_path / "slashed", [[1, 1, 20, 20]], names=("a/b", "bee"))
    with pytest.raises(DataError, match="cannot be the name of a folder"):
        crop_objects(slashed, tmp_path / "out")
    assert not (tmp_path / "out").exists()
