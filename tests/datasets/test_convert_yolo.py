"""YOLO txt to COCO JSON: boxes come through exactly, mistakes are all message with their place."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from converter_data import convert_yolo, converted, few, image_boxes, problems, write, write_image, yolo, yolo_line
from hypothesis import given

from cspdet.datasets.descriptor import load_dataset_config
from cspdet.datasets.formats.coco import load_coco
from cspdet.datasets.formats.yolo import label_candidates


@few
@given(sets=image_boxes)
def test_yolo_boxes_come_through_exactly(sets):
    names = ["ant", "bee", "cat"]
    with tempfile.TemporaryDirectory() as name:
        source, output = Path(name, "src"), Path(name, "out")
        labels: dict[str, str | None] = {
            f"train/p{i}": "\n".join(yolo_line(names.index(c), box) for c, box in boxes) for i, boxes in enumerate(sets)
        }
        convert_yolo(yolo(source, {**labels, "val/v": ""}), output)
        expected = {
            f"p{i}.png": [(c, x1, y1, x2 - x1, y2 - y1) for c, (x1, y1, x2, y2) in boxes]
            for i, boxes in enumerate(sets)
        }
        assert converted(output) == {**expected, "v.png": []}


def test_yolo_index_is_the_category_id(tmp_path):
    prepared = convert_yolo(yolo(tmp_path / "src", {"train/a": "2 .5 .5 .5 .5\n", "val/b": ""}), tmp_path / "out")
    coco = load_coco(load_dataset_config(prepared.config_path).split("train"), "train")
    assert coco.classes.category_ids == (0, 1, 2)
    boxes, class_ids, _ = coco.boxes(0)
    assert class_ids.tolist() == [2]
    assert boxes.tolist() == [[15.0, 10.0, 45.0, 30.0]]  # 60x40, middle half


def ultralytics(folder: Path) -> Path:
    yolo(folder, {"train/a": "0 .5 .5 .5 .5", "val/b": ""}).joinpath("classes.txt").unlink()
    return write(folder / "data.yaml", "path: .\ntrain: images/train\nval: [images/val]\nnames: {0: ant, 1: bee}\n")


def roboflow(folder: Path) -> Path:
    write_image(folder / "train/images/a.png")
    write(folder / "train/labels/a.txt", "0 .5 .5 .5 .5")
    write_image(folder / "valid/images/b.png")
    return write(folder / "data.yaml", "train: ../train/images\nval: ../valid/images\nnc: 1\nnames: [ant]\n").parent


def darknet(folder: Path) -> Path:
    write_image(folder / "data/obj/a.png")
    write_image(folder / "data/obj/b.png")
    write(folder / "data/obj/a.txt", "0 .5 .5 .5 .5")
    write(folder / "data/train.txt", "data/obj/a.png\n")
    write(folder / "data/test.txt", "data/obj/b.png\n")
    write(folder / "data/obj.names", "ant\n")
    text = "classes = 1\ntrain = data/train.txt\nvalid = data/test.txt\nnames = data/obj.names\nbackup = x/\n"
    return write(folder / "data/obj.data", text)


def flat(folder: Path) -> Path:
    write_image(folder / "a.png")
    write_image(folder / "b.png")
    write(folder / "a.txt", "0 .5 .5 .5 .5")
    return write(folder / "classes.txt", "ant\n").parent


@pytest.mark.parametrize("layout", [ultralytics, roboflow, darknet, flat])
def test_yolo_layouts(tmp_path, layout):
    prepared = convert_yolo(layout(tmp_path / "src"), tmp_path / "out", val_fraction=0.5)
    found = {Path(name).name: boxes for name, boxes in converted(tmp_path / "out").items()}
    assert found == {"a.png": [("ant", 15, 10, 30, 20)], "b.png": []}
    assert [prepared.counts[split]["images"] for split in ("train", "val")] == [1, 1]
    for split in ("train", "val"):
        assert (
            load_coco(load_dataset_config(prepared.config_path).split(split), split, allow_empty=True).path(0).is_file()
        )


def test_yolo_without_val_shares_out(tmp_path):
    source = yolo(tmp_path / "src", {f"train/p{i}": "" for i in range(10)})
    prepared = convert_yolo(source, tmp_path / "out", val_fraction=0.3)
    assert [prepared.counts[split]["images"] for split in ("train", "val")] == [7, 3]


def test_yolo_polygons_clips_and_missing_labels_are_counted(tmp_path):
    lines = (
        "0 0.1 0.1 0.5 0.2 0.3 0.9\n"  # a triangle: x 0.1..0.5 of 60, y 0.1..0.9 of 40
        "\n"
        "1 0.05 0.5 0.2 0.5\n"  # from -0.05 on: 3 pixels cut off, 9 are left
        "1 0.5 0.5 0 0.5\n"  # no width
    )
    prepared = convert_yolo(yolo(tmp_path / "src", {"train/a": lines, "val/b": None}), tmp_path / "out")
    assert converted(tmp_path / "out")["a.png"] == [("ant", 6, 4, 24, 32), ("bee", 0, 10, 9, 20)]
    assert sorted(prepared.warnings) == [
        "1 boxes clipped to their image",
        "1 boxes skipped: no width or height",
        "1 images without a label file, taken as empty",
        "1 polygons replaced by their boxes",
    ]


def test_yolo_reports_every_error_with_file_and_line(tmp_path):
    lines = (
        "0 .5 .5 .5\n0 .5 .5 .5 .5\n3 .5 .5 .5 .5\n-1 .5 .5 .5 .5\nant .5 .5 .5 .5\n"
        "0 30 .5 .5 .5\n0 x .5 .5 .5\n0 nan .5 .5 .5\n0.5 .5 .5 .5 .5"
    )
    source = yolo(tmp_path / "src", {"train/a": lines, "val/b": ""})
    (source / "images/val/c.png").write_bytes(b"")
    found = problems(convert_yolo, source, tmp_path / "out")
    expected = [
        "a.txt:1: expected 5 numbers (class, center x and y, width, height) or a polygon, found 4",
        "a.txt:3: expected a class from 0 to 2, found '3'",
        "a.txt:4: expected a class from 0 to 2, found '-1'",
        "a.txt:5: expected a class from 0 to 2, found 'ant'",
        "a.txt:6: expected fractions of the image from 0 to 1, found 30",
        "a.txt:7: expected numbers, found '0 x .5 .5 .5'",
        "a.txt:8: expected numbers",
        "a.txt:9: expected a class from 0 to 2, found '0.5'",
        "c.png",
    ]
    assert len(found) == len(expected)
    for problem, words in zip(found, expected, strict=True):
        assert words in problem
    assert not (tmp_path / "out").exists()


def test_yolo_lists_name_what_is_not_there(tmp_path):
    source = darknet(tmp_path / "src")
    write(tmp_path / "src/data/train.txt", "data/obj/a.png\ndata/obj/lost.png\n")
    (problem,) = problems(convert_yolo, source, tmp_path / "out")
    assert "train.txt:2: no such image: data/obj/lost.png" in problem


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train: images/train\n", "names: expected a list of class names"),
        ("trian: images/train\nnames: [a]\n", "train: missing key (did you mean 'trian'?)"),
        ("train: nowhere\nnames: [a]\n", "data.yaml: train: no such file or folder: nowhere"),
        ("train: images/train\nnames: {0: a, 2: b}\n", "names: expected a list"),
        ("train: [images\n", "data.yaml:2: not readable as YAML"),
        ("- a\n", "expected keys like path, train, val and names"),
    ],
)
def test_yolo_descriptions_that_do_not_work(tmp_path, text, words):
    source = yolo(tmp_path / "src", {"train/a": ""})
    found = problems(convert_yolo, write(source / "data.yaml", text), tmp_path / "out")
    assert words in found[0]


def test_yolo_no_labels_anywhere_is_a_mistake(tmp_path):
    source = yolo(tmp_path / "src", {"train/a": None, "val/b": None})
    (problem,) = problems(convert_yolo, source, tmp_path / "out")
    assert "no label file found" in problem
    assert str(source / "labels/train/a.txt") in problem


def test_labels_replace_the_last_images_of_a_path():
    assert label_candidates(Path("/images/set/images/train/images.png")) == [
        Path("/images/set/labels/train/images.txt"),
        Path("/images/set/images/train/images.txt"),
    ]
