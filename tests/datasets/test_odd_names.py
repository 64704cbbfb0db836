"""Conversions of datasets with any bytes as file names and as texts: what is written can be read, nothing is lost."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from converter_data import PNG, convert_voc, convert_yolo, problems, write, write_image, yolo
from hypothesis import given, settings
from hypothesis import strategies as st

from cspdet.datasets.descriptor import load_dataset_config
from cspdet.datasets.formats.coco import CocoDataset, check_image_files, load_coco
from cspdet.datasets.formats.coco_writer import ConversionResult
from cspdet.errors import ConfigError, DataError

name_bytes = st.binary(min_size=1, max_size=20).filter(
    lambda name: not set(name) & set(b"\0/") and not name.startswith(b".")
)
plain_names = st.text("abAB ='\"{}[]*?#&~%é猫😀\n\t,;", min_size=1, max_size=12).map(str.encode)
stems = st.lists(st.one_of(name_bytes, plain_names), min_size=1, max_size=4, unique_by=lambda name: name.lower())


@pytest.fixture(autouse=True, scope="module")
def without_fsync() -> Iterator[None]:
    """Hundreds of small files, which no power failure needs to survive."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


def put(folder: Path, name: bytes, data: bytes) -> bytes:
    folder.mkdir(parents=True, exist_ok=True)
    path = os.path.join(os.fsencode(folder), name)
    with open(path, "wb") as file:
        file.write(data)
    return path


def datasets(descriptor: Path) -> list[CocoDataset]:
    config = load_dataset_config(descriptor)
    return [load_coco(config.split(split), split, allow_empty=True) for split in config.splits]


def attempt(convert: Callable[..., ConversionResult], *args: Path, **options: float) -> ConversionResult | list[str]:
    """The result of a conversion, or its errors."""
    try:
        return convert(*args, **options)
    except DataError as error:
        return list(error.problems)


@settings(max_examples=300, deadline=None)
@given(names=stems, suffix=st.sampled_from([b".png", b".PNG", b".Jpg"]), label=st.sampled_from([b".txt", b".TXT"]))
def test_yolo_keeps_images_and_boxes_whatever_their_names(names, suffix, label):
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "s")
        paths = {put(source / "images/train", name + suffix, PNG) for name in names}
        for name in names:
            put(source / "labels/train", name + label, b"0 .5 .5 .5 .5")
        write(source / "classes.txt", "ant\n")
        prepared = attempt(convert_yolo, source, Path(folder, "out"), val_fraction=0.5)
        if isinstance(prepared, list):
            assert all("its name cannot be used in annotations" in problem for problem in prepared)
            assert any(set(name) & set(b":\\") for name in names)
            return
        sets = datasets(prepared.config_path)
        assert {os.fsencode(coco.path(i)) for coco in sets for i in range(len(coco))} == paths
        assert sum(len(coco.box_class) for coco in sets) == len(names)
        assert not any(check_image_files(coco) for coco in sets)


@settings(max_examples=100, deadline=None)
@given(names=stems)
def test_voc_keeps_images_and_boxes_whatever_their_names(names):
    box = b"<xmin>5</xmin><ymin>5</ymin><xmax>20</xmax><ymax>20</ymax>"
    text = b"<annotation><object><name>ant</name><bndbox>" + box + b"</bndbox></object></annotation>"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "s")
        paths = {put(source / "JPEGImages", name + b".png", PNG) for name in names}
        for name in names:
            put(source / "Annotations", name + b".xml", text)
        prepared = attempt(convert_voc, source, Path(folder, "out"))
        if isinstance(prepared, list):
            assert all("its name cannot be used in annotations" in problem for problem in prepared)
            assert any(set(name) & set(b":\\") for name in names)
            return
        sets = datasets(prepared.config_path)
        assert {os.fsencode(coco.path(i)) for coco in sets for i in range(len(coco))} == paths
        assert sum(len(coco.box_class) for coco in sets) == len(names)


FILES = {
    "data.yaml": b"path: .\ntrain: train.txt\nval: images/val\nnames: [ant, bee]\n",
    "train.txt": b"images/train/a.png\n",
    "labels/train/a.txt": b"0 .5 .5 .5 .5\n1 .1 .1 .2 .2\n",
}
pieces = st.one_of(
    st.binary(max_size=8), st.sampled_from([b"\xff\xfe", b"\xef\xbb\xbf", b"&a [*a]", b"!!x ", b"~", b"'", b"9" * 5000])
)


@settings(max_examples=300, deadline=None)
@given(file=st.sampled_from(sorted(FILES)), at=st.integers(0, 60), piece=pieces, removed=st.integers(0, 9))
def test_damaged_text_is_read_or_refused_with_the_name_of_its_file(file, at, piece, removed):
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "s")
        write_image(source / "images/train/a.png")
        write_image(source / "images/val/b.png")
        for name, data in FILES.items():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(data[:at] + piece + data[at + removed :] if name == file else data)
        prepared = attempt(convert_yolo, source / "data.yaml", Path(folder, "out"))
        if isinstance(prepared, list):
            assert all(str(source) in problem for problem in prepared)
        else:
            assert datasets(prepared.config_path)


def test_a_folder_whose_name_yaml_does_not_allow_is_found_again(tmp_path):
    for number, name in enumerate(("\x7f\x85\u2028\ufeff: #", '"\n\\x', "😀 {b}")):
        source = yolo(tmp_path / name, {"train/a": "0 .5 .5 .5 .5", "val/b": ""})
        prepared = convert_yolo(source, tmp_path / f"out{number}")
        assert [coco.path(0).is_file() for coco in datasets(prepared.config_path)] == [True, True]


def test_a_folder_that_no_descriptor_can_name_is_refused(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    source = yolo(folder, {"train/a": "0 .5 .5 .5 .5", "val/b": ""})
    (problem,) = problems(convert_yolo, source, tmp_path / "out")
    assert "caf\udce9" in problem
    assert "not UTF-8 text; rename it" in problem
    write(tmp_path / "d.yaml", "train: {images: ., annotations: a.json}\n").rename(folder / "d.yaml")
    with pytest.raises(ConfigError, match=r"d\.yaml:1: train\.images: expected UTF-8 text, found '.*caf\\udce9'"):
        load_dataset_config(folder / "d.yaml")


def test_a_category_that_is_half_a_surrogate_pair_is_an_error(tmp_path):
    write(
        tmp_path / "a.json",
        '{"images": [{"id": 1, "file_name": "a.png", "width": 9, "height": 9}], "annotations": [],'
        ' "categories": [{"id": 1, "name": "cat\\ud83d"}]}',
    )
    write(tmp_path / "d.yaml", "train: {images: ., annotations: a.json}\n")
    with pytest.raises(DataError, match=r'name is not valid text: category 1 has "cat\\ud83d"'):
        load_coco(load_dataset_config(tmp_path / "d.yaml").split("train"), "train")
