"""VOC xml and YOLO txt to COCO JSON: boxes come through exactly, mistakes are all told with their place."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cspdet.datasets.coco import load_coco
from cspdet.datasets.coco_writer import clip_box, val_names
from cspdet.datasets.convert_voc import convert_voc
from cspdet.datasets.convert_yolo import convert_yolo, label_candidates
from cspdet.datasets.descriptor import load_descriptor
from cspdet.errors import DataError

ROOT = Path(__file__).parents[1]
WIDTH, HEIGHT = 60, 40
PNG = cv2.imencode(".png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))[1].tobytes()
Found = dict[str, list[tuple[Any, ...]]]  # picture -> (class, x, y, width, height) of each box

# corners (x1, y1, x2, y2) of boxes within the picture, the far ones outside the box, at least two pixels wide
corners = st.builds(
    lambda x, y, width, height: (x, y, min(x + width, WIDTH), min(y + height, HEIGHT)),
    st.integers(0, WIDTH - 2),
    st.integers(0, HEIGHT - 2),
    st.integers(2, WIDTH),
    st.integers(2, HEIGHT),
)
pictures = st.lists(
    st.lists(st.tuples(st.sampled_from(["ant", "bee", "cat"]), corners), max_size=4), min_size=1, max_size=5
)
few = settings(max_examples=25, deadline=None)  # each example writes files


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(PNG)
    return path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def xml(boxes: list[tuple[str, tuple[Any, ...]]], size: str | None = None, extra: str = "") -> str:
    """An annotation file; `boxes` are (class, (xmin, ymin, xmax, ymax)) as they are to be written."""
    if size is None:
        size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    objects = "".join(
        f"<object><name>{name}</name><difficult>0</difficult>{extra}<bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
        f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for name, (x1, y1, x2, y2) in boxes
    )
    return f"<annotation><filename>x.png</filename>{size}{objects}</annotation>"


def voc(folder: Path, files: dict[str, str]) -> Path:
    """A folder in VOC's layout: `files` are name -> xml, each with a picture."""
    for name, text in files.items():
        write(folder / "Annotations" / f"{name}.xml", text)
        picture(folder / "JPEGImages" / f"{name}.png")
    return folder


def converted(folder: Path, *splits: str) -> Found:
    """What a conversion wrote, by picture."""
    found: Found = {}
    for split in splits or ("train", "val"):
        coco = json.loads((folder / "annotations" / f"instances_{split}.json").read_text())
        names = {category["id"]: category["name"] for category in coco["categories"]}
        files = {image["id"]: image["file_name"] for image in coco["images"]}
        for image in coco["images"]:
            assert (image["width"], image["height"]) == (WIDTH, HEIGHT)
            assert image["file_name"] not in found
            found[image["file_name"]] = []
        for a in coco["annotations"]:
            found[files[a["image_id"]]].append((names[a["category_id"]], *a["bbox"]))
            assert a["area"] == a["bbox"][2] * a["bbox"][3]
    return found


def problems(convert: Any, *args: Any, **options: Any) -> tuple[str, ...]:
    with pytest.raises(DataError) as caught:
        convert(*args, **options)
    return caught.value.problems


# --- VOC ----------------------------------------------------------------------------------------------------


@few
@given(sets=pictures, one_based=st.booleans())
def test_voc_boxes_come_through_exactly(sets, one_based):
    # one-based corners are inclusive and count from 1: x1 is written as x1 + 1, and the far x2 - 1 + 1 = x2
    shift = 1 if one_based else 0
    with tempfile.TemporaryDirectory() as name:
        source, output = Path(name, "src"), Path(name, "out")
        files = {
            f"p{i}": xml([(c, (x1 + shift, y1 + shift, x2, y2)) for c, (x1, y1, x2, y2) in boxes])
            for i, boxes in enumerate(sets)
        }
        prepared = convert_voc(voc(source, files), output, one_based=one_based)
        expected = {
            f"p{i}.png": [(c, x1, y1, x2 - x1, y2 - y1) for c, (x1, y1, x2, y2) in boxes]
            for i, boxes in enumerate(sets)
        }
        assert converted(output) == expected
        assert prepared.counts["train"]["images"] + prepared.counts["val"]["images"] == len(sets)
        assert prepared.notes == ()


def test_voc_result_loads_as_coco(tmp_path):
    files = {f"p{i}": xml([("bee", (11, 21, 30, 40)), ("ant", (1, 1, 5, 5))]) for i in range(5)}
    prepared = convert_voc(voc(tmp_path / "src", files), tmp_path / "out")
    coco = load_coco(load_descriptor(prepared.descriptor).split("train"), "train")
    assert coco.classes.names == ("ant", "bee")
    assert coco.classes.category_ids == (1, 2)
    boxes, class_ids, _ = coco.boxes(0)
    assert sorted(zip(class_ids.tolist(), boxes.tolist(), strict=True)) == [
        (0, [0.0, 0.0, 5.0, 5.0]),
        (1, [10.0, 20.0, 30.0, 40.0]),
    ]
    assert coco.path(0).is_file()


def test_voc_lists_decide_on_the_splits(tmp_path):
    source = voc(tmp_path / "src", {name: xml([]) for name in "abcd"})
    write(source / "ImageSets/Main/train.txt", "a\nc\n")
    write(source / "ImageSets/Main/val.txt", "b  1\n")
    write(source / "ImageSets/Main/test.txt", "d\n")
    convert_voc(source, tmp_path / "out")
    found = {split: sorted(converted(tmp_path / "out", split)) for split in ("train", "val", "test")}
    assert found == {"train": ["a.png", "c.png"], "val": ["b.png"], "test": ["d.png"]}


def test_voc_trainval_alone_is_shared_out(tmp_path):
    source = voc(tmp_path / "src", {f"p{i}": xml([]) for i in range(10)})
    write(source / "ImageSets/Main/trainval.txt", "".join(f"p{i}\n" for i in range(8)))
    prepared = convert_voc(source, tmp_path / "out", val_fraction=0.25)
    assert prepared.counts == {"train": {"images": 6, "boxes": 0}, "val": {"images": 2, "boxes": 0}}
    assert prepared.notes == ("2 pictures left out: no xml file of these splits describes them",)


def test_voc_years_side_by_side(tmp_path):
    for year in ("VOC2007", "VOC2012"):
        source = voc(tmp_path / "src" / year, {"same": xml([]), year: xml([])})
        write(source / "ImageSets/Main/train.txt", "same\n")
        write(source / "ImageSets/Main/val.txt", f"{year}\n")
    convert_voc(tmp_path / "src", tmp_path / "out")
    assert sorted(converted(tmp_path / "out", "train")) == [
        "VOC2007/JPEGImages/same.png",
        "VOC2012/JPEGImages/same.png",
    ]


def test_voc_flat_folder_and_pictures_elsewhere(tmp_path):
    write(tmp_path / "src" / "a.xml", xml([("ant", (1, 1, 5, 5))]))
    picture(tmp_path / "pictures" / "deep" / "a.png")
    convert_voc(tmp_path / "src", tmp_path / "out", images=tmp_path / "pictures")
    assert converted(tmp_path / "out") == {"deep/a.png": [("ant", 0, 0, 5, 5)]}


def test_voc_skips_clips_and_counts(tmp_path):
    boxes = [
        ("ant", (5, 5, 5, 9)),  # no width
        ("ant", (9, 9, 5, 12)),  # turned round
        ("ant", (50, 30, 70, 50)),  # sticks out to the right and below: 49..60 and 29..40 are left
        ("ant", (100, 5, 110, 9)),  # outside
        ("ant", (0, 1, 10, 10)),  # a corner at 0
    ]
    prepared = convert_voc(voc(tmp_path / "src", {"a": xml(boxes)}), tmp_path / "out")
    assert converted(tmp_path / "out")["a.png"] == [("ant", 49, 29, 11, 11), ("ant", 0, 0, 10, 10)]
    counts = sorted((int(note.split()[0]), note.split(" ", 1)[1]) for note in prepared.notes)
    assert counts == [
        (1, "boxes begin at 0 though VOC counts from 1; if the set counts from 0, add --zero-based"),
        (1, "boxes clipped to their picture"),
        (1, "boxes skipped: outside their picture"),
        (2, "boxes skipped: xmin >= xmax or ymin >= ymax"),
    ]


@pytest.mark.parametrize(("difficult", "boxes", "crowd"), [("keep", 2, [0, 0]), ("crowd", 2, [0, 1]), ("skip", 1, [0])])
def test_voc_difficult(tmp_path, difficult, boxes, crowd):
    text = xml([("ant", (1, 1, 9, 9)), ("bee", (5, 5, 9, 9))])
    at = text.rindex("<difficult>0")
    source = voc(tmp_path / "src", {"a": text[:at] + "<difficult>1" + text[at + 12 :]})
    prepared = convert_voc(source, tmp_path / "out", difficult=difficult, val_fraction=0)
    coco = json.loads((tmp_path / "out/annotations/instances_train.json").read_text())
    assert [a["iscrowd"] for a in coco["annotations"]] == crowd
    assert prepared.counts["train"]["boxes"] == boxes


def test_voc_parts_of_an_object_are_not_objects(tmp_path):
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    source = voc(tmp_path / "src", {"a": xml([("person", (1, 1, 9, 9))], extra=part)})
    convert_voc(source, tmp_path / "out")
    assert converted(tmp_path / "out") == {"a.png": [("person", 0, 0, 9, 9)]}


def test_voc_names_give_the_order_of_ids(tmp_path):
    source = voc(tmp_path / "src", {"a": xml([("ant", (1, 1, 9, 9))])})
    convert_voc(source, tmp_path / "out", names=("bee", "ant"))
    coco = json.loads((tmp_path / "out/annotations/instances_train.json").read_text())
    assert [(c["id"], c["name"]) for c in coco["categories"]] == [(1, "bee"), (2, "ant")]
    (problem,) = problems(convert_voc, source, tmp_path / "other", names=("bee", "aunt"))
    assert "a.xml: class 'ant' is not in the names (did you mean 'aunt'?)" in problem


def test_voc_tells_every_mistake_with_its_file(tmp_path):
    good = xml([("ant", (1, 1, 9, 9))])
    source = voc(
        tmp_path / "src",
        {
            "a_nan": xml([("ant", ("nan", 1, 9, 9))]),
            "b_word": xml([("ant", (1, "two", 9, 9))]),
            "c_corner": good.replace("<xmax>9</xmax>", ""),
            "d_name": good.replace("<name>ant</name>", ""),
            "e_box": good.replace("bndbox", "box"),
            "f_size": xml([], size="<size><width>40</width><height>60</height></size>"),
            "g_cut": good[:-20],
            "h_other": "<html></html>",
        },
    )
    write(source / "Annotations" / "i_lost.xml", good)
    found = problems(convert_voc, source, tmp_path / "out")
    expected = [
        ("a_nan.xml: object 1", "<bndbox/xmin> expected a number, found 'nan'"),
        ("b_word.xml: object 1", "<bndbox/ymin> expected a number, found 'two'"),
        ("c_corner.xml: object 1", "<bndbox/xmax> is missing"),
        ("d_name.xml: object 1", "<name> is missing"),
        ("e_box.xml: object 1", "<bndbox> is missing"),
        ("f_size.xml", "size says 40x60 (width x height), but"),
        ("g_cut.xml", "not readable as xml"),
        ("h_other.xml", "expected <annotation> at the top, found <html>"),
        ("i_lost.xml", "no picture i_lost.*"),
    ]
    assert len(found) == len(expected)
    for where, what in expected:
        assert any(where in problem and what in problem for problem in found), (where, found)
    assert not (tmp_path / "out").exists()


def test_voc_counts_the_mistakes_beyond_ten(tmp_path):
    source = voc(tmp_path / "src", {f"p{i:02}": "<no/>" for i in range(14)})
    found = problems(convert_voc, source, tmp_path / "out")
    assert len(found) == 11
    assert found[-1] == "... and 4 more like these"


def test_voc_a_list_that_names_what_is_not_there(tmp_path):
    source = voc(tmp_path / "src", {"a": xml([]), "b": xml([])})
    write(source / "ImageSets/Main/train.txt", "a\nlost\n")
    write(source / "ImageSets/Main/val.txt", "b\n")
    (problem,) = problems(convert_voc, source, tmp_path / "out")
    assert "train.txt:2: no annotation file" in problem


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_voc_refuses_entities(tmp_path, encoding):
    bomb = f'<?xml version="1.0" encoding="{encoding}"?><!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;">]>'
    source = voc(tmp_path / "src", {"a": ""})
    (source / "Annotations/a.xml").write_bytes((bomb + xml([("&c;", (1, 1, 9, 9))])).encode(encoding))
    (problem,) = problems(convert_voc, source, tmp_path / "out")
    assert "a.xml: not readable as xml: it declares a document type (DOCTYPE)" in problem


def test_voc_filename_cannot_climb_out(tmp_path):
    picture(tmp_path / "secret.png")
    text = xml([]).replace("x.png", "../../secret.png")
    write(tmp_path / "src/Annotations/a.xml", text)
    (tmp_path / "src/JPEGImages").mkdir()
    (problem,) = problems(convert_voc, tmp_path / "src", tmp_path / "out")
    assert "no picture a.* or 'secret.png'" in problem


# --- YOLO ---------------------------------------------------------------------------------------------------


def yolo_line(index: int, box: tuple[int, int, int, int]) -> str:
    x1, y1, x2, y2 = box
    values = ((x1 + x2) / 2 / WIDTH, (y1 + y2) / 2 / HEIGHT, (x2 - x1) / WIDTH, (y2 - y1) / HEIGHT)
    return " ".join([str(index), *(f"{value:.7f}" for value in values)])


def yolo(folder: Path, labels: dict[str, str | None], names: str = "ant\nbee\ncat\n") -> Path:
    """A folder with images/ and labels/; `labels` are `train/a` -> lines, or None for no file."""
    for name, text in labels.items():
        picture(folder / "images" / f"{name}.png")
        if text is not None:
            write(folder / "labels" / f"{name}.txt", text)
    write(folder / "classes.txt", names)
    return folder


@few
@given(sets=pictures)
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
    coco = load_coco(load_descriptor(prepared.descriptor).split("train"), "train")
    assert coco.classes.category_ids == (0, 1, 2)
    boxes, class_ids, _ = coco.boxes(0)
    assert class_ids.tolist() == [2]
    assert boxes.tolist() == [[15.0, 10.0, 45.0, 30.0]]  # 60x40, middle half


def ultralytics(folder: Path) -> Path:
    yolo(folder, {"train/a": "0 .5 .5 .5 .5", "val/b": ""}).joinpath("classes.txt").unlink()
    return write(folder / "data.yaml", "path: .\ntrain: images/train\nval: [images/val]\nnames: {0: ant, 1: bee}\n")


def roboflow(folder: Path) -> Path:
    picture(folder / "train/images/a.png")
    write(folder / "train/labels/a.txt", "0 .5 .5 .5 .5")
    picture(folder / "valid/images/b.png")
    return write(folder / "data.yaml", "train: ../train/images\nval: ../valid/images\nnc: 1\nnames: [ant]\n").parent


def darknet(folder: Path) -> Path:
    picture(folder / "data/obj/a.png")
    picture(folder / "data/obj/b.png")
    write(folder / "data/obj/a.txt", "0 .5 .5 .5 .5")
    write(folder / "data/train.txt", "data/obj/a.png\n")
    write(folder / "data/test.txt", "data/obj/b.png\n")
    write(folder / "data/obj.names", "ant\n")
    text = "classes = 1\ntrain = data/train.txt\nvalid = data/test.txt\nnames = data/obj.names\nbackup = x/\n"
    return write(folder / "data/obj.data", text)


def flat(folder: Path) -> Path:
    picture(folder / "a.png")
    picture(folder / "b.png")
    write(folder / "a.txt", "0 .5 .5 .5 .5")
    return write(folder / "classes.txt", "ant\n").parent


@pytest.mark.parametrize("layout", [ultralytics, roboflow, darknet, flat])
def test_yolo_layouts(tmp_path, layout):
    prepared = convert_yolo(layout(tmp_path / "src"), tmp_path / "out", val_fraction=0.5)
    found = {Path(name).name: boxes for name, boxes in converted(tmp_path / "out").items()}
    assert found == {"a.png": [("ant", 15, 10, 30, 20)], "b.png": []}
    assert [prepared.counts[split]["images"] for split in ("train", "val")] == [1, 1]
    for split in ("train", "val"):
        assert load_coco(load_descriptor(prepared.descriptor).split(split), split, allow_empty=True).path(0).is_file()


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
    assert sorted(prepared.notes) == [
        "1 boxes clipped to their picture",
        "1 boxes skipped: no width or height",
        "1 pictures without a label file, taken as empty",
        "1 polygons turned to their boxes",
    ]


def test_yolo_tells_every_mistake_with_file_and_line(tmp_path):
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
        "a.txt:6: expected shares of the picture from 0 to 1, found 30",
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
    assert "train.txt:2: no such picture: data/obj/lost.png" in problem


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


# --- both ---------------------------------------------------------------------------------------------------


@given(number=st.integers(0, 60), prefix=st.text(max_size=3), fraction=st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_the_share_of_val_is_exact_and_depends_on_names_only(number, prefix, fraction):
    names = {f"{prefix}{i}" for i in range(number)}
    chosen = val_names(names, fraction)
    assert chosen == val_names(sorted(names, reverse=True), fraction)
    assert chosen <= names
    assert abs(len(chosen) - fraction * len(names)) <= 1


@given(st.tuples(*[st.floats(-100, 200)] * 4))
def test_a_clipped_box_lies_inside_its_picture(box):
    clipped = clip_box(box, (HEIGHT, WIDTH))
    if clipped is not None:
        x, y, width, height = (Fraction(value) for value in clipped[0])
        assert min(x, y) >= 0
        assert min(width, height) > 0
        assert x + width <= WIDTH + Fraction(1, 500)
        assert y + height <= HEIGHT + Fraction(1, 500)


@pytest.mark.parametrize("convert", [convert_voc, convert_yolo])
def test_an_output_of_someone_else_is_refused_and_an_own_one_replaced(tmp_path, convert):
    source = tmp_path / "src"
    voc(source, {"a": xml([]), "b": xml([])}) if convert is convert_voc else yolo(source, {"train/a": "", "val/b": ""})
    before = sorted((path, path.stat().st_mtime_ns) for path in source.rglob("*"))
    convert(source, tmp_path / "out")
    convert(source, tmp_path / "out")
    assert sorted((path, path.stat().st_mtime_ns) for path in source.rglob("*")) == before
    write(tmp_path / "other/notes.txt", "mine")
    assert "other files" in problems(convert, source, tmp_path / "other")[0]
    assert "other files" in problems(convert, source, source)[0]


def test_the_tool_tells_mistakes_and_prints_json(tmp_path):
    source = voc(tmp_path / "src", {"a": xml([("ant", (1, 1, 9, 9))]), "b": xml([])})
    command = [sys.executable, str(ROOT / "tools/prepare_data.py"), "voc", str(source), "--json", "--output"]
    done = subprocess.run([*command, str(tmp_path / "out")], capture_output=True, text=True, check=True)
    printed = json.loads(done.stdout)
    assert printed["descriptor"] == str(tmp_path / "out/voc.yaml")
    assert printed["train"]["boxes"] + printed["val"]["boxes"] == 1
    failed = subprocess.run([*command, str(source)], capture_output=True, text=True, check=False)
    assert failed.returncode == 2
    assert failed.stdout == ""
    assert failed.stderr.startswith(f"error: {source}: the folder has other files in it")
