"""Engines: the same function whatever computes it."""

from __future__ import annotations

import copy

import pytest
import torch
from engine_data import CLASSES, NUM_CALLS, SIZE_HW, build, call_in_threads, random_images, small_detector
from torch import nn

from cspdet.errors import ConfigError
from cspdet.inference.config import EngineConfig
from cspdet.inference.engines.base import Engine
from cspdet.inference.engines.batching import nms_limits, pad_batch, select_batch_size, split_detections
from cspdet.inference.engines.cpu_kernels.prepack import PackedConv, prepack
from cspdet.inference.engines.cuda_graph import CudaGraphEngine
from cspdet.inference.engines.factory import build_engine
from cspdet.inference.engines.openvino_engine import OpenVinoEngine
from cspdet.inference.engines.parity import parity_error
from cspdet.inference.engines.source import EngineOptions
from cspdet.inference.engines.torch_engine import TorchEngine
from cspdet.inference.metadata import NmsConfig, build_metadata, head_config_from_anchors
from cspdet.inference.pipeline import parallel_map
from cspdet.models.bundle import ModelBundle
from cspdet.models.config import PostprocessConfig, YoloHeadConfig
from cspdet.models.fuse import fuse_conv_bn
from cspdet.models.head import Anchors

CPU = torch.device("cpu")
OTHERS = ["onnxruntime", "openvino"]
POSTPROCESS = PostprocessConfig(min_score=0.25, nms_iou=0.6, max_detections=100)


@pytest.fixture(scope="module")
def loaded() -> ModelBundle:
    return small_detector()


@pytest.fixture
def two_threads():
    """For the time of a test, whatever the machine: tests that come after compare runs to the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def built(backend: str, loaded: ModelBundle) -> Engine:
    pytest.importorskip(backend)
    return build(loaded, backend)


# --- torch -----------------------------------------------------------------------------------------


def test_packed_convolutions_take_their_activations_and_any_shape(loaded):
    folded = fuse_conv_bn(loaded.network)
    packed = prepack(folded.to(memory_format=torch.channels_last), SIZE_HW)
    if packed is None:
        pytest.skip("this torch has no oneDNN")
    assert any(isinstance(module, PackedConv) for module in packed.modules())
    modules = dict(packed.named_modules())
    assert not any(isinstance(module, nn.Conv2d) for module in modules.values())
    for node in packed.graph.nodes:  # what is left of the activations stands behind sums and products
        if node.op == "call_module" and isinstance(modules[node.target], nn.LeakyReLU):
            assert not isinstance(modules.get(node.args[0].target), PackedConv)
    for x in (random_images(1), random_images(3), random_images(2, 128, 64)):
        with torch.no_grad():
            for a, b in zip(packed(x), folded(x), strict=True):
                assert float((a - b).abs().max()) <= 1e-5 * float(b.abs().max())


def test_a_network_that_packing_would_change_is_left_as_it_is(loaded, monkeypatch, log_capture):
    folded = fuse_conv_bn(loaded.network)
    right = PackedConv.forward
    monkeypatch.setattr(PackedConv, "forward", lambda self, x: 1.01 * right(self, x))
    assert prepack(folded, SIZE_HW) is None
    assert "not packed" in log_capture.text


def test_torch_gives_what_the_network_gives_and_leaves_it_alone(loaded):
    before = copy.deepcopy(loaded.network.state_dict())
    engine = TorchEngine(loaded.network, build_metadata(loaded), EngineOptions())
    with torch.no_grad():
        for x in (random_images(1), random_images(2, 64, 160)):
            for a, b in zip(engine(x), loaded.network(x), strict=True):
                assert a.shape == b.shape
                assert float((a - b).abs().max()) <= 1e-5 * float(b.abs().max())
    assert all(torch.equal(value, before[key]) for key, value in loaded.network.state_dict().items())
    assert all(parameter.requires_grad for parameter in loaded.network.parameters())


def test_cpu_kernels_can_be_switched_off(loaded):
    packed, plain = (build_engine(loaded, EngineConfig("torch", device="cpu", cpu_kernels=on)) for on in (True, False))
    assert isinstance(plain, TorchEngine)
    assert not any(isinstance(module, PackedConv) for module in plain.model.modules())
    for a, b in zip(packed(random_images(1)), plain(random_images(1)), strict=True):
        assert float((a - b).abs().max()) <= 1e-5 * float(b.abs().max())


def test_bf16_is_near_and_comes_as_float32(loaded):
    exact, coarse = (build(loaded, "torch", p) for p in ("fp32", "bf16"))
    found, expected = coarse(random_images(1)), exact(random_images(1))
    assert {values.dtype for values in found} == {torch.float32}
    assert not torch.equal(found[0], expected[0])
    assert parity_error([found], [expected], exact.anchors, "bf16", SIZE_HW) is None


# --- every engine ----------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", OTHERS)
def test_engines_agree_with_the_network(backend, loaded):
    engine = built(backend, loaded)
    assert (engine.name, engine.precision, engine.classes) == (backend, "fp32", CLASSES)
    assert (engine.strides, engine.size_hw, engine.resize) == (loaded.network.strides, SIZE_HW, "letterbox")
    for x in (
        random_images(1),
        random_images(3),
        random_images(2),
        random_images(2, 128, 64),
    ):  # two after three: a batch is filled up
        with torch.no_grad():
            expected = loaded.network(x)
        for a, b in zip(engine(x), expected, strict=True):
            assert a.shape == b.shape
            assert float((a - b).abs().max()) <= 1e-5 * float(b.abs().max())


@pytest.mark.parametrize("backend", ["torch", *OTHERS])
def test_results_are_not_written_over_by_the_next_call(backend, loaded):
    engine = built(backend, loaded)
    first = engine(random_images(1))
    kept = [values.clone() for values in first]
    engine(1 - random_images(1))
    assert all(torch.equal(a, b) for a, b in zip(first, kept, strict=True))


@pytest.mark.parametrize("backend", ["torch", *OTHERS])
def test_engines_take_bytes_and_find_the_same(backend, loaded):
    engine, reference = built(backend, loaded), build(loaded, "torch")
    images = (random_images(2) * 255).to(torch.uint8)
    found = engine.detect(images, POSTPROCESS)
    expected = reference.detect(images.float() / 255, POSTPROCESS)
    assert sum(len(each) for each in expected) > 10
    for a, b in zip(found, expected, strict=True):
        assert a.class_id.tolist() == b.class_id.tolist()
        assert torch.allclose(a.box_xyxy, b.box_xyxy, atol=1e-2)
        assert torch.allclose(a.score, b.score, atol=1e-4)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(3, 64, 96), "B, 3, H, W"),
        (torch.zeros(1, 1, 64, 96), "B, 3, H, W"),
        (torch.zeros(1, 3, 64, 96, dtype=torch.float64), "float64"),
        (torch.zeros(0, 3, 64, 96), "at least one"),
        (torch.zeros(1, 3, 60, 96), "multiples of 32, found 60x96"),
    ],
)
def test_engines_refuse_other_shapes_than_a_batch_of_images(images, message, loaded):
    with pytest.raises(ValueError, match=message):
        build(loaded, "torch")(images)


def test_openvino_computes_in_the_precision_that_is_said(loaded):
    engine = built("openvino", loaded)
    assert isinstance(engine, OpenVinoEngine)
    engine(random_images(1))
    engine(random_images(2))
    for pool in (*engine.latency_models.values(), *engine.throughput_models.values()):
        hint = str(pool.compiled.get_property("INFERENCE_PRECISION_HINT"))
        assert "f32" in hint or "float" in hint
    assert len(engine.latency_models) == len(engine.throughput_models) == 1


@pytest.mark.parametrize("backend", ["torch", *OTHERS])
def test_several_threads_may_ask_at_once_once_an_engine_was_widened(backend, loaded):
    engine = built(backend, loaded)
    images = [random_images(1) * level for level in (0.2, 0.5, 0.8, 1.0)] * 4
    expected = [engine(image) for image in images]
    num_workers = engine.set_num_streams(3)
    assert num_workers == (1 if backend != "openvino" else min(3, torch.get_num_threads()))
    for (_, found), correct in zip(parallel_map(images, engine, num_workers), expected, strict=True):
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, correct, strict=True))
    assert engine.set_num_streams(1) == 1


@pytest.mark.usefixtures("two_threads")
def test_openvino_in_workers_takes_the_tiles_of_a_image_one_by_one(loaded):
    engine = built("openvino", loaded)
    expected = engine(random_images(3))
    assert engine.set_num_streams(8) == 2
    for _, found in parallel_map([random_images(3)] * 4, engine, 2):
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, expected, strict=True))


@pytest.mark.usefixtures("two_threads")
def test_openvino_compiles_once_for_all_batches_that_it_has_threads_for(loaded):
    engine = built("openvino", loaded)
    assert isinstance(engine, OpenVinoEngine)
    engine(random_images(2))
    (first,) = engine.throughput_models.values()
    for count in (5, 2, 8):
        engine(random_images(count))
    assert list(engine.throughput_models.values()) == [first]
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
    assert select_batch_size(count, (64, 96), {(batch, 64, 96) for batch in batches}) == expected
    assert select_batch_size(count, (96, 64), {(batch, 64, 96) for batch in batches}) == count


def test_padding_is_black_and_behind():
    filled = pad_batch(torch.ones(2, 3, 4, 4), 5)
    assert filled.sum(dim=(1, 2, 3)).tolist() == [48, 48, 0, 0, 0]


def test_rows_of_a_file_with_nms_become_each_images_detections():
    rows = torch.tensor([[1, 0, 0, 4, 4, 0.5, 2], [0, 1, 1, 2, 2, 0.4, 0], [1, 5, 5, 9, 9, 0.75, 1]])
    none, second, third = split_detections(rows, 3)[2], *split_detections(rows, 3)[:2]
    assert len(none) == 0
    assert (second.class_id.tolist(), third.class_id.tolist()) == ([0], [1, 2])
    assert third.score.tolist() == [0.75, 0.5]


def test_thresholds_without_effect_on_built_in_nms_are_described():
    nms = NmsConfig(min_score=0.25, nms_iou=0.6, max_detections=3)
    assert nms_limits(nms, PostprocessConfig(min_score=0.25, nms_iou=0.6, max_detections=3)) == []
    assert nms_limits(nms, PostprocessConfig(min_score=0.5, nms_iou=0.6, max_detections=1)) == []
    limits = nms_limits(nms, PostprocessConfig(min_score=0.1, nms_iou=0.5, max_detections=50))
    assert [limit.partition(" has no effect")[0] for limit in limits] == [
        "min_score 0.1", "max_detections 50", "nms_iou 0.5",
    ]  # fmt: skip


def test_anchors_come_back_from_the_facts():
    config = YoloHeadConfig(anchors=(((10, 13), (16.5, 30)), ((30, 61), (62, 45))), scale_x_y=(1.05, 1.2))
    again = head_config_from_anchors(Anchors(config, (8, 16)))
    assert again == config


# --- compiled and recorded ---------------------------------------------------------------------------


@pytest.mark.e2e
def test_torch_compile_agrees(loaded, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    try:
        engine = build(loaded, "torch-compile")
        found = engine(random_images(2))
    except Exception as error:
        if "compiler" in str(error).lower():
            pytest.skip("there is no C++ compiler")
        raise
    with torch.no_grad():
        expected = loaded.network(random_images(2))
    assert parity_error([found], [expected], loaded.network.anchors, "fp32", SIZE_HW) is None
    images = random_images(4)
    expected = [engine(images[i : i + 1]) for i in range(4)]  # filled up to the compiled batch of two
    results = call_in_threads(lambda i: engine(images[i : i + 1]))
    wrong = [i for i, outputs in results if not torch.allclose(outputs[0], expected[i][0], atol=1e-5)]
    assert (len(results), wrong) == (NUM_CALLS, [])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_recorded_graph_agrees(loaded, precision):
    device = torch.device("cuda")
    engine = CudaGraphEngine(copy.deepcopy(loaded.network), build_metadata(loaded), EngineOptions(device, precision))
    reference = TorchEngine(copy.deepcopy(loaded.network), build_metadata(loaded), EngineOptions(device))
    for x in (random_images(1), random_images(3), random_images(2), random_images(2, 128, 64)):
        assert parity_error([engine(x)], [reference(x)], reference.anchors, precision, SIZE_HW) is None


def test_a_recorded_graph_needs_cuda(loaded):
    with pytest.raises(ConfigError, match="CUDA"):
        CudaGraphEngine(loaded.network, build_metadata(loaded), EngineOptions())
