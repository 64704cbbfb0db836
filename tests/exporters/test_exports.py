"""`export` to ONNX, OpenVINO and TorchScript: what the files hold, and that they never differ from the network."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from engine_data import CLASSES, ROOT, SIZE_HW, load_engine, random_images, small_detector, write_checkpoint
from torch import Tensor, nn

from cspdet import load_detector
from cspdet.cli.main import main
from cspdet.errors import CheckpointError, ConfigError, UserError
from cspdet.exporters import verify as check_module
from cspdet.exporters.base import ExportConfig
from cspdet.exporters.graph import export_metadata
from cspdet.exporters.openvino import OpenVinoFormat
from cspdet.exporters.verify_nms import detections_difference
from cspdet.inference.engines import onnx_export as convert
from cspdet.inference.engines.exported import read_exported_metadata
from cspdet.inference.engines.onnx_export import output_names, to_onnx
from cspdet.inference.metadata import NmsConfig, build_metadata, parse_metadata
from cspdet.io.atomic import atomic_write
from cspdet.models.bundle import ModelBundle
from cspdet.models.config import PostprocessConfig
from cspdet.models.postprocess import decode, postprocess
from cspdet.structures import Detections

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

NMS = {"min_score": 0.3, "nms_iou": 0.5, "max_detections": 7}
NMS_WORDS = [word for name, value in NMS.items() for word in (f"--{name.replace('_', '-')}", str(value))]


@pytest.fixture(scope="module")
def loaded() -> ModelBundle:
    return small_detector()


@pytest.fixture(scope="module")
def checkpoint(loaded, tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("exports") / "small.pt", loaded)


@pytest.fixture(scope="module")
def raw_onnx(checkpoint) -> Path:
    return exported(checkpoint, "raw.onnx")


def exported(checkpoint: Path, name: str, *words: str) -> Path:
    kind = {".onnx": "onnx", ".xml": "openvino"}.get(Path(name).suffix, "torchscript")
    if kind == "openvino":
        pytest.importorskip("openvino")
    target = checkpoint.with_name(name)
    assert main(["export", str(checkpoint), "--format", kind, "--output", str(target), *words]) == 0
    return target


def backends(path: Path) -> list[str]:
    return {".onnx": ["onnxruntime", "openvino"], ".xml": ["openvino"]}.get(path.suffix, ["torch"])


def wrong(argv: list[object], capsys) -> str:
    """What a command that fails for a mistake of the user's says."""
    capsys.readouterr()
    assert main([str(word) for word in argv]) == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return message


def near(found: tuple[Tensor, ...], expected: tuple[Tensor, ...], tolerance: float = 1e-5) -> None:
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert float((a - b).abs().max()) <= tolerance * float(b.abs().max())


# --- what files compute ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["raw.onnx", "raw.xml", "raw.torchscript", "raw.ts"])
def test_raw_files_give_what_the_network_gives_for_any_batch_and_size(name, checkpoint, loaded):
    path = exported(checkpoint, name)
    for backend in backends(path):
        if backend == "openvino":
            pytest.importorskip("openvino")
        engine = load_engine(path, backend=backend, device="cpu")
        for x in (random_images(1), random_images(3), random_images(2, 128, 32)):
            with torch.no_grad():
                near(engine(x), loaded.network(x))
    assert not list(checkpoint.parent.glob(".*")), "no draft is left"


@pytest.mark.parametrize("name", ["decoded.onnx", "decoded.xml", "decoded.ts"])
def test_decoded_files_give_boxes_and_scores(name, checkpoint, loaded):
    engine = load_engine(exported(checkpoint, name, "--outputs", "decoded"), backend=backends(Path(name))[0])
    for x in (random_images(1), random_images(2, 128, 32)):
        with torch.no_grad():
            expected = decode(loaded.network(x), loaded.network.anchors)
        near(engine(x), expected)
        config = PostprocessConfig(min_score=0.25, nms_iou=0.6, max_detections=50)
        for found, reference in zip(engine.detect(x, config), postprocess(*expected, config), strict=True):
            assert detections_difference(found, reference) < 1e-4


@pytest.mark.parametrize("name", ["nms.onnx", "nms.xml"])
def test_files_with_nms_give_the_detections_themselves(name, checkpoint, loaded):
    engine = load_engine(exported(checkpoint, name, "--nms", *NMS_WORDS), backend=backends(Path(name))[0])
    for x in (random_images(1), random_images(3), random_images(2, 128, 32)):
        with torch.no_grad():
            expected = postprocess(*decode(loaded.network(x), loaded.network.anchors), PostprocessConfig(**NMS))
        assert [len(each) for each in expected] == [7] * len(x), "so that the limit is at work"
        for found, reference in zip(engine.detect(x, PostprocessConfig(**NMS)), expected, strict=True):
            assert detections_difference(found, reference) < 1e-4
        stricter = PostprocessConfig(nms_iou=0.5, min_score=0.5, max_detections=3)
        for found, reference in zip(engine.detect(x, stricter), expected, strict=True):
            assert found.score.tolist() == pytest.approx([s for s in reference.score.tolist() if s > 0.5][:3], abs=1e-5)


def test_files_with_nms_have_no_boxes_left_to_vote(checkpoint, capsys):
    path = exported(checkpoint, "voting.onnx", "--nms", *NMS_WORDS, "eval.vote_iou=0.6")
    assert "without box voting (eval.vote_iou 0.6)" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="a file with built-in NMS"):
        load_detector(path, vote_iou=0.6)
    for none in (None, 1):
        detector = load_detector(path, vote_iou=none)
        assert detector.predict(np.zeros((8, 8, 3), np.uint8)).box_xyxy.shape[1] == 4


def test_nms_of_no_detections_is_empty(checkpoint):
    path = exported(checkpoint, "none.onnx", "--nms", "--min-score", "0.9999")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (rows,) = session.run(None, {"images": random_images(2).numpy()})
    assert rows.shape == (0, 7)


def test_a_file_of_fixed_shape_takes_any_batch_one_by_one_and_no_other_size(checkpoint, loaded, capsys):
    path = exported(checkpoint, "fixed.onnx", "--no-dynamic", "--size", "96x64")
    graph = onnx.load(str(path)).graph
    assert [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim] == [1, 3, 96, 64]
    engine = load_engine(path, backend="onnxruntime")
    assert engine.size_hw == (96, 64)
    with torch.no_grad():
        near(engine(random_images(3, 96, 64)), loaded.network(random_images(3, 96, 64)))
    with pytest.raises(ValueError, match="made for 96x64, not for 64x96"):
        engine(random_images(1, 64, 96))
    with pytest.raises(ConfigError, match=r"--size: fixed\.onnx: the file is made for 96x64, not for 64x64"):
        load_engine(path, size=(64, 64))
    nms = load_engine(exported(checkpoint, "fixed_nms.onnx", "--no-dynamic", "--nms", *NMS_WORDS))
    with torch.no_grad():
        expected = postprocess(
            *decode(loaded.network(random_images(2)), loaded.network.anchors), PostprocessConfig(**NMS)
        )
    for found, reference in zip(nms.detect(random_images(2), PostprocessConfig(**NMS)), expected, strict=True):
        assert detections_difference(found, reference) < 1e-4


def test_a_dynamic_file_is_used_at_another_size(raw_onnx):
    assert load_engine(raw_onnx, backend="onnxruntime", size=(96, 128)).size_hw == (96, 128)
    with pytest.raises(ConfigError, match=r"--size: raw\.onnx: expected multiples of 32"):
        load_engine(raw_onnx, backend="onnxruntime", size=(60, 128))


def test_half_precision_halves_the_file_and_keeps_float32_at_both_ends(checkpoint, raw_onnx, loaded):
    half = exported(checkpoint, "half.onnx", "--precision", "fp16")
    assert half.stat().st_size < 0.6 * raw_onnx.stat().st_size
    engine = load_engine(half, backend="onnxruntime")
    assert (engine.precision, engine.metadata.precision) == ("fp16", "fp16")
    with torch.no_grad():
        near(engine(random_images(2)), loaded.network(random_images(2)), 2e-2)


@pytest.mark.e2e
def test_int8_is_calibrated_and_leaves_the_heads_in_float(tmp_path, capsys):
    # Fresh weights: the random normalizations of `as_if_trained` make noise of any small change.
    loaded = small_detector(fresh=True)
    checkpoint = write_checkpoint(tmp_path / "small.pt", loaded)
    folder = tmp_path / "photos/below"
    folder.mkdir(parents=True)
    for i, image in enumerate((random_images(4, 80, 80).permute(0, 2, 3, 1) * 255).byte().numpy()):
        cv2.imwrite(str(folder / f"{i}.png"), image)
    (folder / "broken.jpg").write_bytes(b"no picture")
    path = exported(checkpoint, "int8.onnx", "--precision", "int8", "--calibration", str(tmp_path / "photos"))
    assert "calibrating on 5 images" in (message := capsys.readouterr().err)
    assert "broken.jpg" in message
    graph = onnx.load(str(path)).graph
    quantized = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    in_float = [node for node in convolutions if node.input[1] not in quantized]
    assert len(in_float) == len(loaded.network.strides), "the head's, one a scale"
    engine = load_engine(path, backend="onnxruntime")
    assert (engine.precision, engine.metadata.precision) == ("int8", "int8")
    with pytest.raises(ConfigError, match=r"holds fp32 weights; int8 needs calibration"):
        load_engine(exported(checkpoint, "again.onnx"), backend="onnxruntime", precision="int8")


@pytest.mark.parametrize("opset", [13, 20])
def test_opsets(opset, checkpoint, loaded):
    path = exported(checkpoint, f"opset{opset}.onnx", "--opset", str(opset), "--nms", *NMS_WORDS)
    assert onnx.load(str(path)).opset_import[0].version == opset


def test_a_classifier_is_exported_with_its_logits(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = ROOT / "configs/classification/darknetref.yaml"
    words = ["--format", "onnx", "--size", "64x64", "--json", "model.num_classes=5"]
    assert main(["export", str(config), *words]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["files"], answer["classes"], answer["outputs"]) == (["darknetref.onnx"], 5, "logits")
    session = onnxruntime.InferenceSession("darknetref.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"images": random_images(2, 96, 96).numpy()})
    assert logits.shape == (2, 5)
    with pytest.raises(CheckpointError, match="expected a detector, found a classifier"):
        load_engine("darknetref.onnx")
    assert "the outputs of a classifier are logits" in wrong(["export", config, "--format", "onnx", "--nms"], capsys)


@pytest.mark.e2e
def test_the_other_exporter_writes_the_same_network(loaded):
    names = output_names("raw", loaded.network.strides)
    with pytest.MonkeyPatch.context() as patch:

        def gone(*_: object) -> bytes:
            raise TypeError("export() got an unexpected keyword argument 'dynamo'")

        patch.setattr(convert, "trace_to_onnx", gone)
        data = to_onnx(loaded.network, SIZE_HW, names, size_divisor=32, dynamic=True)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["raw_16", "raw_32"]
    for x in (random_images(1), random_images(3, 128, 32)):
        with torch.no_grad():
            near(tuple(torch.from_numpy(y) for y in session.run(None, {"images": x.numpy()})), loaded.network(x))


# --- metadata --------------------------------------------------------------------------------------


def test_the_metadata_of_an_onnx_file(raw_onnx, loaded):
    entries = {entry.key: entry.value for entry in onnx.load(str(raw_onnx)).metadata_props}
    assert entries.pop("format") == "cspdet 2"
    assert re.fullmatch('"[0-9a-f]{64}"', entries["checksum"])
    values = {key: json.loads(value) for key, value in entries.items()}
    assert values["class_names"] == ["disc", "bar", "bär"]
    assert values["category_ids"] == [3, 17, 90]
    assert values["strides"] == [16, 32]
    assert values["head"]["anchors"] == loaded.network.anchors.wh.tolist()
    assert values["input"] == {"size": [64, 96], "resize": "letterbox"}
    assert values["pixels"]["range"] == [0.0, 1.0]
    assert values["pixels"]["order"] == "RGB"
    assert (values["task"], values["outputs"], values["dynamic"], values["name"]) == ("detection", "raw", True, "small")
    assert re.fullmatch(r"cspdet \d+\.\d+\S*", values["program"])


@pytest.mark.parametrize("name", ["facts.onnx", "facts.xml", "facts.ts"])
def test_every_format_gives_its_facts_back(name, checkpoint, loaded):
    path = exported(checkpoint, name, "--outputs", "decoded", "--size", "96x96")
    facts = read_exported_metadata(path)
    reference = export_metadata(loaded, ExportConfig((96, 96), outputs="decoded"))
    assert facts == reference.model_copy(update={"name": "small"})
    assert facts.classes == CLASSES


def test_facts_go_through_their_strings():
    facts = build_metadata(small_detector())
    assert parse_metadata(facts.to_strings(), "here") == facts
    fixed = facts.model_copy(update={"outputs": "detections", "nms": NmsConfig(min_score=0.1), "dynamic": False})
    assert parse_metadata(fixed.to_strings(), "here") == fixed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "cspdet 3"}, "expected metadata of format 'cspdet 2', found 'cspdet 3'"),
        ({"class_names": "disc"}, "metadata class_names: expected JSON, found 'disc'"),
        ({"class_names": '["disc"]'}, "expected 1 category ids, found 3"),
        ({"strides": "[16]"}, "anchors for each of its strides"),
        ({"task": '"segmenter"'}, "task"),
        ({"outputs": '"detections"'}, "nms is required"),
        ({"input": '{"size": [1, 1]}'}, "expected sides from 32"),
        ({"strides": "[0, 32]"}, "strides"),
        ({"class_names": "[]", "category_ids": "[]"}, "class_names"),
        ({"class_names": "[" * 100_000 + "]" * 100_000}, "metadata class_names: expected JSON"),
        ({"pixels": '{"range": [0, 255]}'}, r"expected \[0, 1\], found \[0.0, 255.0\]"),
    ],
)
def test_metadata_that_were_changed_are_refused(changes, message):
    strings = {**build_metadata(small_detector()).to_strings(), **changes}
    with pytest.raises(CheckpointError, match=message):
        parse_metadata(strings, "file.onnx")


def test_metadata_of_cspdet_1_are_read():
    metadata = build_metadata(small_detector()).model_copy(update={"outputs": "detections", "nms": NmsConfig()})
    today = {key: json.loads(value) for key, value in metadata.to_strings().items() if key != "format"}
    old = {**today, "task": "detector"}
    for section, key, old_key in (("nms", "nms_iou", "max_iou"), ("eval", "nms_iou", "max_iou"),
                                  ("head", "wh_decoding", "sizes")):  # fmt: skip
        old[section] = {old_key if name == key else name: value for name, value in today[section].items()}
        assert old_key in old[section]
    strings = {"format": "cspdet 1", **{key: json.dumps(value) for key, value in old.items()}}
    assert parse_metadata(strings, "file.onnx") == metadata


@pytest.mark.parametrize("name", ["whole.onnx", "whole.xml", "whole.ts"])
def test_a_flipped_bit_is_refused(name, checkpoint, tmp_path):
    path = exported(checkpoint, name)
    files = [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]
    rng = random.Random(0)
    for file in files:
        data = file.read_bytes()
        for _ in range(5):
            damaged = bytearray(data)
            damaged[rng.randrange(len(data) // 4, len(data) // 2)] ^= 1 << rng.randrange(8)
            file.write_bytes(damaged)
            with pytest.raises(CheckpointError, match=rf"{name}: the file is damaged"):
                read_exported_metadata(path)
        file.write_bytes(data)
    assert read_exported_metadata(path).name == "small"


def with_metadata(source: Path, target: Path, **changes: object) -> Path:
    """An ONNX file with other metadata; like files of earlier versions, it has no checksum."""
    model = onnx.load(str(source))
    entries = {entry.key: entry.value for entry in model.metadata_props if entry.key != "checksum"}
    onnx.helper.set_model_props(model, entries | {key: json.dumps(value) for key, value in changes.items()})
    onnx.save(model, str(target))
    return target


def test_metadata_of_another_network_are_refused(raw_onnx, tmp_path):
    assert load_engine(with_metadata(raw_onnx, tmp_path / "same.onnx"), backend="onnxruntime").classes == CLASSES
    for changes in (
        {"outputs": "decoded"}, {"strides": [16, 16]}, {"class_names": ["a"], "category_ids": [1]},
    ):  # fmt: skip
        path = with_metadata(raw_onnx, tmp_path / "changed.onnx", **changes)
        with pytest.raises(CheckpointError, match=r"changed\.onnx: the metadata does not describe its network"):
            load_engine(path, backend="onnxruntime")
    nms = exported(raw_onnx.with_name("small.pt"), "one_class.onnx", "--nms", *NMS_WORDS)
    changed = with_metadata(nms, tmp_path / "changed.onnx", class_names=["a"], category_ids=[1])
    with pytest.raises(CheckpointError, match="a detection has a class that the metadata does not name"):
        load_engine(changed, backend="onnxruntime").detect(random_images(1), PostprocessConfig())
    with pytest.raises(CheckpointError, match=r"does not run for an image of 80x80: expected multiples of 32"):
        load_engine(with_metadata(raw_onnx, tmp_path / "changed.onnx", input={"size": [80, 80]}), backend="onnxruntime")


def test_an_engine_of_a_users_module_reads_files_with_its_own_suffix(raw_onnx, tmp_path, monkeypatch):
    (tmp_path / "net_engine.py").write_text(
        "from cspdet.inference.engines.onnx_engine import OnnxEngine\n\n"
        "class NetEngine(OnnxEngine):\n    name = 'net'\n    suffixes = ('.net',)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    shutil.copy(raw_onnx, "small.net")
    predictor = load_detector("small.net", backend="net_engine:NetEngine")
    assert (predictor.engine.name, predictor.engine.classes) == ("net", CLASSES)


def test_files_of_others_and_damaged_ones_are_refused(tmp_path, raw_onnx, checkpoint):
    other = onnx.load(str(raw_onnx))
    del other.metadata_props[:]
    onnx.save(other, str(tmp_path / "foreign.onnx"))
    (tmp_path / "damaged.onnx").write_bytes(raw_onnx.read_bytes()[:1000])
    (tmp_path / "damaged.ts").write_bytes(b"no archive")
    for name, message in (
        ("foreign.onnx", "not a file of `cspdet export`"),
        ("damaged.onnx", "onnxruntime cannot read it"),
        ("damaged.ts", "not a TorchScript file"),
        ("missing.onnx", "no such file"),
    ):
        with pytest.raises(CheckpointError, match=message):
            load_engine(tmp_path / name)
    with pytest.raises(CheckpointError, match="has its own weights"):
        load_engine(raw_onnx, weights=checkpoint)
    with pytest.raises(ConfigError, match=r"no config; override 'input\.size=64' is not possible"):
        load_engine(raw_onnx, overrides=["input.size=64"])
    with pytest.raises(ConfigError, match=r"raw\.onnx is read by onnxruntime or openvino or tensorrt; found 'torch'"):
        load_engine(raw_onnx, backend="torch")


def test_an_xml_without_its_bin_or_of_others_is_refused(tmp_path, checkpoint, raw_onnx):
    openvino = pytest.importorskip("openvino")
    path = exported(checkpoint, "alone.xml")
    path.with_suffix(".bin").unlink()
    with pytest.raises(CheckpointError, match=r"alone\.bin: no such file; it holds the weights of alone\.xml"):
        load_engine(path)
    openvino.save_model(openvino.Core().read_model(str(raw_onnx)), str(tmp_path / "foreign.xml"))
    with pytest.raises(CheckpointError, match="not a file of `cspdet export`"):
        load_engine(tmp_path / "foreign.xml")


# --- refusing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["differs.onnx", "differs.xml", "differs.ts"])
def test_a_file_that_differs_is_not_left_on_disk(name, checkpoint, monkeypatch, capsys):
    kind = {".onnx": "onnx", ".xml": "openvino", ".ts": "torchscript"}[Path(name).suffix]
    if kind == "openvino":
        pytest.importorskip("openvino")
    target = checkpoint.with_name(name)
    earlier = '"program": "cspdet 0.0.1"'  # the mark of an export
    target.write_text(earlier)
    right = check_module.reference_outputs

    def shifted(*arguments: object) -> tuple[Tensor, ...]:
        first, *rest = right(*arguments)  # type: ignore[arg-type]
        return (first + 2e-4 * first.abs().max(), *rest)

    monkeypatch.setattr(check_module, "reference_outputs", shifted)
    before = sorted(path.name for path in checkpoint.parent.iterdir())
    message = wrong(["export", checkpoint, "--format", kind, "--output", target], capsys)
    assert f"{name}: not written: its outputs differ by 2.0e-04 of the largest" in message
    assert target.read_text() == earlier
    assert sorted(path.name for path in checkpoint.parent.iterdir()) == before


def test_a_file_that_does_not_run_is_not_left(checkpoint, monkeypatch, capsys):
    def broken(*_: object) -> None:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr("cspdet.inference.engines.onnx_engine.OnnxEngine.forward", broken)
    target = checkpoint.with_name("broken.onnx")
    message = wrong(["export", checkpoint, "--format", "onnx", "--output", target], capsys)
    assert "the file does not run for (1, 3, 64, 96): shapes do not fit" in message
    assert not target.exists()


def test_lists_of_detections_are_compared_in_any_order_of_equals():
    def found(*rows: tuple[float, ...]) -> Detections:
        table = torch.tensor(rows).view(-1, 6)
        return Detections(table[:, :4], table[:, 4], table[:, 5].long())

    a, b = (0.0, 0.0, 10.0, 10.0, 0.5, 1), (5.0, 5.0, 20.0, 100.0, 0.5, 0)
    assert detections_difference(found(a, b), found(b, a)) == 0
    assert detections_difference(found(a), found(a, b)) == float("inf")
    assert detections_difference(found(), found()) == 0
    # Of the lower borders 101 and 10 the largest wanted is 100: (101 - 100) / 100
    assert detections_difference(found(a, (5.0, 5.0, 20.0, 101.0, 0.5, 0)), found(a, b)) == pytest.approx(0.01)


class Unwritable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvals(x[:, 0, :4, :4]).real


def test_an_unsupported_operation_is_reported():
    with pytest.raises(UserError, match="the network cannot be written as ONNX"):
        to_onnx(Unwritable(), (32, 32), ["y"], size_divisor=32, dynamic=False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--format", "onx"], "--format: unknown export format 'onx' (did you mean 'onnx'?); valid: onnx, openvino"),
        (["--format", "onnx", "--output", "a.xml"], "--output: expected a file name that ends in .onnx, found 'a.xml'"),
        (["--format", "onnx", "--outputs", "decode"], "did you mean 'decoded'?"),
        (["--format", "onnx", "--precision", "int8"], "expected --calibration DIR too"),
        (["--format", "onnx", "--precision", "fp8"], "--precision: expected fp32, fp16, int8; found 'fp8'"),
        (["--format", "onnx", "--calibration", "."], "--calibration: needs --precision int8"),
        (["--format", "onnx", "--precision", "int8", "--calibration", "none"], "--calibration none: no such folder"),
        (["--format", "onnx", "--precision", "int8", "--calibration", "."], "--calibration .: no images in it"),
        (["--format", "onnx", "--precision", "fp16", "--nms"], "too few for pixel coordinates"),
        (["--format", "onnx", "--min-score", "0.3"], "--min-score: needs --nms"),
        (["--format", "onnx", "--nms", "--nms-iou", "2"], "--nms-iou: expected a number from 0 to 1, found 2.0"),
        (["--format", "onnx", "--nms", "--max-detections", "0"], "--max-detections: expected 1 or more"),
        (["--format", "onnx", "--opset", "9"], "--opset: expected a number from 13 to 20, found 9"),
        (["--format", "onnx", "--size", "100x100"], "--size: expected multiples of 32, found 100x100"),
        (["--format", "onnx", "--size", "9999"], "--size: expected a side such as 416, or HEIGHTxWIDTH"),
        (["--format", "torchscript", "--nms"], "--nms: --format torchscript does not have this option"),
        (["--format", "torchscript", "--precision", "fp16"], "--precision: --format torchscript does not have"),
        (["--format", "darknet", "--nms", "--opset", "13"], "--opset: --format darknet does not have this option"),
    ],
)
def test_mistakes_end_with_2_and_leave_nothing(words, message, checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = sorted(checkpoint.parent.iterdir())
    assert message in wrong(["export", checkpoint, *words], capsys)
    assert sorted(checkpoint.parent.iterdir()) == before
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("package", "kind", "extra"),
    [("onnx", "onnx", "export"), ("onnxruntime", "onnx", "export"), ("openvino", "openvino", "openvino")],
)
def test_a_missing_package_is_reported_with_its_extra(package, kind, extra, checkpoint, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    message = wrong(
        ["export", checkpoint, "--format", kind, "--output", f"a{'.onnx' if kind == 'onnx' else '.xml'}"], capsys
    )
    assert f"pip install 'cspdet[{extra}]'" in message


# --- use -------------------------------------------------------------------------------------------


def test_load_detector_takes_files(checkpoint, raw_onnx):
    image_rgb = np.random.default_rng(0).integers(0, 256, (80, 100, 3), np.uint8)
    expected = load_detector(checkpoint, device="cpu", backend="torch").predict(image_rgb)
    assert len(expected) > 3
    detector = load_detector(raw_onnx, device="cpu", backend="onnxruntime")
    assert (detector.class_names, detector.category_ids) == (CLASSES.names, CLASSES.category_ids)
    assert detector.name == "small"
    assert detections_difference(detector.predict(image_rgb), expected) < 1e-4
    assert len(detector.model(random_images(1))) == 2


def test_auto_reads_a_file_with_what_is_installed(raw_onnx):
    assert load_engine(raw_onnx, device="cpu").name in ("onnxruntime", "openvino")


def test_the_default_name_stands_beside_the_checkpoint(checkpoint, capsys):
    assert main(["export", str(checkpoint), "--format", "onnx", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["files"] == [str(checkpoint.with_suffix(".onnx"))]
    assert answer["difference"] < 1e-5
    assert {"size": answer["size"], "outputs": answer["outputs"], "dynamic": answer["dynamic"]} == {
        "size": [64, 96], "outputs": "raw", "dynamic": True,
    }  # fmt: skip


def example_of_docs() -> str:
    text = (ROOT / "docs/how-to/export.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(import json.*?)```", text, re.DOTALL)
    return str(code)


@pytest.mark.e2e
def test_the_example_without_cspdet_finds_what_cspdet_finds(checkpoint, tmp_path):
    exported(checkpoint, "best.onnx", "--nms", *NMS_WORDS)
    code = example_of_docs()
    assert "cspdet" not in re.sub(r"#.*", "", code)
    assert len(code.strip().splitlines()) <= 22
    image_rgb = np.random.default_rng(0).integers(0, 256, (160, 250, 3), np.uint8)  # shrinks by 2.6: area averaging
    cv2.imwrite(str(tmp_path / "street.png"), image_rgb[..., ::-1])
    (tmp_path / "best.onnx").write_bytes(checkpoint.with_name("best.onnx").read_bytes())
    script = code.replace("street.jpg", "street.png")
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = load_detector(checkpoint, device="cpu", backend="torch", **NMS).predict(image_rgb)
    lines = done.stdout.split("\n")[: len(expected)]
    assert len(expected) == 7
    for line, score, class_id, box in zip(
        lines, expected.score.tolist(), expected.class_id.tolist(), expected.box_xyxy.tolist(), strict=True
    ):
        name, found, *corners = line.split()
        assert name == CLASSES.names[class_id]
        assert float(found) == pytest.approx(score, abs=1e-3)
        assert np.clip([float(corner) for corner in corners], 0, (250, 160, 250, 160)) == pytest.approx(box, abs=0.06)


def test_an_error_of_openvino_while_writing_is_one_of_the_file(tmp_path, monkeypatch):
    class FullDisk:
        @staticmethod
        def save_model(*_: object, **__: object) -> None:
            raise RuntimeError("basic_ios::clear: iostream error")

    class Model:
        def set_rt_info(self, *_: object) -> None:
            pass

    for name, value in {"_onnx_bytes": lambda *_: b"", "read_model": lambda _: Model(), "import_openvino": FullDisk,
                        "write_openvino_metadata": lambda *_: None}.items():  # fmt: skip
        monkeypatch.setattr(f"cspdet.exporters.openvino.{name}", value)
    with (
        pytest.raises(UserError, match=r"cannot be written: OpenVINO: .*disk full"),
        atomic_write(tmp_path / "x") as path,
    ):
        OpenVinoFormat("openvino").write(None, ExportConfig(), None, path)  # type: ignore[arg-type]
