"""Engines and predictors in several threads: every call gets the result of its own image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from engine_data import NUM_CALLS, build, call_in_threads, load_engine, small_detector, write_checkpoint
from torch import Tensor

from cspdet import load, load_classifier, load_detector
from cspdet.cli.main import main
from cspdet.inference.engines.base import Engine
from cspdet.inference.engines.source import EngineOptions
from cspdet.inference.metadata import build_metadata
from cspdet.inference.predictor import Predictor
from cspdet.models.config import PostprocessConfig
from cspdet.structures import Detections


def images() -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.integers(0, 256, (64, 96, 3), np.uint8) for _ in range(4)]


def wrong(results: list[tuple[int, object]], expected: list[Detections]) -> int:
    def equal(found: object, right: Detections) -> bool:
        return (
            isinstance(found, Detections)
            and found.class_id.tolist() == right.class_id.tolist()
            and torch.allclose(found.box_xyxy, right.box_xyxy, atol=1e-2)
        )

    return sum(not equal(found, expected[index]) for index, found in results)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("threads") / "small.pt", small_detector())


@pytest.mark.parametrize("backend", ["torch", "onnxruntime", "openvino"])
def test_each_of_four_threads_gets_the_detections_of_its_own_images(backend):
    pytest.importorskip(backend)
    predictor = Predictor(build(small_detector(), backend), PostprocessConfig())
    expected = [predictor.predict(image) for image in images()]
    assert min(len(found) for found in expected) > 5
    assert wrong([(i, expected[(i + 1) % 4]) for i in range(4)], expected) == 4, "other images have other detections"
    results = call_in_threads(lambda i: predictor.predict(images()[i]))
    assert (len(results), wrong(results, expected)) == (NUM_CALLS, 0)
    batches = call_in_threads(lambda i: predictor.predict([images()[i], images()[i - 1]]), 40)
    pairs = [(i - k, found[k]) for i, found in batches for k in (0, 1)]
    assert wrong(pairs, expected) == 0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("script.ts", []),
        ("decoded.onnx", ["--outputs", "decoded", "--no-dynamic"]),
        ("nms.xml", ["--nms"]),
        ("back.cfg", []),
    ],
)
def test_exported_files_and_darknet_networks_in_threads(name, words, checkpoint, capsys):
    kind = {".ts": "torchscript", ".xml": "openvino", ".cfg": "darknet"}.get(Path(name).suffix, "onnx")
    pytest.importorskip({"openvino": "openvino", "onnx": "onnxruntime"}.get(kind, "torch"))
    path = checkpoint.with_name(name)
    assert main(["export", str(checkpoint), "--format", kind, "--output", str(path), *words]) == 0
    weights = path.with_suffix(".weights") if kind == "darknet" else None
    predictor = Predictor(load_engine(path, weights=weights, backend="auto" if weights is None else "torch"),
                          PostprocessConfig())  # fmt: skip
    expected = [predictor.predict(image) for image in images()]
    results = call_in_threads(lambda i: predictor.predict(images()[i]))
    assert (len(results), wrong(results, expected)) == (NUM_CALLS, 0)


def test_a_classifier_in_threads():
    config = Path(__file__).parents[2] / "configs/classification/peleenet.yaml"
    classifier = load_classifier(load(config, overrides=["input.size=[64,64]", "model.num_classes=3"]), device="cpu")
    expected = [classifier.probabilities(image) for image in images()]
    results = call_in_threads(lambda i: classifier.probabilities(images()[i]), 40)
    assert all(isinstance(found, Tensor) and torch.allclose(found, expected[i], atol=1e-5) for i, found in results)


class OneBufferEngine(Engine):
    """An engine of a user with one buffer for all calls."""

    name = "one-buffer"

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.buffer = torch.zeros(1)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        self.buffer.fill_(float(images.mean()))
        for _ in range(100):  # other threads run in between
            self.buffer.add_(0)
        return (self.buffer.clone(),)


def test_calls_of_a_users_engine_wait_for_each_other():
    engine = OneBufferEngine(build_metadata(small_detector()), EngineOptions())
    inputs = [torch.full((1, 3, 64, 96), i / 4) for i in range(4)]
    results = call_in_threads(lambda i: float(engine(inputs[i])[0]), 2000)
    assert all(found == pytest.approx(i / 4, abs=1e-6) for i, found in results)


def test_models_are_loaded_in_threads_while_others_run(checkpoint):
    pytest.importorskip("onnxruntime")
    image = images()[0]
    running = load_detector(checkpoint, backend="torch", device="cpu")
    expected = [running.predict(image)] * 4

    def load_or_run(index: int) -> Detections:
        if index < 2:
            return running.predict(image)
        return load_detector(checkpoint, backend=("torch", "onnxruntime")[index - 2], device="cpu").predict(image)

    results = call_in_threads(load_or_run, 24)
    assert [found for _, found in results if isinstance(found, Exception)] == []
    assert wrong(results, expected) == 0
