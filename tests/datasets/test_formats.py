"""The registry of dataset formats: recognition, COCO as a source, a descriptor's `format`, a user's own format."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from converter_data import HEIGHT, WIDTH, voc, write, write_image, xml, yolo

from cspdet.cli.main import run_command
from cspdet.datasets.descriptor import load_dataset_config
from cspdet.datasets.formats.base import DATASET_FORMATS, DatasetFormat, build_format, recognize_format
from cspdet.datasets.formats.coco import load_coco
from cspdet.datasets.formats.coco_format import CocoFormat
from cspdet.errors import ConfigError, DataError
from cspdet.evaluation.coco import evaluate_results
from cspdet.evaluation.records import read_ground_truth

USER_MODULE = """\
from pathlib import Path

from pydantic import Field

from cspdet.datasets.formats.base import DatasetContent, DatasetFormat, SplitContent
from cspdet.datasets.formats.coco_writer import CocoBox, CocoImage
from cspdet.errors import DataError


class CsvFormat(DatasetFormat):
    '''Lines of split, file, class, x, y, width, height; all images are 60x40 pixels.'''

    delimiter: str = Field(",", description="Between the values of a line.")

    def read(self, source: Path) -> DatasetContent:
        boxes: dict[tuple[str, str], list[CocoBox]] = {}
        names: list[str] = []
        for number, line in enumerate(source.read_text().splitlines(), 1):
            values = line.split(self.delimiter)
            if len(values) != 7:
                raise DataError(f"{source}:{number}: expected 7 values, found {len(values)}")
            split, file, name, *values = values
            names += [] if name in names else [name]
            x, y, w, h = map(float, values)
            boxes.setdefault((split, file), []).append(CocoBox(names.index(name), (x, y, w, h), w * h))
        splits = {
            split: SplitContent(
                source.parent / "images",
                tuple(CocoImage(file, (40, 60), tuple(found)) for (s, file), found in boxes.items() if s == split),
            )
            for split in sorted({split for split, _ in boxes})
        }
        return DatasetContent(dict(enumerate(names)), splits, ("1 thing to know",))


class NoFormat:
    pass
"""
LINES = "train;a.png;ant;1;2;30;20\ntrain;a.png;bee;0;0;60;40\nval;b.png;bee;10;10;5;5.5\n"


@pytest.fixture
def user_module(tmp_path, monkeypatch) -> str:
    """The name of a module in the working directory, which also has a dataset in that module's format."""
    name = f"formats_of_{tmp_path.name.replace('-', '_')}"
    write(tmp_path / f"{name}.py", USER_MODULE)
    write(tmp_path / "labels.csv", LINES)
    for stem in "ab":
        write_image(tmp_path / "images" / f"{stem}.png")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    return name


def coco_file(path: Path, names: list[str], categories: dict[int, str], first_id: int = 100) -> Path:
    """A COCO file with one box of 4x3 in each image, of the categories in turn."""
    ids = list(categories)
    images = [{"id": first_id + i, "file_name": name, "width": WIDTH, "height": HEIGHT} for i, name in enumerate(names)]
    annotations = [
        {
            "id": i + 1,
            "image_id": first_id + i,
            "category_id": ids[i % len(ids)],
            "bbox": [i, 2, 4, 3],
            "iscrowd": i % 2,
        }
        for i in range(len(names))
    ]
    listed = [{"id": category_id, "name": name} for category_id, name in categories.items()]
    return write(path, json.dumps({"images": images, "annotations": annotations, "categories": listed}))


def test_every_format_has_one_entry_and_says_what_its_options_mean():
    assert DATASET_FORMATS.names() == ("coco", "voc", "yolo")
    for name in DATASET_FORMATS.names():
        format_ = build_format(name)
        assert isinstance(format_, DatasetFormat)
        assert format_.name == name
        assert all(field.description for field in type(format_).model_fields.values())


def test_formats_are_recognized_by_their_files(tmp_path):
    sources = {
        "coco": [
            coco_file(tmp_path / "one.json", ["a.png"], {1: "ant"}),
            coco_file(tmp_path / "coco/annotations/instances_val2017.json", ["a.png"], {1: "ant"}).parents[1],
        ],
        "voc": [
            voc(tmp_path / "voc", {"a": xml([])}),
            write(tmp_path / "devkit/VOC2007/Annotations/a.xml", xml([])).parents[2],
            write(tmp_path / "flat/a.xml", xml([])).parent,
        ],
        "yolo": [
            yolo(tmp_path / "yolo", {"train/a": ""}),
            write(tmp_path / "data.yaml", "train: images\nnames: [ant]\n"),
            write(tmp_path / "obj.data", "train = train.txt\nnames = obj.names\n"),
        ],
    }
    # A descriptor of cspdet in the folder of a dataset is no data.yaml of YOLO.
    write(sources["coco"][1] / "mine.yaml", "val: {images: val2017, annotations: annotations/instances_val2017.json}\n")
    for name, paths in sources.items():
        assert [recognize_format(path) for path in paths] == [name] * len(paths)


def test_what_is_not_recognized_asks_for_the_format(tmp_path):
    write(tmp_path / "notes/a.txt", "x")
    both = yolo(voc(tmp_path / "both", {"a": xml([])}), {"train/a": ""})
    for path, found in ((tmp_path / "notes", "found none of them"), (both, "found voc and yolo")):
        with pytest.raises(DataError, match=f"expected one of coco, voc, yolo, {found}; add --format NAME"):
            recognize_format(path)
    with pytest.raises(DataError, match="no such file or folder"):
        recognize_format(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("yollo", [], r"unknown dataset format 'yollo' \(did you mean 'yolo'\?\); valid: coco, voc, yolo"),
        ("voc", ["one_base=false"], r"one_base: unknown key \(did you mean 'one_based'\?\)"),
        ("voc", ["difficult=drop"], "difficult"),
        ("yolo", ["val_fraction=1"], "val_fraction: expected less than 1"),
        ("no_such_module_here:Format", [], "no module 'no_such_module_here'"),
    ],
)
def test_unknown_formats_and_options_are_errors(name, options, message):
    with pytest.raises(ConfigError, match=message):
        build_format(name, options)


def test_a_single_coco_file_is_split_and_keeps_its_ids(tmp_path):
    names = [f"{i}.png" for i in range(10)]
    file = coco_file(tmp_path / "set/all.json", names, {5: "ant", 2: "bee"})
    for name in names:
        write_image(tmp_path / "set/images" / name)
    result = CocoFormat(val_fraction=0.3).convert(file, tmp_path / "out")
    assert result.config_path == tmp_path / "out/coco.yaml"
    assert result.counts == {"train": {"images": 7, "boxes": 7}, "val": {"images": 3, "boxes": 3}}
    config = load_dataset_config(result.config_path)
    splits = [load_coco(config.split(name), name) for name in ("train", "val")]
    ids = {int(coco.image_id[i]): coco.name(i) for coco in splits for i in range(len(coco))}
    assert ids == {100 + i: name for i, name in enumerate(names)}
    for coco in splits:
        assert coco.classes.category_ids == (2, 5)
        for i in range(len(coco)):
            number = int(coco.image_id[i]) - 100
            box, class_id, crowd = coco.boxes(i)
            assert box.tolist() == [[number, 2, number + 4, 5]]
            assert (class_id.tolist(), crowd.tolist()) == ([1 - number % 2], [bool(number % 2)])
            assert coco.path(i).is_file()


def test_the_areas_of_coco_annotations_are_kept(tmp_path):
    file = coco_file(tmp_path / "a.json", [f"{i}.png" for i in range(5)], {1: "ant"})
    content = json.loads(file.read_text())
    for annotation, area in zip(content["annotations"], (7, 2.5, -1, float("nan"), "x"), strict=True):
        annotation["area"] = area
    del content["annotations"][2]["area"]
    file.write_text(json.dumps(content))
    CocoFormat(val_fraction=0).convert(file, tmp_path / "out")
    written = json.loads((tmp_path / "out/annotations/instances_train.json").read_text())["annotations"]
    assert [annotation["area"] for annotation in written] == [7, 2.5, 12, 12, 12]


def test_a_folder_like_coco_2017_has_its_own_splits(tmp_path):
    coco_file(tmp_path / "set/annotations/instances_train2017.json", ["a.png", "b.png"], {1: "ant"})
    coco_file(tmp_path / "set/annotations/instances_val2017.json", ["c.png"], {1: "ant"}, first_id=900)
    write(tmp_path / "set/annotations/captions_val2017.json", "{}")
    (tmp_path / "set/train2017").mkdir()
    (tmp_path / "set/images/val2017").mkdir(parents=True)
    content = CocoFormat().read(tmp_path / "set")
    assert {name: (split.folder, len(split.images)) for name, split in content.splits.items()} == {
        "train": (tmp_path / "set/train2017", 2),
        "val": (tmp_path / "set/images/val2017", 1),
    }
    assert content.splits["val"].images[0].image_id == 900
    coco_file(tmp_path / "set/annotations/instances_val2017.json", ["c.png"], {1: "aunt"})
    with pytest.raises(DataError, match="train and val have different categories"):
        CocoFormat().read(tmp_path / "set")


def test_a_descriptor_reads_another_format_as_its_conversion_is_read(tmp_path):
    source = voc(tmp_path / "src", {name: xml([("ant", (1, 1, 9, 9)), ("bee", (5, 6, 30, 20))]) for name in "abcde"})
    write(tmp_path / "data.yaml", "format: {name: voc, one_based: false, val_fraction: 0.4}\nsource: src\n")
    described = load_dataset_config(tmp_path / "data.yaml")
    format_ = build_format("voc", ["one_based=false", "val_fraction=0.4"])
    converted = load_dataset_config(format_.convert(source, tmp_path / "out").config_path)
    assert described.splits == converted.splits == ("train", "val")
    for name in described.splits:
        one, other = (load_coco(config.split(name), name) for config in (described, converted))
        assert [one.path(i) for i in range(len(one))] == [other.path(i) for i in range(len(other))]
        for key in ("image_id", "size_hw", "box_xyxy", "box_class", "box_crowd", "box_start"):
            assert np.array_equal(getattr(one, key), getattr(other, key)), key
        assert np.array_equal(read_ground_truth(one), read_ground_truth(other))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.yaml", "out", "src"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("format: yolo", "expected format and source together"),
        ("source: src", "expected format and source together"),
        ("{format: yolo, source: src, val: {images: a, annotations: b}}", "found both"),
        ("{format: yollo, source: src}", "did you mean 'yolo'"),
        ("{format: {name: voc, two_based: 1}, source: src}", "format.two_based: unknown key"),
        ("{format: yolo, source: nowhere}", "no such file or folder: .*nowhere"),
    ],
)
def test_what_a_descriptor_may_not_say_about_a_format(tmp_path, text, message):
    with pytest.raises((ConfigError, DataError), match=message):
        load_dataset_config(write(tmp_path / "data.yaml", text + "\n"))


def test_a_format_of_the_users_own_converts(user_module, tmp_path, capsys):
    name = f"{user_module}:CsvFormat"
    arguments = ["convert", "labels.csv", "--format", name, "--output", "out", "--json", "delimiter=;"]
    assert run_command("prepare-data", arguments) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["descriptor"] == "out/csvformat.yaml"
    assert (printed["train"], printed["val"]) == ({"images": 1, "boxes": 2}, {"images": 1, "boxes": 1})
    assert printed["notes"] == ["1 thing to know"]
    config = load_dataset_config("out/csvformat.yaml")
    assert load_coco(config.split("val"), "val").boxes(0)[0].tolist() == [[10, 10, 15, 15.5]]
    assert run_command("prepare-data", arguments) == 0  # an earlier output of the same format is replaced
    capsys.readouterr()
    assert run_command("prepare-data", arguments[:-1]) == 2
    assert capsys.readouterr().err == "error: labels.csv:1: expected 7 values, found 1\n"
    assert run_command("prepare-data", ["voc", str(tmp_path), "--output", "out"]) == 2
    assert "other files in it" in capsys.readouterr().err


def test_a_format_of_the_users_own_is_named_in_a_descriptor(user_module, tmp_path, caplog):
    write(tmp_path / "data.yaml", f"format: {{name: '{user_module}:CsvFormat', delimiter: ';'}}\nsource: labels.csv\n")
    config = load_dataset_config("data.yaml")
    assert config.splits == ("train", "val")
    assert "labels.csv: 1 thing to know" in caplog.text
    train, val = (load_coco(config.split(name), name) for name in config.splits)
    assert train.classes.names == val.classes.names == ("ant", "bee")
    assert train.path(0) == tmp_path / "images/a.png"
    assert train.boxes(0)[0].tolist() == [[1, 2, 31, 22], [0, 0, 60, 40]]
    perfect = {"image_id": int(val.image_id[0]), "category_id": 1, "bbox": [10.0, 10.0, 5.0, 5.5], "score": 0.5}
    assert evaluate_results(val, [perfect])["AP"] == pytest.approx(1.0)


def test_a_descriptor_that_a_checkpoint_names_imports_no_module(user_module):
    write(Path("data.yaml"), f"format: {{name: '{user_module}:CsvFormat', delimiter: ';'}}\nsource: labels.csv\n")
    with pytest.raises(ConfigError, match=f"module '{user_module}', which is not imported; add --import {user_module}"):
        load_dataset_config("data.yaml", named_by_user=False)
    assert user_module not in sys.modules
    assert load_dataset_config("data.yaml").splits == ("train", "val")
    assert load_dataset_config("data.yaml", named_by_user=False).splits == ("train", "val")  # imported by now


def test_a_split_of_another_name_is_an_error(user_module, capsys):
    write(Path("labels.csv"), LINES.replace("val;", "vall;"))
    arguments = ["convert", "labels.csv", "--format", f"{user_module}:CsvFormat", "--output", "out", "delimiter=;"]
    assert run_command("prepare-data", arguments) == 2
    assert capsys.readouterr().err == "error: split 'vall': expected train, val, test (did you mean 'val'?)\n"
    assert not Path("out").exists()


def test_a_class_that_is_no_format_is_an_error(user_module):
    with pytest.raises(ConfigError, match="NoFormat"):
        build_format(f"{user_module}:NoFormat")
    with pytest.raises(ConfigError, match=r"has no 'CsvFromat' \(did you mean 'CsvFormat'\?\)"):
        build_format(f"{user_module}:CsvFromat")
