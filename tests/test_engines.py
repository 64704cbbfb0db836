"""Engines: the same function whatever computes it; folding, packing, and how one is picked."""

from __future__ import annotations

import copy
import logging

import numpy as np
import pytest
import torch
from darknet_data import TINY
from engine_data import CLASSES, ROOT, SIZE_HW, as_if_trained, pictures, small_detector, write_checkpoint
from torch import Tensor, nn

from cspdet.config import load_config
from cspdet.darknet.cfg import parse_cfg
from cspdet.darknet.network import DarknetDetector
from cspdet.errors import CheckpointError, ConfigError
from cspdet.inference.engines import pick
from cspdet.inference.engines.agreement import differences, disagreement, probes
from cspdet.inference.engines.base import Engine, pad, padded_batch, split_detections
from cspdet.inference.engines.cuda_graph import CudaGraphEngine
from cspdet.inference.engines.openvino_engine import OpenVinoEngine
from cspdet.inference.engines.packed import PackedConv, pack
from cspdet.inference.engines.pick import engine_of, fastest_of, load_engine
from cspdet.inference.engines.torch_engine import TorchEngine
from cspdet.inference.facts import facts_of, head_config
from cspdet.inference.pipeline import in_lanes
from cspdet.inference.predictor import Predictor, load_detector
from cspdet.model_file import LoadedModel, build_classifier
from cspdet.models.fold import fold, folded_layer
from cspdet.models.head import Anchors, YoloHeadConfig
from cspdet.recipe import ClassifierRecipe

CPU = torch.device("cpu")
OTHERS = ["onnxruntime", "openvino"]
LIMITS = {"min_score": 0.25, "max_iou": 0.6, "max_detections": 100}


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return small_detector()


@pytest.fixture(scope="module")
def checkpoint(loaded, tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("engines") / "small.pt", loaded)


@pytest.fixture
def telling(caplog, monkeypatch):
    """What is logged; a command that ran before may have cut the logger off from its parents."""
    monkeypatch.setattr(logging.getLogger("cspdet"), "propagate", True)
    caplog.set_level(logging.INFO, "cspdet")
    return caplog


@pytest.fixture
def two_threads():
    """For the time of a test, whatever the machine: tests that come after compare runs to the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def built(backend: str, loaded: LoadedModel) -> Engine:
    pytest.importorskip(backend)
    return engine_of(loaded, CPU, backend=backend)


# --- folding ---------------------------------------------------------------------------------------


def normalizations(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def small_classifier() -> nn.Module:
    recipe = load_config(ROOT / "configs/classification/darknetref.yaml", ClassifierRecipe, ["model.classes=5"])
    return build_classifier(recipe, "darknetref")


NETWORKS = {
    "prn": lambda: small_detector().model,
    "sam": lambda: small_detector("csppelee_efm_sam").model,
    "classifier": small_classifier,
    "cfg": lambda: DarknetDetector(parse_cfg(TINY, "tiny.cfg")),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_folded_network_computes_the_same_without_normalizations(name):
    model = NETWORKS[name]().eval().double()
    as_if_trained(model)
    before = copy.deepcopy(model.state_dict())
    folded = fold(model)
    assert normalizations(model) > 0
    assert normalizations(folded) == 0
    images = pictures(2, 64, 64).double()
    with torch.no_grad():
        found, expected = folded(images), model(images)
    for a, b in zip(*(x if isinstance(x, tuple) else (x,) for x in (found, expected)), strict=True):
        assert float((a - b).abs().max()) <= 1e-10 * float(b.abs().max())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items()), "the original stays"


def test_folded_numbers_of_a_layer():
    # s = g / sqrt(v + eps) = 4 / sqrt(3 + 1) = 2; w' = 3 s = 6; b' = (b - m) s + h = (7 - 1) 2 + 5 = 17
    layer, norm = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=1.0)
    with torch.no_grad():
        for value, number in ((layer.weight, 3), (layer.bias, 7), (norm.weight, 4), (norm.bias, 5)):
            value.fill_(number)
        norm.running_mean.fill_(1)
        norm.running_var.fill_(3)
    folded = folded_layer(layer, norm)
    assert (float(folded.weight), float(folded.bias)) == (6.0, 17.0)


class ReadTwice(nn.Module):
    """The convolution's own output is wanted too, so that its normalization must stay."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x + self.norm(x)


class Shared(nn.Module):
    """One convolution before two normalizations."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.other = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.other(self.conv(self.norm(self.conv(x))))


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x) if x.sum() > 0 else x


@pytest.mark.parametrize(("network", "left"), [(ReadTwice(), 1), (Shared(), 0)])
def test_only_what_a_layer_alone_is_read_by_is_folded(network, left):
    as_if_trained(network.eval())
    folded = fold(network)
    assert normalizations(folded) == left
    x = pictures(2)
    with torch.no_grad():
        assert torch.allclose(folded(x), network(x), atol=1e-5)


def test_what_cannot_be_traced_or_has_nothing_to_fold_is_returned(telling):
    untraceable, plain = Untraceable().eval(), nn.Conv2d(3, 3, 1)
    assert fold(untraceable) is untraceable
    assert "not folded" in telling.text
    assert fold(plain) is plain


def test_a_normalization_of_pictures_is_left_out_only_where_it_does_nothing():
    plain = fold(small_detector().model)
    assert not any(node.name.startswith(("sub", "truediv")) for node in plain.graph.nodes)
    shifted = small_detector("yolov3_tiny_prn", "model.normalize={mean: [0.5, 0.4, 0.3], std: [0.2, 0.3, 0.4]}").model
    with torch.no_grad():
        for a, b in zip(fold(shifted)(pictures(1)), shifted(pictures(1)), strict=True):
            assert torch.allclose(a, b, atol=1e-4)


# --- torch -----------------------------------------------------------------------------------------


def test_packed_convolutions_take_their_activations_and_any_shape(loaded):
    folded = fold(loaded.model)
    packed = pack(folded.to(memory_format=torch.channels_last), SIZE_HW)
    if packed is folded:
        pytest.skip("this torch has no oneDNN")
    assert any(isinstance(module, PackedConv) for module in packed.modules())
    modules = dict(packed.named_modules())
    assert not any(isinstance(module, nn.Conv2d) for module in modules.values())
    for node in packed.graph.nodes:  # what is left of the activations stands behind sums and products
        if node.op == "call_module" and isinstance(modules[node.target], nn.LeakyReLU):
            assert not isinstance(modules.get(node.args[0].target), PackedConv)
    for x in (pictures(1), pictures(3), pictures(2, 128, 64)):
        with torch.no_grad():
            for a, b in zip(packed(x), folded(x), strict=True):
                assert float((a - b).abs().max()) <= 1e-5 * float(b.abs().max())


def test_a_network_that_packing_would_change_is_left_as_it_is(loaded, monkeypatch, telling):
    folded = fold(loaded.model)
    right = PackedConv.forward
    monkeypatch.setattr(PackedConv, "forward", lambda self, x: 1.01 * right(self, x))
    assert pack(folded, SIZE_HW) is folded
    assert "not packed" in telling.text


def test_torch_gives_what_the_network_gives_and_leaves_it_alone(loaded):
    before = copy.deepcopy(loaded.model.state_dict())
    engine = TorchEngine(loaded.model, facts_of(loaded), CPU)
    with torch.no_grad():
        for x in (pictures(1), pictures(2, 64, 160)):
            for a, b in zip(engine(x), loaded.model(x), strict=True):
                assert a.shape == b.shape
                assert float((a - b).abs().max()) <= 1e-5 * float(b.abs().max())
    assert all(torch.equal(value, before[key]) for key, value in loaded.model.state_dict().items())
    assert all(parameter.requires_grad for parameter in loaded.model.parameters())


def test_bf16_is_near_and_comes_as_float32(loaded):
    exact, coarse = (engine_of(loaded, CPU, backend="torch", precision=p) for p in ("fp32", "bf16"))
    found, expected = coarse(pictures(1)), exact(pictures(1))
    assert {values.dtype for values in found} == {torch.float32}
    assert not torch.equal(found[0], expected[0])
    assert disagreement([found], [expected], exact.anchors, "bf16", SIZE_HW) is None


# --- every engine ----------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", OTHERS)
def test_engines_agree_with_the_network(backend, loaded):
    engine = built(backend, loaded)
    assert (engine.name, engine.precision, engine.classes) == (backend, "fp32", CLASSES)
    assert (engine.strides, engine.size_hw, engine.resize) == (loaded.model.strides, SIZE_HW, "letterbox")
    for x in (pictures(1), pictures(3), pictures(2), pictures(2, 128, 64)):  # two after three: a batch is filled up
        with torch.no_grad():
            expected = loaded.model(x)
        for a, b in zip(engine(x), expected, strict=True):
            assert a.shape == b.shape
            assert float((a - b).abs().max()) <= 1e-5 * float(b.abs().max())


@pytest.mark.parametrize("backend", ["torch", *OTHERS])
def test_results_are_not_written_over_by_the_next_call(backend, loaded):
    engine = built(backend, loaded)
    first = engine(pictures(1))
    kept = [values.clone() for values in first]
    engine(1 - pictures(1))
    assert all(torch.equal(a, b) for a, b in zip(first, kept, strict=True))


@pytest.mark.parametrize("backend", ["torch", *OTHERS])
def test_engines_take_bytes_and_find_the_same(backend, loaded):
    engine, reference = built(backend, loaded), engine_of(loaded, CPU, backend="torch")
    images = (pictures(2) * 255).to(torch.uint8)
    found = engine.detect(images, **LIMITS)
    expected = reference.detect(images.float() / 255, **LIMITS)
    assert sum(len(each) for each in expected) > 10
    for a, b in zip(found, expected, strict=True):
        assert a.class_id.tolist() == b.class_id.tolist()
        assert torch.allclose(a.box_xyxy, b.box_xyxy, atol=1e-2)
        assert torch.allclose(a.score, b.score, atol=1e-4)


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (torch.zeros(3, 64, 96), "B, 3, H, W"),
        (torch.zeros(1, 1, 64, 96), "B, 3, H, W"),
        (torch.zeros(1, 3, 64, 96, dtype=torch.float64), "float64"),
        (torch.zeros(0, 3, 64, 96), "at least one"),
        (torch.zeros(1, 3, 60, 96), "multiples of 32, found 60x96"),
    ],
)
def test_engines_refuse_what_is_no_batch_of_pictures(images, told, loaded):
    with pytest.raises(ValueError, match=told):
        engine_of(loaded, CPU, backend="torch")(images)


def test_openvino_computes_in_the_precision_that_is_said(loaded):
    engine = built("openvino", loaded)
    assert isinstance(engine, OpenVinoEngine)
    engine(pictures(1))
    engine(pictures(2))
    for compiled in (*engine.alone.values(), *(each.compiled for each in engine.abreast.values())):
        hint = str(compiled.get_property("INFERENCE_PRECISION_HINT"))
        assert "f32" in hint or "float" in hint
    assert len(engine.alone) == len(engine.abreast) == 1


@pytest.mark.parametrize("backend", ["torch", *OTHERS])
def test_several_threads_may_ask_at_once_once_an_engine_was_widened(backend, loaded):
    engine = built(backend, loaded)
    images = [pictures(1) * level for level in (0.2, 0.5, 0.8, 1.0)] * 4
    expected = [engine(image) for image in images]
    lanes = engine.widen(3)
    assert lanes == (1 if backend != "openvino" else min(3, torch.get_num_threads()))
    for (_, found), wanted in zip(in_lanes(images, engine, lanes), expected, strict=True):
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, wanted, strict=True))
    assert engine.widen(1) == 1


@pytest.mark.usefixtures("two_threads")
def test_openvino_in_lanes_takes_the_tiles_of_a_picture_one_by_one(loaded):
    engine = built("openvino", loaded)
    expected = engine(pictures(3))
    assert engine.widen(8) == 2
    for _, found in in_lanes([pictures(3)] * 4, engine, 2):
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, expected, strict=True))


@pytest.mark.usefixtures("two_threads")
def test_openvino_compiles_once_for_all_batches_that_it_has_threads_for(loaded):
    engine = built("openvino", loaded)
    assert isinstance(engine, OpenVinoEngine)
    engine(pictures(2))
    (first,) = engine.abreast.values()
    for count in (5, 2, 8):
        engine(pictures(count))
    assert list(engine.abreast.values()) == [first]
    assert first.streams == 2


@pytest.mark.parametrize(
    ("count", "batches", "expected"),
    [
        (3, [], 3),  # nothing is built
        (3, [1, 4, 16], 4),  # one more costs less than another build
        (3, [16], 3),  # thirteen more do not
        (3, [2], 3),
        (8, [8, 16], 8),
    ],
)
def test_batches_are_filled_up_to_one_that_is_built(count, batches, expected):
    assert padded_batch(count, (64, 96), {(batch, 64, 96) for batch in batches}) == expected
    assert padded_batch(count, (96, 64), {(batch, 64, 96) for batch in batches}) == count


def test_padding_is_black_and_behind():
    filled = pad(torch.ones(2, 3, 4, 4), 5)
    assert filled.sum(dim=(1, 2, 3)).tolist() == [48, 48, 0, 0, 0]


def test_rows_of_a_file_with_nms_become_each_pictures_detections():
    rows = torch.tensor([[1, 0, 0, 4, 4, 0.5, 2], [0, 1, 1, 2, 2, 0.4, 0], [1, 5, 5, 9, 9, 0.75, 1]])
    none, second, third = split_detections(rows, 3)[2], *split_detections(rows, 3)[:2]
    assert len(none) == 0
    assert (second.class_id.tolist(), third.class_id.tolist()) == ([0], [1, 2])
    assert third.score.tolist() == [0.75, 0.5]


def test_anchors_come_back_from_the_facts():
    config = YoloHeadConfig(anchors=(((10, 13), (16.5, 30)), ((30, 61), (62, 45))), scale_x_y=(1.05, 1.2))
    again = head_config(Anchors(config, (8, 16)))
    assert again == config


# --- which engine ------------------------------------------------------------------------------------


class Pretended(Engine):
    """Gives what another engine gives, plus `error`, in `seconds` on a clock of its own."""

    def __init__(self, other: Engine, seconds: float, error: float, clock: list[float]):
        super().__init__(f"{seconds} s", other.facts, CPU, "fp32")
        self.other, self.seconds, self.error, self.clock = other, seconds, error, clock

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        self.clock[0] += self.seconds
        return tuple(values + self.error for values in self.other.forward(images))


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(pick.time, "perf_counter", lambda: now[0])
    return now


def test_auto_takes_the_fastest_that_agrees(loaded, clock, telling):
    reference = Pretended(engine_of(loaded, CPU), 0.3, 0, clock)

    def broken() -> Engine:
        raise ConfigError("no such package")

    candidates = {
        "torch": lambda: reference,
        "quick": lambda: Pretended(reference, 0.2 - 0.3, 0, clock),
        "wrong": lambda: Pretended(reference, 0.1 - 0.3, 0.1, clock),
        "broken": broken,
    }
    assert fastest_of(candidates, reference).name == "-0.09999999999999998 s"
    assert "wrong is left out: its boxes or scores differ by" in telling.text
    assert "broken is left out: no such package" in telling.text
    assert "torch 300.0 ms, quick 200.0 ms" in telling.text


def test_auto_without_any_that_agrees_is_an_error(loaded, clock):
    reference = engine_of(loaded, CPU)
    with pytest.raises(ConfigError, match="no engine can do this\nwrong: its boxes or scores differ"):
        fastest_of({"wrong": lambda: Pretended(reference, 0.1, 1.0, clock)}, reference)


def test_disagreement_is_measured_in_scores_and_shares_of_the_input():
    # One slot: t = 0 is the anchor, 32x32 around (16, 16), with scores of 0.5 * 0.5. sigmoid(t) = 0.5 + d moves the
    # center by 32 d pixels, so d = 0.064 by 2.048, which is 2.048 / 64 = 0.032 of an input of 64.
    anchors = Anchors(YoloHeadConfig(anchors=(((32, 32),),), scale_x_y=(1.0,)), (32,))
    expected, found = torch.zeros(1, 1, 1, 1, 6), torch.zeros(1, 1, 1, 1, 6)
    found[..., 0] = float(torch.logit(torch.tensor(0.564)))
    assert float(differences((found,), (expected,), anchors, (64, 64))) == pytest.approx(0.032, abs=1e-6)
    assert disagreement([(found,)], [(expected,)], anchors, "fp32", (64, 64)) is not None
    assert disagreement([(expected,)], [(expected,)], anchors, "fp32", (64, 64)) is None
    told = disagreement([(expected[:, :, :0],)], [(expected,)], anchors, "fp32", (64, 64))
    assert told is not None
    assert "other shapes" in told


def test_probes_are_the_same_every_time_and_no_other():
    first, second = probes((64, 96))
    assert torch.equal(first, probes((64, 96))[0])
    assert first.shape == second.shape == (1, 3, 64, 96)
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"backend": "onnxrutime"}, r"--backend: unknown 'onnxrutime' \(did you mean 'onnxruntime'\?\)"),
        ({"precision": "fp8"}, "--precision: unknown 'fp8'"),
        ({"precision": "int8"}, "needs calibration pictures"),
        ({"backend": "cuda-graph"}, "needs a CUDA device, found cpu"),
        ({"backend": "tensorrt"}, "needs a CUDA device, found cpu"),
        ({"backend": "onnxruntime", "precision": "bf16"}, "computes in fp32, found bf16"),
        ({"backend": "torch", "precision": "fp16"}, "torch on cpu computes in fp32 or bf16; found fp16"),
        ({"threads": 0}, "--threads: expected 1 or more"),
        ({"size": (60, 60)}, "expected multiples of 32"),
    ],
)
def test_what_an_engine_cannot_do_is_told(words, told, checkpoint):
    with pytest.raises(ConfigError, match=told):
        load_engine(checkpoint, device="cpu", **words)


@pytest.mark.parametrize(("backend", "extra"), [("onnxruntime", "export"), ("openvino", "openvino")])
def test_a_missing_package_is_told_with_its_extra(backend, extra, checkpoint, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, backend, None)
    with pytest.raises(ConfigError, match=rf"needs the package {backend}.*pip install 'cspdet\[{extra}\]'"):
        load_engine(checkpoint, device="cpu", backend=backend)


def test_a_checkpoint_in_an_engine_of_another_size(checkpoint, telling):
    engine = load_engine(checkpoint, device="cpu", backend="torch", size=(96, 64))
    assert engine.size_hw == (96, 64)
    assert "small: torch fp32 on cpu" in telling.text
    with pytest.raises(CheckpointError, match="brings its own weights"):
        load_engine(checkpoint, weights=checkpoint)


def test_load_detector_takes_a_backend_and_keeps_the_network(checkpoint):
    picture = np.random.default_rng(0).integers(0, 256, (80, 100, 3), np.uint8)
    detector = load_detector(checkpoint, device="cpu", backend="torch")
    assert isinstance(detector.model, nn.Module)
    assert len(detector.model(pictures(1))) == len(detector.engine.strides)
    expected = detector.predict(picture)
    assert len(expected) > 3
    for backend in OTHERS:
        pytest.importorskip(backend)
        found = load_detector(checkpoint, device="cpu", backend=backend).predict(picture)
        assert torch.allclose(found.box_xyxy, expected.box_xyxy, atol=1e-2)


@pytest.mark.e2e
def test_auto_on_a_real_network_picks_one_that_agrees(checkpoint, telling):
    engine = load_engine(checkpoint, device="cpu")
    assert engine.name in ("torch", *OTHERS)
    assert "auto: torch " in telling.text
    reference = load_engine(checkpoint, device="cpu", backend="torch")
    x = pictures(2)
    assert disagreement([engine(x)], [reference(x)], reference.anchors, "fp32", SIZE_HW) is None


def test_a_predictor_of_a_loaded_model_runs_torch(loaded):
    detector = Predictor(loaded, CPU, **LIMITS)
    assert (detector.engine.name, detector.model) == ("torch", loaded.model)


@pytest.mark.e2e
def test_torch_compile_agrees(loaded, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    try:
        engine = engine_of(loaded, CPU, backend="torch-compile")
        found = engine(pictures(2))
    except Exception as error:
        if "compiler" in str(error).lower():
            pytest.skip("there is no C++ compiler")
        raise
    with torch.no_grad():
        expected = loaded.model(pictures(2))
    assert disagreement([found], [expected], loaded.model.anchors, "fp32", SIZE_HW) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_recorded_graph_agrees(loaded, precision):
    device = torch.device("cuda")
    engine = CudaGraphEngine(copy.deepcopy(loaded.model), facts_of(loaded), device, precision)
    reference = TorchEngine(copy.deepcopy(loaded.model), facts_of(loaded), device)
    for x in (pictures(1), pictures(3), pictures(2), pictures(2, 128, 64)):
        assert disagreement([engine(x)], [reference(x)], reference.anchors, precision, SIZE_HW) is None


def test_a_recorded_graph_needs_cuda(loaded):
    with pytest.raises(ConfigError, match="CUDA"):
        CudaGraphEngine(loaded.model, facts_of(loaded), CPU)
