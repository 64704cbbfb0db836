"""What both converters promise: how val is shared out, clipping, and that nothing of the user is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
from converter_data import HEIGHT, WIDTH, convert_voc, convert_yolo, problems, voc, write, xml, yolo
from hypothesis import given
from hypothesis import strategies as st

from cspdet.datasets.formats.coco_format import CocoFormat
from cspdet.datasets.formats.coco_writer import clip_box, hash_split
from cspdet.errors import DataError

ROOT = Path(__file__).parents[2]


@given(number=st.integers(0, 60), prefix=st.text(max_size=3), fraction=st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_the_share_of_val_is_exact_and_depends_on_names_only(number, prefix, fraction):
    names = {f"{prefix}{i}" for i in range(number)}
    chosen = hash_split(names, fraction)
    assert chosen == hash_split(sorted(names, reverse=True), fraction)
    assert chosen <= names
    assert abs(len(chosen) - fraction * len(names)) <= 1


@given(st.tuples(*[st.floats(-100, 200)] * 4))
def test_a_clipped_box_lies_inside_its_image(box):
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


def test_what_the_user_changed_after_a_conversion_is_kept(tmp_path):
    source, output = yolo(tmp_path / "src", {"train/a": "0 .5 .5 .5 .5", "val/b": ""}), tmp_path / "out"
    convert_yolo(source, output)
    convert_yolo(source, output)
    annotations, descriptor = output / "annotations/instances_train.json", output / "yolo.yaml"
    written = descriptor.read_text()
    added = (f"{written}test: {{images: a}}\n", f'{written}test: {{images: "a", annotations: "/mine/a.json"}}\n')
    for path, content in ((annotations, "corrected"), *((descriptor, text) for text in added)):
        convert_yolo(source, output)
        path.write_text(content)
        os.utime(path, (descriptor.stat().st_mtime + 60,) * 2)
        with pytest.raises(DataError, match=r"changed after the conversion|has other files"):
            convert_yolo(source, output)
        assert path.read_text() == content
        path.unlink()
        annotations.unlink(missing_ok=True)
        descriptor.write_text(written)


def test_a_dataset_is_not_converted_into_its_own_folder(tmp_path):
    source, output = yolo(tmp_path / "src", {"train/a": "0 .5 .5 .5 .5", "val/b": ""}), tmp_path / "out"
    convert_yolo(source, tmp_path / "first")
    coco = CocoFormat(images=source / "images")
    coco.convert(tmp_path / "first/annotations/instances_train.json", output)
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    for same_dataset in (output / "annotations/instances_train.json", output):
        with pytest.raises(DataError, match="contains the dataset"):
            coco.convert(same_dataset, tmp_path / "first" / ".." / "out")
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before


def test_the_tool_reports_errors_and_prints_json(tmp_path):
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
