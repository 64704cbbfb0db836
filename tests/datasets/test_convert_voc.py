"""VOC xml to COCO JSON: boxes come through exactly, mistakes are all message with their place."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from converter_data import convert_voc, converted, few, image_boxes, problems, voc, write, write_image, xml
from hypothesis import given
from hypothesis import strategies as st

from cspdet.datasets.descriptor import load_dataset_config
from cspdet.datasets.formats.coco import load_coco


@few
@given(sets=image_boxes, one_based=st.booleans())
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
        assert sum(counts["images"] for counts in prepared.counts.values()) == len(sets)
        assert prepared.warnings == ()


def test_voc_result_loads_as_coco(tmp_path):
    files = {f"p{i}": xml([("bee", (11, 21, 30, 40)), ("ant", (1, 1, 5, 5))]) for i in range(5)}
    prepared = convert_voc(voc(tmp_path / "src", files), tmp_path / "out")
    coco = load_coco(load_dataset_config(prepared.config_path).split("train"), "train")
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
    assert prepared.warnings == ("2 images left out: no xml file of these splits describes them",)


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


def test_voc_flat_folder_and_images_elsewhere(tmp_path):
    write(tmp_path / "src" / "a.xml", xml([("ant", (1, 1, 5, 5))]))
    write_image(tmp_path / "images" / "deep" / "a.png")
    convert_voc(tmp_path / "src", tmp_path / "out", images=tmp_path / "images")
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
    counts = sorted((int(note.split()[0]), note.split(" ", 1)[1]) for note in prepared.warnings)
    assert counts == [
        (1, "boxes begin at 0 though VOC counts from 1; if the set counts from 0, add --zero-based"),
        (1, "boxes clipped to their image"),
        (1, "boxes skipped: outside their image"),
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


def test_voc_reports_every_error_with_its_file(tmp_path):
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
        ("f_size.xml", "<size> is 40x60 (width x height), but"),
        ("g_cut.xml", "not readable as xml"),
        ("h_other.xml", "expected <annotation> at the top, found <html>"),
        ("i_lost.xml", "no image i_lost.*"),
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
    write_image(tmp_path / "secret.png")
    text = xml([]).replace("x.png", "../../secret.png")
    write(tmp_path / "src/Annotations/a.xml", text)
    (tmp_path / "src/JPEGImages").mkdir()
    (problem,) = problems(convert_voc, tmp_path / "src", tmp_path / "out")
    assert "no image a.* or 'secret.png'" in problem
