"""Which engine runs: the fastest that agrees with torch, or the one that is named; and what it is asked for in vain."""

from __future__ import annotations

import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from engine_data import ROOT, SIZE_HW, build, load_engine, random_images, small_detector, write_checkpoint
from torch import Tensor, nn

from cspdet import load_detector
from cspdet.cli import benchmark
from cspdet.errors import CheckpointError, ConfigError
from cspdet.inference.engines import selection
from cspdet.inference.engines.base import Engine
from cspdet.inference.engines.parity import parity_error, prediction_differences, probe_inputs
from cspdet.inference.engines.selection import select_fastest
from cspdet.inference.engines.source import EngineOptions
from cspdet.inference.predictor import Predictor
from cspdet.models.bundle import ModelBundle
from cspdet.models.config import PostprocessConfig, YoloHeadConfig
from cspdet.models.head import Anchors

CPU = torch.device("cpu")
OTHERS = ["onnxruntime", "openvino"]


@pytest.fixture(scope="module")
def loaded() -> ModelBundle:
    return small_detector()


@pytest.fixture(scope="module")
def checkpoint(loaded, tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("engines") / "small.pt", loaded)


class Pretended(Engine):
    """Gives what another engine gives, plus `error`, in `seconds` on a clock of its own."""

    def __init__(self, other: Engine, seconds: float, error: float, clock: list[float]):
        super().__init__(other.metadata, EngineOptions())
        self.name = f"{seconds} s"  # type: ignore[misc]
        self.other, self.seconds, self.error, self.clock = other, seconds, error, clock

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        self.clock[0] += self.seconds
        return tuple(values + self.error for values in self.other.forward(images))


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(selection.time, "perf_counter", lambda: now[0])
    return now


def test_auto_takes_the_fastest_that_agrees(loaded, clock, log_capture):
    reference = Pretended(build(loaded), 0.3, 0, clock)

    def broken() -> Engine:
        raise ConfigError("no such package")

    candidates = {
        "torch": lambda: reference,
        "quick": lambda: Pretended(reference, 0.2 - 0.3, 0, clock),
        "wrong": lambda: Pretended(reference, 0.1 - 0.3, 0.1, clock),
        "broken": broken,
    }
    assert select_fastest(candidates, reference).name == "-0.09999999999999998 s"
    assert "wrong is skipped: its boxes or scores differ by" in log_capture.text
    assert "broken is skipped: no such package" in log_capture.text
    assert "torch 300.0 ms, quick 200.0 ms" in log_capture.text


def test_auto_without_any_that_agrees_is_an_error(loaded, clock):
    reference = build(loaded)
    with pytest.raises(ConfigError, match="no engine can run this model\nwrong: its boxes or scores differ"):
        select_fastest({"wrong": lambda: Pretended(reference, 0.1, 1.0, clock)}, reference)


def test_disagreement_is_measured_in_scores_and_shares_of_the_input():
    # One slot: t = 0 is the anchor, 32x32 around (16, 16), with scores of 0.5 * 0.5. sigmoid(t) = 0.5 + d moves the
    # center by 32 d pixels, so d = 0.064 by 2.048, which is 2.048 / 64 = 0.032 of an input of 64.
    anchors = Anchors(YoloHeadConfig(anchors=(((32, 32),),), scale_x_y=(1.0,)), (32,))
    expected, found = torch.zeros(1, 1, 1, 1, 6), torch.zeros(1, 1, 1, 1, 6)
    found[..., 0] = float(torch.logit(torch.tensor(0.564)))
    assert float(prediction_differences((found,), (expected,), anchors, (64, 64))) == pytest.approx(0.032, abs=1e-6)
    assert parity_error([(found,)], [(expected,)], anchors, "fp32", (64, 64)) is not None
    assert parity_error([(expected,)], [(expected,)], anchors, "fp32", (64, 64)) is None
    message = parity_error([(expected[:, :, :0],)], [(expected,)], anchors, "fp32", (64, 64))
    assert message is not None
    assert "other shapes" in message


def test_probes_are_the_same_every_time_and_no_other():
    first, second = probe_inputs((64, 96))
    assert torch.equal(first, probe_inputs((64, 96))[0])
    assert first.shape == second.shape == (1, 3, 64, 96)
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"backend": "onnxrutime"}, r"--backend: unknown 'onnxrutime' \(did you mean 'onnxruntime'\?\)"),
        ({"precision": "fp8"}, "--precision: unknown 'fp8'"),
        ({"precision": "int8"}, "needs calibration images"),
        ({"backend": "cuda-graph"}, "needs a CUDA device, found cpu"),
        ({"backend": "tensorrt"}, "needs a CUDA device, found cpu"),
        ({"backend": "onnxruntime", "precision": "bf16"}, "onnxruntime on cpu computes in fp32, found bf16"),
        ({"backend": "torch", "precision": "fp16"}, "torch on cpu computes in fp32 or bf16, found fp16"),
        ({"threads": 0}, "--threads: expected 1 or more"),
        ({"size": (60, 60)}, "expected multiples of 32"),
    ],
)
def test_unsupported_engine_options_are_reported(words, message, checkpoint):
    with pytest.raises(ConfigError, match=message):
        load_engine(checkpoint, device="cpu", **words)


@pytest.mark.parametrize(("backend", "extra"), [("onnxruntime", "export"), ("openvino", "openvino")])
def test_a_missing_package_is_reported_with_its_extra(backend, extra, checkpoint, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, backend, None)
    with pytest.raises(
        ConfigError, match=rf"the backend {backend}: {backend} is not installed: pip install 'cspdet\[{extra}\]'"
    ):
        load_engine(checkpoint, device="cpu", backend=backend)


def test_a_checkpoint_in_an_engine_of_another_size(checkpoint, log_capture):
    engine = load_engine(checkpoint, device="cpu", backend="torch", size=(96, 64))
    assert engine.size_hw == (96, 64)
    assert "small: torch fp32 on cpu" in log_capture.text
    with pytest.raises(CheckpointError, match="has its own weights"):
        load_engine(checkpoint, weights=checkpoint)


def test_load_detector_takes_a_backend_and_keeps_the_network(checkpoint):
    image = np.random.default_rng(0).integers(0, 256, (80, 100, 3), np.uint8)
    detector = load_detector(checkpoint, device="cpu", backend="torch")
    assert isinstance(detector.model, nn.Module)
    assert len(detector.model(random_images(1))) == len(detector.engine.strides)
    expected = detector.predict(image)
    assert len(expected) > 3
    for backend in OTHERS:
        pytest.importorskip(backend)
        found = load_detector(checkpoint, device="cpu", backend=backend).predict(image)
        assert torch.allclose(found.box_xyxy, expected.box_xyxy, atol=1e-2)


@pytest.mark.e2e
def test_auto_on_a_real_network_picks_one_that_agrees(checkpoint, log_capture):
    engine = load_engine(checkpoint, device="cpu")
    assert engine.name in ("torch", *OTHERS)
    assert "auto: torch " in log_capture.text
    reference = load_engine(checkpoint, device="cpu", backend="torch")
    x = random_images(2)
    assert parity_error([engine(x)], [reference(x)], reference.anchors, "fp32", SIZE_HW) is None


def test_a_predictor_keeps_the_network_beside_its_engine(loaded):
    detector = Predictor(build(loaded), PostprocessConfig(), network=loaded.detector)
    assert (detector.engine.name, detector.model, detector.device) == ("torch", loaded.network, CPU)


# --- an engine of the user's own ---------------------------------------------------------------------

OWN_ENGINE = """
import torch

from cspdet.inference.engines.base import Engine


class MyEngine(Engine):
    name = "mine"
    devices = ("cpu",)

    def __init__(self, network, metadata, options):
        super().__init__(metadata, options)
        self.network = network

    @classmethod
    def from_network(cls, source, options):
        return cls(source.network, source.metadata, options)

    def forward(self, images):
        return self.network(images)


class NoEngine:
    pass
"""


def test_an_engine_of_the_users_own_is_named_by_module_and_class(checkpoint, tmp_path):
    (tmp_path / "my_engines.py").write_text(OWN_ENGINE)
    code = (
        "from cspdet import load_detector\n"
        "import torch, sys\n"
        f"own = load_detector({str(checkpoint)!r}, device='cpu', backend='my_engines:MyEngine')\n"
        f"torch_ = load_detector({str(checkpoint)!r}, device='cpu', backend='torch')\n"
        "x = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))\n"
        "print(own.engine, all(torch.allclose(a, b, atol=1e-4) for a, b in zip(own.engine(x), torch_.engine(x))))\n"
        "for backend in ('my_engines:NoEngine', 'my_engines:MyEngin', 'no_such_module:X'):\n"
        "    try:\n"
        f"        load_detector({str(checkpoint)!r}, device='cpu', backend=backend)\n"
        "    except Exception as error:\n"
        "        print(f'{type(error).__name__}: {error}')\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True, env=environment()
    )
    lines = run.stdout.splitlines()
    assert lines[0] == "mine fp32 on cpu True"
    assert lines[1].startswith("ConfigError: --backend: expected a subclass of cspdet.inference.engines.base.Engine")
    assert "module 'my_engines' has no 'MyEngin' (did you mean 'MyEngine'?)" in lines[2]
    assert "no module 'no_such_module'" in lines[3]


def test_detect_takes_an_engine_of_the_users_own(checkpoint, tmp_path):
    (tmp_path / "my_engines.py").write_text(OWN_ENGINE)
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((64, 96, 3), np.uint8))
    words = [sys.executable, "-m", "cspdet", "detect", str(checkpoint), "a.png", "--device", "cpu"]
    run = subprocess.run(
        [*words, "--backend", "my_engines:MyEngine"], cwd=tmp_path, capture_output=True, text=True, env=environment()
    )
    assert run.returncode == 0, run.stderr
    assert "small: mine fp32 on cpu" in run.stderr


def test_benchmark_takes_the_name_of_an_engine_of_the_users_own():
    names = benchmark._parse_list("--backend", "torch,my_engines:MyEngine", ("torch",))
    assert names == ["torch", "my_engines:MyEngine"]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}
