"""Checkpoints as safetensors files: they are equal to the .pt file, every command reads them, and damage is refused."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from darknet_data import TINY, network, write_pair
from hypothesis import given, settings
from hypothesis import strategies as st
from test_checkpoint_v1 import content_of_version_1

import cspdet
from cspdet.checkpoints.darknet_import import import_darknet
from cspdet.checkpoints.initial_weights import load_initial_weights
from cspdet.checkpoints.loading import load_model
from cspdet.checkpoints.recipes import make_checkpoint
from cspdet.cli.main import main
from cspdet.cli.metadata_table import metadata_table
from cspdet.errors import CheckpointError, ConfigError, UserError
from cspdet.exporters.base import ExportConfig
from cspdet.io import torch_file
from cspdet.io.checkpoint import PROGRAM, Checkpoint, load_checkpoint, save_checkpoint, save_safetensors
from cspdet.io.model_info import ModelInfo, SplitFacts
from cspdet.io.safetensors_file import JSON_KEYS, read_metadata, weights_sha256, write_content
from cspdet.io.tables import format_lines
from cspdet.recipe import load_recipe
from cspdet.structures import Categories

CONFIG = Path(__file__).parents[2] / "configs/csppelee_efm.yaml"
SMALL = ["input.size=64", "model.neck.width=8"]
INFO = ModelInfo(
    name="small", license="MIT", dataset="cats.yaml", data={"train": SplitFacts(images=5, boxes=9)},
).made_now(3, {"AP": 0.25, "AR": math.nan})  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Checkpoint:
    imported = import_darknet(*write_pair(tmp_path_factory.mktemp("darknet"), TINY))
    weights = imported.network.to(memory_format=torch.channels_last).state_dict()
    classes = Categories(("cat", "größe \ud800"), (3, 17))
    return dataclasses.replace(make_checkpoint(imported.recipe, classes, weights, {"step": 1}), info=INFO)


@pytest.fixture(scope="module")
def file(checkpoint, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("safetensors") / "small.safetensors"
    save_safetensors(path, checkpoint)
    return path


def parts(path: Path) -> tuple[dict[str, Any], bytes]:
    """The header of a file, and its tensors."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


def write(path: Path, header: str | dict[str, Any], tensors: bytes = b"") -> Path:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + tensors)
    return path


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[key].dtype == b[key].dtype and torch.equal(a[key], b[key]) for key in a)


# --- there and back ------------------------------------------------------------------------------


def test_what_is_written_comes_back_without_the_training_state(file, checkpoint):
    again = load_checkpoint(file)
    assert dataclasses.replace(again, weights={}) == dataclasses.replace(checkpoint, weights={}, training=None)
    assert same(again.weights, checkpoint.weights)


def test_equal_contents_give_equal_files(file, checkpoint, tmp_path):
    save_safetensors(tmp_path / "again.safetensors", checkpoint)
    assert (tmp_path / "again.safetensors").read_bytes() == file.read_bytes()


def test_any_program_reads_the_tensors_and_the_metadata(file, checkpoint):
    assert same(safetensors.torch.load_file(file), dict(checkpoint.weights))
    metadata = read_metadata(file)
    assert set(metadata) == {*JSON_KEYS, "format", "precision", "weights_sha256", "checksum"}
    assert (metadata["format"], json.loads(metadata["category_ids"])) == ("cspdet 2", [3, 17])
    assert metadata["weights_sha256"] == weights_sha256(checkpoint.weights)


@pytest.mark.parametrize("version", [1, 2])
def test_export_and_back_is_bit_equal(version, checkpoint, tmp_path):
    if version == 1:
        torch.save(content_of_version_1(tmp_path)[0], tmp_path / "x.pt")
    else:
        save_checkpoint(tmp_path / "x.pt", checkpoint)
    before = cspdet.load(tmp_path / "x.pt")
    result = cspdet.export(tmp_path / "x.pt", "safetensors")
    assert (result.paths, result.difference) == ((tmp_path / "x.safetensors",), pytest.approx(0, abs=1e-6))
    save_checkpoint(tmp_path / "back.pt", load_checkpoint(tmp_path / "x.safetensors"))
    for path in ("x.safetensors", "back.pt"):
        after = cspdet.load(tmp_path / path)
        assert (after.config, after.categories, after.info) == (before.config, before.categories, before.info)
        assert same(after.network.state_dict(), before.network.state_dict())


def test_fp16_halves_the_file_and_loads_as_float32(checkpoint, file, tmp_path, capsys):
    save_checkpoint(tmp_path / "x.pt", checkpoint)
    assert main(["export", str(tmp_path / "x.pt"), "--format", "safetensors", "--precision", "fp16", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["precision"] == "fp16"
    half = load_checkpoint(tmp_path / "x.safetensors").weights
    assert (tmp_path / "x.safetensors").stat().st_size < 0.75 * file.stat().st_size
    assert {value.dtype for value in half.values()} == {torch.float32, torch.int64}
    for name, value in checkpoint.weights.items():
        assert torch.equal(half[name], value.half().float() if value.ndim > 1 else value)


def test_weights_that_are_too_large_for_fp16_are_not_written(checkpoint, tmp_path):
    name = next(name for name, value in checkpoint.weights.items() if value.ndim == 4)
    weights = {**checkpoint.weights, name: torch.full_like(checkpoint.weights[name], 1e6)}
    with pytest.raises(CheckpointError, match=f"{name}: its values are too large for fp16"):
        save_safetensors(tmp_path / "x.safetensors", dataclasses.replace(checkpoint, weights=weights), half=True)
    assert list(tmp_path.iterdir()) == []


def test_options_that_the_format_lacks(file):
    with pytest.raises(ConfigError, match="--precision: --format safetensors has fp32 and fp16, found int8"):
        cspdet.export(file, "safetensors", config=ExportConfig(precision="int8"))
    with pytest.raises(ConfigError, match="--nms: --format safetensors does not have this option"):
        cspdet.export(file, "safetensors", config=ExportConfig(nms=object()))
    with pytest.raises(UserError, match="is an input of this command"):
        cspdet.export(file, "safetensors", file)


# --- as MODEL and as --weights -------------------------------------------------------------------


def test_the_file_is_a_model_and_gives_weights(file, checkpoint, tmp_path):
    (tmp_path / "x.cfg").write_text(TINY)
    given = load_model(tmp_path / "x.cfg", weights=file)
    assert same(given.network.state_dict(), dict(checkpoint.weights))
    report = load_initial_weights(network(TINY), file)
    assert all(entry.loaded for entry in report.entries)
    (tmp_path / "model.safetensors").write_bytes(file.read_bytes())
    assert load_model(tmp_path / "model.safetensors").name == "small"  # the name of files in a model repository
    assert load_model(file, overrides=["input.size=96"]).config.input.size == (96, 96)


def test_a_file_of_another_program_is_refused_as_model(tmp_path):
    for metadata in (None, {"format": "pt"}):
        safetensors.torch.save_file({"conv.weight": torch.ones(1)}, tmp_path / "timm.safetensors", metadata)
        with pytest.raises(CheckpointError, match="weights of timm are read as --weights of a network"):
            load_model(tmp_path / "timm.safetensors")
    with pytest.raises(CheckpointError, match=r"no such file; expected a \.safetensors file"):
        load_model(tmp_path / "missing.safetensors")


def test_a_file_of_timm_fills_its_backbone(tmp_path):
    timm = pytest.importorskip("timm")
    theirs = timm.create_model("resnet18", pretrained=False).state_dict()
    safetensors.torch.save_file(theirs, tmp_path / "resnet18.safetensors", {"format": "pt"})
    model = load_recipe(CONFIG, [*SMALL, "model.backbone={name: timm, model: resnet18}"]).model.build(2)
    load_initial_weights(model, tmp_path / "resnet18.safetensors")
    assert torch.equal(model.state_dict()["backbone.network.conv1.weight"], theirs["conv1.weight"])


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_info_shows_all_metadata_in_80_columns(file, checkpoint, tmp_path, capsys, monkeypatch):
    save_checkpoint(tmp_path / "x.pt", dataclasses.replace(checkpoint, program="cspdet 0.0.9"))
    assert main(["info", str(file), str(tmp_path / "x.pt"), "--json"]) == 0
    first, second = (row["metadata"] for row in json.loads(capsys.readouterr().out))
    for metadata in (first, second):
        assert metadata.items() >= {**INFO.to_json(), "task": "detection", "category_ids": [3, 17]}.items()
        assert metadata["config"] == checkpoint.config
        assert metadata["weights_sha256"] == weights_sha256(checkpoint.weights)
    assert [first["program"], second["program"]] == [PROGRAM, "cspdet 0.0.9"]
    assert main(["info", str(file)]) == 0
    text = capsys.readouterr().out
    for value in ("license", "MIT", "5 images, 9 boxes", "AP 0.2500, AR -", "cats.yaml", "größe \\ud800"):
        assert value in text
    monkeypatch.setenv("COLUMNS", "80")
    lines = format_lines([metadata_table(first)], Terminal())
    assert max(len(re.sub("\x1b\\[[0-9;]*m", "", line)) for line in lines) <= 80


# --- damage and strangers ------------------------------------------------------------------------


@given(at=st.floats(0, 1), bit=st.integers(0, 7))
@settings(max_examples=30)
def test_every_flipped_bit_is_refused(file, at, bit):
    data = bytearray(file.read_bytes())
    header = 8 + int.from_bytes(data[:8], "little")
    for size in (header, len(data)):  # half of the flips are in the header, which is small
        damaged = bytearray(data)
        damaged[int(at * (size - 1))] ^= 1 << bit
        path = file.parent / "flipped.safetensors"
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            load_checkpoint(path)


@given(content=st.binary(max_size=200), length=st.integers(0, 250))
@settings(max_examples=60)
def test_no_bytes_end_in_a_traceback(file, content, length):
    path = file.parent / "rubbish.safetensors"
    for data in (content, length.to_bytes(8, "little") + content):
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match=r"not a safetensors file, or damaged|not a checkpoint of cspdet"):
            load_checkpoint(path)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(key=st.sampled_from(JSON_KEYS), value=VALUES)
@settings(max_examples=40)
def test_no_metadata_ends_in_a_traceback(checkpoint, file, key, value):
    path = file.parent / "metadata.safetensors"
    content = {"program": "x", "task": "detection", "config": checkpoint.config, "class_names": ["a"], "info": {}}
    content |= {"category_ids": [1], key: value}
    rewrite(path, content)
    with contextlib.suppress(CheckpointError):
        load_model(path)


def rewrite(path: Path, content: dict[str, Any]) -> Path:
    """A file with a valid checksum and this content."""

    def plain(value: Any) -> Any:
        return json.loads(json.dumps(value).replace("NaN", "0").replace("-Infinity", "0").replace("Infinity", "0"))

    write_content(path, {**plain(content), "format": "cspdet 2", "weights": {"a": torch.ones(2)}})
    return path


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


CASES = {
    "empty": (b"", "shorter than its header says"),
    "header longer than the file": ((10**6).to_bytes(8, "little") + b"{}", "shorter than its header says"),
    "huge header": ((2**24).to_bytes(8, "little") + b" " * 2**24, "a header of at most 8388608 bytes, found 16777216"),
    "not JSON": (b"\x02" + bytes(7) + b"{]", "damaged"),
    "not text": (b"\x02" + bytes(7) + b"\xff\xff", "damaged"),
    "deep": ((2 * 10**5).to_bytes(8, "little") + nested(10**5).encode(), "damaged"),
}


@pytest.mark.parametrize("name", CASES)
def test_damaged_headers_are_one_clear_error(tmp_path, name):
    data, message = CASES[name]
    (tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(tmp_path / "x.safetensors")
    (line,) = caught.value.problems
    assert line.startswith(f"{tmp_path / 'x.safetensors'}: ")
    assert len(line) < 400


def test_a_file_that_was_cut_is_refused(file, tmp_path):
    data = file.read_bytes()
    for size in (4, 100, len(data) // 2, len(data) - 1):
        (tmp_path / "cut.safetensors").write_bytes(data[:size])
        with pytest.raises(CheckpointError, match="or damaged"):
            load_model(tmp_path / "cut.safetensors")


def test_equal_keys_are_refused(file, tmp_path):
    header, tensors = parts(file)
    name = next(key for key in header if key != "__metadata__")
    text = json.dumps(header)
    for twice in (f'{{"{name}": 1, {text[1:]}', text.replace('"__metadata__": {', '"__metadata__": {"format": "x", ')):
        with pytest.raises(CheckpointError, match="a key occurs twice"):
            load_checkpoint(write(tmp_path / "x.safetensors", twice, tensors))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"info": {"metrics": {"AP": "high"}}}, r"info\.metrics\.AP: Input should be a valid number"),
        ({"info": {"license": "M" * 501}}, r"info\.license: String should have at most 500 characters"),
        ({"info": {"name": "\x1b[2J"}}, r"info\.name: Value error, expected printable characters"),
        ({"info": {"data": {"train": {"images": -1}}}}, r"info\.data\.train\.images: Input should be greater"),
        (
            {"info": {"metrics": {str(i): 0.5 for i in range(201)}}},
            r"info\.metrics: Dictionary should have at most",
        ),
        ({"config": []}, "config: expected a mapping"),
        ({"class_names": {"a": 1}}, "class_names: expected a list of text"),
        ({"category_ids": [1.5]}, "category_ids: expected a list of whole numbers"),
        ({"task": "pose"}, "task: expected detection or classification, found 'pose'"),
    ],
)
def test_metadata_of_other_types_is_refused(tmp_path, content, message):
    good = {"program": "x", "task": "detection", "config": {}, "class_names": ["a"], "category_ids": [1], "info": {}}
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(rewrite(tmp_path / "x.safetensors", {**good, **content}))
    assert len(caught.value.problems) == 1


def test_unknown_facts_are_ignored_and_a_later_format_is_named(checkpoint, file, tmp_path):
    later = {"program": "x", "task": "detection", "config": {}, "class_names": ["a"], "category_ids": [1]}
    found = load_checkpoint(rewrite(tmp_path / "x.safetensors", later | {"info": {"teacher": {"a": 1}, "epoch": 2}}))
    assert found.info == ModelInfo(epoch=2)
    header, tensors = parts(file)
    header["__metadata__"] |= {"format": "cspdet 3", "program": '"cspdet 99.0"'}
    with pytest.raises(CheckpointError, match=r"it was written by cspdet 99\.0, this is cspdet .*: install a newer"):
        load_checkpoint(write(tmp_path / "later.safetensors", header, tensors))


def test_weights_that_are_not_finite_are_refused(checkpoint, tmp_path):
    name = next(name for name in checkpoint.weights if name.endswith("bias"))
    for value in (math.nan, math.inf):
        weights = {**checkpoint.weights, name: torch.full_like(checkpoint.weights[name], value)}
        save_safetensors(tmp_path / "x.safetensors", dataclasses.replace(checkpoint, weights=weights))
        with pytest.raises(CheckpointError, match=rf"1 of \d+ tensors have values that are not finite .*: {name}"):
            load_model(tmp_path / "x.safetensors")


@pytest.mark.parametrize(("version", "notes"), [("2.9.1+cpu", 1), ("2.10.0", 0), ("2.15.0+cu132", 0)])
def test_a_torch_with_a_flaw_is_noted_once(checkpoint, tmp_path, monkeypatch, log_capture, version, notes):
    save_checkpoint(tmp_path / "x.pt", checkpoint)
    monkeypatch.setattr(torch_file.torch, "__version__", version)
    torch_file._warn_if_torch_is_old.cache_clear()
    load_checkpoint(tmp_path / "x.pt")
    load_checkpoint(tmp_path / "x.pt")
    torch_file._warn_if_torch_is_old.cache_clear()
    assert log_capture.text.count("CVE-2026-24747") == notes
