"""The data descriptor: what it may say, and how a user without the data gets on."""

from __future__ import annotations

from pathlib import Path

import pytest

from cspdet.datasets.descriptor import SplitFiles, load_dataset_config
from cspdet.errors import ConfigError, DataError


def write(folder: Path, text: str, name: str = "data.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_paths_are_relative_to_the_file_wherever_one_stands(tmp_path, monkeypatch):
    path = write(tmp_path, "val: {images: a/../images, annotations: val.json}\n")
    monkeypatch.chdir(tmp_path.parent)
    descriptor = load_dataset_config(f"{tmp_path.name}/{path.name}")
    assert descriptor.val == SplitFiles(tmp_path / "images", tmp_path / "val.json")
    assert (descriptor.train, descriptor.test, descriptor.splits) == (None, None, ("val",))
    assert descriptor.path == path


def test_absolute_paths_stay(tmp_path):
    path = write(tmp_path, "train: {images: /data/images, annotations: /data/train.json}\n")
    assert load_dataset_config(path).train == SplitFiles(Path("/data/images"), Path("/data/train.json"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trian: {images: a, annotations: b}", r"data.yaml:1: trian: unknown key \(did you mean 'train'\?\)"),
        ("train: {images: a}", "train.annotations: missing key"),
        ("train: {images: 3, annotations: b}", "train.images"),
        ("train: {images: a, annotations: b, names: [x]}", "train.names: unknown key"),
        ("{}", "no split; expected train, val or test"),
        ("- a", "expected"),
        ("", "empty"),
        ("train: [", "not valid YAML"),
    ],
)
def test_what_is_no_descriptor(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_dataset_config(write(tmp_path, text))


def test_a_missing_descriptor_names_its_neighbor_and_the_key_that_changes_it(tmp_path):
    write(tmp_path, "val: {images: a, annotations: b}", "shapes.yaml")
    with pytest.raises(DataError, match=r"no such data descriptor \(did you mean 'shapes.yaml'\?\)") as caught:
        load_dataset_config(tmp_path / "shape.yaml")
    (problem,) = caught.value.problems
    assert problem.endswith("if the dataset was moved, name its descriptor: --data PATH")


def test_coco_not_on_disk_names_both_solutions(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    path = write(
        tmp_path / "data",
        "train: {images: coco/train2017, annotations: coco/annotations/instances_train2017.json}",
        "coco.yaml",
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        load_dataset_config(path).split("train")
    text = str(caught.value)
    assert "no such file: data/coco/annotations/instances_train2017.json" in text
    assert "no such folder: data/coco/train2017" in text
    assert "`cspdet prepare-data coco --output data/coco`" in text
    assert "`cspdet prepare-data shapes --output data/shapes`" in text
    assert "`--data data/shapes/shapes.yaml`" in text


def test_a_users_own_descriptor_does_not_suggest_to_download_coco(tmp_path):
    path = write(tmp_path, "train: {images: images, annotations: train.json}")
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match=r"train.json") as caught:
        load_dataset_config(path).split("train")
    assert "correct the paths" in str(caught.value)
    assert "prepare-data coco" not in str(caught.value)
    assert "no such folder" not in str(caught.value)


def test_a_split_that_is_not_described(tmp_path):
    descriptor = load_dataset_config(write(tmp_path, "val: {images: a, annotations: b}"))
    for name in ("test", "vla", "path"):
        with pytest.raises(DataError, match=f"no split '{name}'.*it has val"):
            descriptor.split(name)


def test_a_split_that_is_there(tmp_path):
    path = write(tmp_path, "val: {images: images, annotations: val.json}")
    (tmp_path / "images").mkdir()
    (tmp_path / "val.json").write_text("{}")
    assert load_dataset_config(path).split("val") == SplitFiles(tmp_path / "images", tmp_path / "val.json")
