"""Datasets as other tools write them: CVAT, Roboflow, Label Studio, Darknet's VOC, pose datasets."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from converter_data import convert_voc, convert_yolo, converted, problems, voc, write, write_image, xml, yolo

from cspdet.datasets.checks.validate import validate_dataset
from cspdet.datasets.descriptor import load_dataset_config
from cspdet.datasets.formats.coco import load_coco
from cspdet.datasets.formats.coco_format import CocoFormat
from cspdet.datasets.formats.names import class_name_problems
from cspdet.datasets.formats.yolo_yaml import load_yaml
from cspdet.errors import ConfigError, DataError

BOX = ("ant", 15, 10, 30, 20)  # 0 .5 .5 .5 .5 in an image of 60x40
LINE = "0 .5 .5 .5 .5\n"


def test_yolo_of_cvat_with_paths_below_data(tmp_path):
    for name in "ab":
        write_image(tmp_path / f"s/obj_train_data/{name}.png")
        write(tmp_path / f"s/obj_train_data/{name}.txt", LINE)
    write(tmp_path / "s/obj.names", "ant\n")
    write(tmp_path / "s/train.txt", "data/obj_train_data/a.png\ndata/obj_train_data/b.png\n")
    write(tmp_path / "s/obj.data", "classes = 1\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n")
    convert_yolo(tmp_path / "s", tmp_path / "out")
    assert converted(tmp_path / "out") == {"a.png": [BOX], "b.png": [BOX]}


def test_darknet_voc_has_labels_beside_jpegimages_and_its_data_file_any_bytes(tmp_path):
    for name in "ab":
        write_image(tmp_path / f"s/VOC2007/JPEGImages/{name}.png")
        write(tmp_path / f"s/VOC2007/labels/{name}.txt", LINE)
        write(tmp_path / f"s/{name}.lst", f"VOC2007/JPEGImages/{name}.png\n")
    write(tmp_path / "s/n.names", "ant\n")
    (tmp_path / "s/voc.data").write_bytes(b"train=a.lst\nvalid=b.lst\nnames=n.names\n#x=1\nbackup=caf\xe9\n")
    convert_yolo(tmp_path / "s/voc.data", tmp_path / "out")
    assert converted(tmp_path / "out") == {"a.png": [BOX], "b.png": [BOX]}


def test_roboflow_without_its_test_split(tmp_path):
    for split in ("train", "valid"):
        write_image(tmp_path / f"s/{split}/images/{split}.png")
        write(tmp_path / f"s/{split}/labels/{split}.txt", LINE)
    write(tmp_path / "s/data.yaml", "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnames: [ant]")
    prepared = convert_yolo(tmp_path / "s", tmp_path / "out")
    assert converted(tmp_path / "out") == {"train.png": [BOX], "valid.png": [BOX]}
    assert "test: no such file or folder: ../test/images" in prepared.warnings[0]
    assert "left out" in prepared.warnings[0]
    write(tmp_path / "s/data.yaml", "train: ../train/images\nval: ../lost/images\nnames: [ant]")
    assert "val: no such file" in problems(convert_yolo, tmp_path / "s", tmp_path / "out")[0]


def test_pose_labels_give_their_boxes_if_data_yaml_declares_them(tmp_path):
    points = ".45 .45 1 .55 .45 1 .55 .55 0 .45 .55 1"
    source = yolo(tmp_path / "s", {"train/a": f"0 .5 .5 .5 .5 {points}\n", "val/b": LINE})
    text = "train: images/train\nval: images/val\nnames: [ant]\n"
    write(source / "data.yaml", text)
    (problem,) = problems(convert_yolo, source, tmp_path / "out")
    assert "a.txt:1: it looks like a box with 4 keypoints" in problem
    assert "`kpt_shape: [4, 3]`" in problem
    write(source / "data.yaml", f"{text}kpt_shape: [4, 3]\n")
    prepared = convert_yolo(source, tmp_path / "out")
    assert converted(tmp_path / "out") == {"a.png": [BOX], "b.png": [BOX]}
    assert "1 keypoints left out; their boxes are used" in prepared.warnings
    write(source / "data.yaml", f"{text}kpt_shape: [5, 3]\n")
    assert "or 20 with keypoints, found 17" in problems(convert_yolo, source, tmp_path / "out")[0]


def test_labels_with_an_upper_case_suffix_are_read_and_labels_without_an_image_counted(tmp_path):
    write_image(tmp_path / "s/images/train/a.PNG")
    write(tmp_path / "s/labels/train/a.TXT", LINE)
    write(tmp_path / "s/labels/train/b.txt", LINE)
    write(tmp_path / "s/images/train/b.heic", "x")
    write_image(tmp_path / "s/images/val/c.png")
    write(tmp_path / "s/classes.txt", "ant\n")
    prepared = convert_yolo(tmp_path / "s", tmp_path / "out")
    assert converted(tmp_path / "out") == {"a.PNG": [BOX], "c.png": []}
    assert "1 label files without an image: b.txt" in prepared.warnings
    assert any(line.endswith("files with other suffixes skipped: .heic 1") for line in prepared.warnings)


def test_a_polygon_at_the_borders_is_not_taken_for_keypoints(tmp_path):
    source = yolo(tmp_path / "s", {"train/a": "0 0 0 1 0 1 1 0 1 0.2 1\n", "val/b": LINE})
    convert_yolo(source, tmp_path / "out")
    assert converted(tmp_path / "out")["a.png"] == [("ant", 0, 0, 60, 40)]


def test_folders_of_splits_may_have_upper_case(tmp_path):
    for split in ("Train", "VALID"):
        write_image(tmp_path / f"s/{split}/Images/{split}.png")
        write(tmp_path / f"s/{split}/labels/{split}.txt", LINE)
    write(tmp_path / "s/classes.txt", "ant\n")
    prepared = convert_yolo(tmp_path / "s", tmp_path / "out")
    assert prepared.counts == {"train": {"images": 1, "boxes": 1}, "val": {"images": 1, "boxes": 1}}
    assert converted(tmp_path / "out", "val") == {"VALID.png": [BOX]}


def test_images_behind_circles_of_links_are_read_once(tmp_path):
    source = yolo(tmp_path / "s", {"train/a": LINE, "val/b": LINE})
    (source / "images/train/latest").symlink_to(".")
    (source / "images/val/all").symlink_to("..")
    prepared = convert_yolo(source, tmp_path / "out")
    assert prepared.counts["train"] == {"images": 1, "boxes": 1}
    assert any("links to folders that were already read skipped: 1: latest" in line for line in prepared.warnings)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("{'0': ant, '1': bee}", ("ant", "bee")),
        ("[1.10, true, 007, no]", ("1.10", "true", "007", "no")),
        ("{0: ant, b: bee}", "names: expected a list of class names"),
        ("[ant, ant]", "'ant' is the name of class 0 and of class 1"),
        ("['', ant]", "class 0 has no name"),
        ("[~, ant]", "class 0 has no name"),
        ("[null, ant]", "class 0 has no name"),
        ('["a\\ud800", ant]', "class 0 is not valid text"),
        ('["a\\nb", ant]', "class 0 has a line break"),
        ("[[a], ant]", "names: expected a list of class names"),
    ],
)
def test_class_names_are_kept_as_spelled_and_must_differ(tmp_path, names, expected):
    source = yolo(tmp_path / "s", {"train/a": LINE, "val/b": ""})
    write(source / "data.yaml", f"train: images/train\nval: images/val\nnames: {names}\n")
    if isinstance(expected, str):
        assert expected in problems(convert_yolo, source / "data.yaml", tmp_path / "out")[0]
    else:
        convert_yolo(source / "data.yaml", tmp_path / "out")
        categories = json.loads((tmp_path / "out/annotations/instances_train.json").read_text())["categories"]
        assert tuple(category["name"] for category in categories) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: " + "[" * 20000 + "]" * 20000, "nested too deeply"),
        ("a: !!python/object/apply:os.system [true]\n", "train: missing key"),
        ("{a: 1, a: 2}", "duplicate key 'a'"),
        ("? [a]\n: b", "expected text as a key"),
        ("x: &x {train: images/train}\n<<: *x\nnames: [a]", "data.yaml:2: merge keys (<<) are not supported"),
        ("train: images/train\npath: [a]\nnames: [x]", "path: expected a folder as text, found a list"),
        ("train: images/train\npath: 5\nnames: [x]", "path: expected a folder as text, found '5'"),
        ("train: [[images]]\nnames: [x]", "train: expected a folder or a list file as text, found a list"),
        ("train: /dev/zero\nnames: [x]", "named pipe, socket or device"),
        ("train: images/train\nnc: 99999999999999\n", "names: expected a list"),
    ],
)
def test_hostile_descriptions_are_refused(tmp_path, text, words):
    source = yolo(tmp_path / "s", {"train/a": LINE})
    assert words in problems(convert_yolo, write(source / "data.yaml", text), tmp_path / "out")[0]


def test_aliases_of_aliases_share_their_value(tmp_path):
    lines = ["l0: &l0 [x, x]"] + [f"l{i}: &l{i} [*l{i - 1}, *l{i - 1}]" for i in range(1, 60)]
    values = load_yaml(write(tmp_path / "x.yaml", "\n".join(lines) + "\nme: &me [*me]"))
    assert values["l59"][0] is values["l59"][1]
    assert values["me"][0] is values["me"]


def test_a_yolo_description_as_descriptor_names_prepare_data(tmp_path):
    file = write(tmp_path / "data.yaml", "train: images/train\nval: images/val\nnames: [cat]\n")
    with pytest.raises(ConfigError, match=r"prepare-data yolo .*data.yaml --output"):
        load_dataset_config(file)


def test_without_a_val_split_none_is_written(tmp_path):
    prepared = convert_yolo(yolo(tmp_path / "s", {"train/a": LINE}), tmp_path / "out", val_fraction=0)
    config = load_dataset_config(prepared.config_path)
    assert config.splits == ("train",)
    assert validate_dataset(config).errors == []


def test_names_of_the_classes_are_checked_in_order():
    assert class_name_problems(["a", " ", "b", "a"], "x") == [
        "x: class 1 has no name",
        "x: 'a' is the name of class 0 and of class 3",
    ]


# --- VOC -----------------------------------------------------------------------------------------


def test_voc_lists_name_images_with_spaces_suffixes_and_labels(tmp_path):
    source = voc(tmp_path / "s", {name: xml([]) for name in ("my", "my cat", "x -1", "d", "e", "f")})
    write(source / "ImageSets/Main/train.txt", "my cat\nx -1\nd  1\nd.png\nd\n\n")
    write(source / "ImageSets/Main/val.txt", "\ufeffVOC2007/JPEGImages/e.png -1\r\nd\r\n")
    prepared = convert_voc(source, tmp_path / "out")
    names = {
        split: [image["file_name"] for image in json.loads(path.read_text())["images"]]
        for split in ("train", "val")
        if (path := tmp_path / f"out/annotations/instances_{split}.json").is_file()
    }
    assert names == {"train": ["my cat.png", "x -1.png", "d.png"], "val": ["e.png", "d.png"]}
    assert "2 images left out: no xml file of these splits describes them" in prepared.warnings
    assert "1 images are in more than one split" in prepared.warnings
    write(source / "ImageSets/Main/train.txt", "n" * 5000)
    assert "no annotation file" in problems(convert_voc, source, tmp_path / "out")[0]


@pytest.mark.parametrize("encoding", ["gbk", "shift_jis", "cp1252", "utf-16", "utf-8-sig"])
def test_voc_reads_the_encoding_that_xml_declares(tmp_path, encoding):
    name = "café" if encoding == "cp1252" else "猫"
    source = voc(tmp_path / "s", {"a": xml([]), "b": xml([])})
    declared = "utf-8" if encoding == "utf-8-sig" else encoding
    text = f'<?xml version="1.0" encoding="{declared}"?>' + xml([(name, (1, 1, 9, 9))])
    (source / "Annotations/a.xml").write_bytes(text.encode(encoding))
    convert_voc(source, tmp_path / "out")
    assert converted(tmp_path / "out")["a.png"] == [(name, 0, 0, 9, 9)]


def test_voc_with_an_unknown_or_wrong_encoding_is_refused(tmp_path):
    source = voc(tmp_path / "s", {"a": xml([]), "b": xml([])})
    write(source / "Annotations/a.xml", '<?xml version="1.0" encoding="nosuch"?>' + xml([]))
    (source / "Annotations/b.xml").write_bytes('<?xml version="1.0" encoding="utf-8"?><a>é</a>'.encode("latin-1"))
    first, second = problems(convert_voc, source, tmp_path / "out")
    assert "a.xml: not readable as xml: unknown encoding: nosuch" in first
    assert "b.xml: not readable as xml" in second


# --- COCO ----------------------------------------------------------------------------------------


def coco_file(folder: Path, categories: list[tuple[int, str]], used: list[int], file_name: str = "a.png") -> Path:
    write_image(folder / file_name.replace("\\", "/"))
    document = {
        "images": [{"id": 1, "file_name": file_name, "width": 60, "height": 40}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": category, "bbox": [1, 1, 9, 9]} for i, category in enumerate(used)
        ],
        "categories": [{"id": category, "name": name} for category, name in categories],
    }
    write(folder / "x.json", json.dumps(document))
    return write(folder / "d.yaml", "train: {images: ., annotations: x.json}\n")


@pytest.mark.parametrize(
    ("categories", "used", "kept"),
    [
        ([(0, "cat"), (1, "cat")], [1], (1,)),
        ([(0, "cat"), (1, "cat")], [], (1,)),
        ([(1, "cat"), (2, "cat"), (3, "dog")], [1, 3], (1, 3)),
        ([(0, "animals"), (1, "cat")], [1], (0, 1)),
    ],
)
def test_an_unused_category_with_the_name_of_another_is_left_out(tmp_path, categories, used, kept):
    config = load_dataset_config(coco_file(tmp_path, categories, used))
    coco = load_coco(config.split("train"), "train", allow_empty=True)
    assert coco.classes.category_ids == kept
    assert any("category without boxes left out" in line for line in coco.warnings) == (len(kept) < len(categories))
    content = CocoFormat(images=tmp_path, val_fraction=0).read(tmp_path / "x.json")
    assert tuple(content.categories) == kept


def test_accents_may_have_another_normal_form_than_the_file(tmp_path):
    """macOS writes the names of files with decomposed accents; annotations and lists have them composed."""
    composed, decomposed = (unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD"))
    config = load_dataset_config(coco_file(tmp_path, [(1, "cat")], [1], decomposed))
    (tmp_path / "x.json").write_text((tmp_path / "x.json").read_text().replace("e\\u0301", "\\u00e9"))
    coco = load_coco(config.split("train"), "train")
    assert coco.path(0).is_file()
    assert "another Unicode normal form" in coco.warnings[0]

    write_image(tmp_path / "s/images" / decomposed)
    write(tmp_path / "s/labels" / f"{composed[:-4]}.txt", LINE)
    write(tmp_path / "s/list.txt", f"images/{composed}\n")
    source = write(tmp_path / "s/data.yaml", "train: list.txt\nnames: [ant]\n")
    convert_yolo(source, tmp_path / "yolo")
    assert converted(tmp_path / "yolo") == {decomposed: [BOX]}

    source = voc(tmp_path / "v", {decomposed[:-4]: xml([("ant", (16, 11, 45, 30))]), "b": xml([])})
    write(source / "ImageSets/Main/train.txt", f"{composed[:-4]}\n")
    write(source / "ImageSets/Main/val.txt", "b\n")
    convert_voc(source, tmp_path / "voc")
    assert converted(tmp_path / "voc", "train") == {decomposed: [BOX]}


def test_two_used_categories_of_one_name_are_an_error(tmp_path):
    config = load_dataset_config(coco_file(tmp_path, [(1, "cat"), (2, "cat")], [1, 2]))
    with pytest.raises(DataError, match="duplicate category name"):
        load_coco(config.split("train"), "train")


def test_backslashes_of_windows_are_read_as_slashes_unless_the_file_has_them(tmp_path):
    config = load_dataset_config(coco_file(tmp_path, [(1, "cat")], [1], "images\\a.png"))
    coco = load_coco(config.split("train"), "train")
    assert coco.name(0) == "images/a.png"
    assert "file names with backslashes, read as slashes: images/a.png" in coco.warnings[0]
    write_image(tmp_path / "images\\a.png")
    coco = load_coco(config.split("train"), "train")
    assert coco.name(0) == "images\\a.png"
    assert coco.warnings == ()
