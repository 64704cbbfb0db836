"""Checkpoints: what is written comes back; what is damaged, foreign or unsafe is refused; a full disk loses nothing."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import os
import pickle
import random
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cspdet import __version__
from cspdet.checkpoints.initial_weights import transfer
from cspdet.checkpoints.loading import load_model
from cspdet.checkpoints.recipes import make_checkpoint, recipe_from_checkpoint
from cspdet.errors import CheckpointError, ConfigError
from cspdet.io.checkpoint import Checkpoint, load_checkpoint, load_weights, save_checkpoint
from cspdet.recipe import load_recipe
from cspdet.structures import Categories
from cspdet.training.config import TrainConfig

CONFIG = Path(__file__).parents[2] / "configs/csppelee_efm.yaml"
CLASSES = Categories(("cat", "dog"), (3, 17))


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    recipe = load_recipe(CONFIG, ["input.size=64", "model.neck.width=8"])
    torch.manual_seed(0)
    return make_checkpoint(recipe, CLASSES, recipe.model.build(2).state_dict(), {"progress": {"epoch": 1}})


@pytest.fixture(scope="module")
def file(checkpoint, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "last.pt"
    save_checkpoint(path, checkpoint)
    return path


def test_what_is_written_comes_back(file, checkpoint):
    again = load_checkpoint(file)
    assert (again.task, again.config, again.categories) == ("detection", checkpoint.config, CLASSES)
    assert (again.training, again.program) == (checkpoint.training, f"cspdet {__version__}")
    assert recipe_from_checkpoint(again, "x.pt") == load_recipe(CONFIG, ["input.size=64", "model.neck.width=8"])
    assert all(torch.equal(again.weights[name], value) for name, value in checkpoint.weights.items())


def test_a_checkpoint_is_a_model_with_its_own_config_and_classes(file, checkpoint):
    loaded = load_model(file)
    assert loaded.categories == CLASSES
    assert loaded.config.input.size == (64, 64)
    assert not loaded.network.training
    assert torch.equal(
        loaded.network.state_dict()["head.pred_convs.0.bias"], checkpoint.weights["head.pred_convs.0.bias"]
    )
    assert load_model(file, overrides=["input.size=96"]).config.input.size == (96, 96)


class _Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("/nonexistent/never"),))


def rubbish(kind: str, good: bytes) -> bytes:
    return {
        "empty": b"",
        "text": b"hello, I am a checkpoint",
        "half": good[: len(good) // 2],
        "cut": good[:-1000],
        "pickle": pickle.dumps({"format": "cspdet 1"}),
        "bomb": pickle.dumps(_Bomb()),
    }[kind]


@pytest.mark.parametrize("kind", ["empty", "text", "half", "cut", "pickle", "bomb"])
def test_damaged_and_other_files_are_one_clear_error(tmp_path, file, kind):
    path = tmp_path / "x.pt"
    path.write_bytes(rubbish(kind, file.read_bytes()))
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    (line,) = caught.value.problems
    assert line.startswith(f"{path}: ")


@given(at=st.floats(0, 1), value=st.integers(0, 255))
@settings(max_examples=30)
def test_a_flipped_byte_never_ends_in_a_traceback(file, at, value):
    data = bytearray(file.read_bytes())
    data[int(at * (len(data) - 1))] = value
    path = file.parent / "flipped.pt"
    path.write_bytes(data)
    with contextlib.suppress(CheckpointError):  # some bytes do not matter; any other exception fails the test
        load_checkpoint(path)


def test_a_flipped_bit_in_a_tensor_is_refused(file, tmp_path):
    data = file.read_bytes()
    with zipfile.ZipFile(file) as archive:
        tensors = [entry for entry in archive.infolist() if "/data/" in entry.filename and entry.file_size > 100]
    rng = random.Random(0)
    for entry in rng.sample(tensors, 10):
        damaged = bytearray(data)
        name, extra = struct.unpack_from("<HH", data, entry.header_offset + 26)
        start = entry.header_offset + 30 + name + extra
        damaged[start + rng.randrange(entry.file_size)] ^= 1 << rng.randrange(8)
        (tmp_path / "flipped.pt").write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"damaged \(the checksum of '.*' is wrong\)"):
            load_checkpoint(tmp_path / "flipped.pt")


def test_an_archive_that_expands_too_much_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"\0" * 10_000_000)
    with pytest.raises(CheckpointError, match="compressed too much"):
        load_checkpoint(tmp_path / "x.pt")


def later_version(checkpoint: Checkpoint, path: Path, **changes: object) -> Path:
    """A checkpoint of a later version, whose training and evaluation have keys that this one does not know."""
    config = copy.deepcopy(checkpoint.config) | {"distillation": {"teacher": "x.pt"}}
    config["train"] |= {"future": 1, "loss": {"name": "mylosses:Loss", "gain": 2}, "patience": "adaptive"}
    config["eval"] |= {"future": [1]}
    for key, value in changes.items():
        config[key] = value
    save_checkpoint(path, dataclasses.replace(checkpoint, config=config, program="cspdet 99.0"))
    return path


def test_unknown_training_keys_do_not_block_a_model(checkpoint, tmp_path, log_capture):
    path = later_version(checkpoint, tmp_path / "later.pt", data=None)
    bundle = load_model(path)
    (record,) = log_capture.records
    where, keys = record.getMessage().split(": ignored, because this version cannot use them: ")
    assert where == f"{path} (written by cspdet 99.0)"
    assert set(keys.split(", ")) == {"distillation", "train.future", "train.loss", "train.patience", "eval.future"}
    known = load_recipe(CONFIG, ["input.size=64", "model.neck.width=8"])
    default_loss = known.train.model_copy(update={"loss": TrainConfig().loss})
    assert (bundle.config.train, bundle.config.eval) == (default_loss, known.eval)
    assert (bundle.categories, bundle.program) == (CLASSES, "cspdet 99.0")
    with pytest.raises(CheckpointError, match=r"99\.0\): train\.future: unknown key"):
        recipe_from_checkpoint(load_checkpoint(path), str(path), for_training=True)


def test_unknown_keys_of_the_model_are_refused(checkpoint, tmp_path):
    neck = {**checkpoint.config["model"]["neck"], "future": 1}
    path = later_version(checkpoint, tmp_path / "later.pt", model={**checkpoint.config["model"], "neck": neck})
    with pytest.raises(CheckpointError, match=r"99\.0\): model\.neck\.future: unknown key"):
        load_model(path)
    content = torch.load(path, weights_only=True) | {"format": "cspdet 3"}
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"it was written by cspdet 99\.0, this is cspdet .*: install a newer"):
        load_model(path)


def test_no_file_is_opened_that_a_config_names(checkpoint, tmp_path):
    (tmp_path / "secret.cfg").write_text("password=123\n")
    os.mkfifo(tmp_path / "fifo")  # opening it would wait forever
    for name in ("secret.cfg", "fifo"):
        config = {**checkpoint.config, "model": {"name": "darknet", "cfg": str(tmp_path / name)}}
        save_checkpoint(tmp_path / "x.pt", dataclasses.replace(checkpoint, config=config))
        with pytest.raises(CheckpointError, match=r"model\.cfg: expected the text of a cfg, found") as caught:
            load_model(tmp_path / "x.pt")
        assert "password" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("weights", {"a": 5}, "weights: 'a': expected a dense tensor"),
        ("weights", [1], "weights: expected a mapping"),
        ("config", 3, "config: expected a mapping"),
        ("training", "x", "training: expected a mapping"),
        ("class_names", "ab", "class_names: expected a list of text"),
        ("category_ids", [1.5, 2.0], "category_ids: expected a list of whole numbers"),
        ("task", ["detection"], "task: expected detection or classification"),
    ],
)
def test_entries_of_other_types_are_refused(file, tmp_path, key, value, message):
    torch.save(torch.load(file, weights_only=True) | {key: value}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "x.pt")


def test_a_config_that_is_not_plain_values_is_refused(checkpoint, tmp_path):
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    circle: dict[str, object] = {}
    circle["input"] = circle
    for values in ({"input": torch.zeros(1)}, {"input": deep}, circle, {(1, 2): 3}):
        with pytest.raises(CheckpointError, match="expected plain values"):
            recipe_from_checkpoint(dataclasses.replace(checkpoint, config=values), "x.pt")


def test_weights_that_are_not_finite_are_refused_by_name(checkpoint, tmp_path):
    name = "backbone.stem.conv.conv.weight"
    for value in (math.nan, math.inf):
        weights = {**checkpoint.weights, name: torch.full_like(checkpoint.weights[name], value)}
        save_checkpoint(tmp_path / "x.pt", dataclasses.replace(checkpoint, weights=weights))
        with pytest.raises(CheckpointError, match=rf"1 of \d+ tensors have values that are not finite .*: {name}"):
            load_model(tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="not finite"):
        transfer(load_recipe(CONFIG, ["model.neck.width=8"]).model.build(5), weights, "x.pt")


def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path):
    path, mark = tmp_path / "evil.pt", tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (Path.touch, (mark,))

    torch.save({"format": "cspdet 1", "weights": Evil()}, path)
    with pytest.raises(CheckpointError, match="could run code; not loaded"):
        load_checkpoint(path)
    assert not mark.exists()


def test_other_peoples_checkpoints_are_named_as_such(tmp_path):
    torch.save({"model": {"w": torch.zeros(1)}}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint of cspdet: expected format 'cspdet 2', found None"):
        load_checkpoint(tmp_path / "other.pt")
    torch.save({"format": "cspdet 2", "task": "detection"}, tmp_path / "cut.pt")
    with pytest.raises(CheckpointError, match="incomplete checkpoint: 'config'"):
        load_checkpoint(tmp_path / "cut.pt")
    torch.save({"format": "cspdet 1", "recipe": {}}, tmp_path / "cut_1.pt")
    with pytest.raises(CheckpointError, match="incomplete checkpoint: 'training'"):
        load_checkpoint(tmp_path / "cut_1.pt")
    save_checkpoint(tmp_path / "empty.pt", Checkpoint("detection", {}, CLASSES, {}))
    with pytest.raises(CheckpointError, match="model: missing key"):
        load_model(tmp_path / "empty.pt")
    save_checkpoint(tmp_path / "task.pt", Checkpoint("segmentation", {}, CLASSES, {}))
    with pytest.raises(CheckpointError, match="expected detection or classification, found 'segmentation'"):
        load_checkpoint(tmp_path / "task.pt")


def test_weights_of_another_architecture_are_counted(file, checkpoint):
    other = load_recipe(CONFIG, ["model.neck.width=16", "input.size=64"]).model.build(2)
    with pytest.raises(CheckpointError) as caught:
        load_weights(other, checkpoint.weights, "x.pt")
    assert "another architecture" in caught.value.problems[0]
    assert len(caught.value.problems) == 7  # the heading, five examples, the rest counted


def test_a_config_takes_the_weights_of_a_checkpoint_of_its_network_only(file):
    loaded = load_model(CONFIG, weights=file, overrides=["model.neck.width=8", "input.size=64"])
    assert loaded.categories == CLASSES
    with pytest.raises(CheckpointError, match="another architecture"):
        load_model(CONFIG, weights=file)
    with pytest.raises(CheckpointError, match="has its own weights"):
        load_model(file, weights=file)
    with pytest.raises(ConfigError, match="multiples of 32, found 100x100"):
        load_model(file, overrides=["input.size=100"])


def test_transfer_loads_what_fits_and_reports_the_rest(checkpoint, caplog):
    other = load_recipe(CONFIG, ["model.neck.width=8"]).model.build(5)  # other classes: other heads
    fresh = {name: value.clone() for name, value in other.state_dict().items()}
    with caplog.at_level("INFO", logger="cspdet"):
        transfer(other, checkpoint.weights, "x.pt")
    own = {name: value for name, value in other.state_dict().items() if not name.endswith("num_batches_tracked")}
    assert f"loaded {len(own) - 6} of the {len(own)} network entries" in caplog.text  # three weights, three biases
    assert torch.equal(own["backbone.stem.conv.conv.weight"], checkpoint.weights["backbone.stem.conv.conv.weight"])
    assert torch.equal(own["head.pred_convs.0.weight"], fresh["head.pred_convs.0.weight"])
    with pytest.raises(CheckpointError, match="none of its 1 entries fits"):
        transfer(other, {"a": torch.zeros(1)}, "x.pt")


FULL_DISK = """
import resource, signal, sys
from cspdet.io.checkpoint import load_checkpoint, save_checkpoint
from cspdet.errors import UserError
checkpoint = load_checkpoint(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # writes fail from 100 kB on, as on a full disk
try:
    save_checkpoint(sys.argv[1], checkpoint)
except UserError as error:
    print(error)
"""


def test_a_full_disk_keeps_the_previous_checkpoint(file):
    before = file.read_bytes()
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(file)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "cannot be written" in done.stdout
    assert "the file that was there before is kept" in done.stdout
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.glob(".*part*")] == []
