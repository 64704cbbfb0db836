"""Verification of files with NMS: detections are compared even if the thresholds of the file leave none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from engine_data import small_detector
from torch import Tensor, nn

from cspdet.errors import UserError
from cspdet.exporters import nms as nms_module
from cspdet.exporters.base import ExportConfig, load_format
from cspdet.exporters.graph import export_metadata
from cspdet.exporters.verify import largest, reference_outputs, verification_inputs, verify_export
from cspdet.exporters.verify_nms import TARGET_DETECTIONS, lower_min_score, verify_nms
from cspdet.inference.engines.base import Engine
from cspdet.inference.engines.source import EngineOptions
from cspdet.inference.metadata import ModelMetadata, NmsConfig
from cspdet.models.bundle import ModelBundle
from cspdet.models.config import PostprocessConfig
from cspdet.models.postprocess import postprocess

NOTHING_LEFT = NmsConfig(min_score=0.999, nms_iou=0.6, max_detections=100)


def test_the_threshold_is_lowered_until_enough_detections_remain():
    bundle = small_detector()
    metadata = export_metadata(bundle, ExportConfig(nms=NOTHING_LEFT))
    decoded = [reference_outputs(bundle, "detections", x) for x in verification_inputs(bundle, metadata)]
    lower = lower_min_score(NOTHING_LEFT, decoded)
    assert (lower.nms_iou, lower.max_detections) == (0.6, 100)
    config = PostprocessConfig(min_score=lower.min_score, nms_iou=0.6, max_detections=100)
    counts = [sum(map(len, postprocess(*batch, config))) for batch in decoded]
    assert min(counts) >= TARGET_DETECTIONS
    none = PostprocessConfig(min_score=0.999, nms_iou=0.6, max_detections=100)
    assert sum(len(each) for batch in decoded for each in postprocess(*batch, none)) < 10


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        ("onnx", None),
        ("onnx", "nms_max_detections"),
        ("onnx", "nms_image_and_prior"),
        ("openvino", None),
        ("openvino", "nms_iou"),
    ],
)
def test_faults_of_nms_are_found_although_the_file_detects_nothing(kind, fault, tmp_path, monkeypatch):
    pytest.importorskip({"onnx": "onnxruntime", "openvino": "openvino"}[kind])
    right = nms_module._constants

    def faulty(config: NmsConfig) -> dict[str, object]:
        values = right(config)
        if fault is not None:
            values[fault] = {
                "nms_iou": values["nms_iou"] - values["nms_iou"].dtype.type(0.3),
                "nms_max_detections": values["nms_max_detections"] - values["nms_max_detections"].dtype.type(1),
                "nms_image_and_prior": values["nms_image_and_prior"] * 0,
            }[fault]
        return values

    monkeypatch.setattr(nms_module, "_constants", faulty)
    target = tmp_path / ("a.onnx" if kind == "onnx" else "a.xml")
    config = ExportConfig(nms=NmsConfig(min_score=0.999, nms_iou=0.6, max_detections=20))
    if fault is None:
        assert load_format(kind).export(small_detector(), config, target).difference < 1e-4
        return
    with pytest.raises(UserError, match=r"not written: its outputs differ by"):
        load_format(kind).export(small_detector(), config, target)
    assert list(tmp_path.iterdir()) == []


class Fixed(Engine):
    """An engine whose outputs are given."""

    name = "fixed"

    def __init__(self, metadata: ModelMetadata, *outputs: Tensor):
        super().__init__(metadata, EngineOptions())
        self.outputs = outputs

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.outputs


def test_too_few_detections_verify_nothing():
    metadata = export_metadata(small_detector(), ExportConfig(nms=NmsConfig()))
    decoded = [(torch.zeros(1, 9, 4), torch.zeros(1, 9, 3))]
    engine = Fixed(metadata, torch.zeros(0, 7))
    for probe in (None, Fixed(metadata, torch.zeros(0, 7), *decoded[0])):
        with pytest.raises(UserError, match="only 0 detections remain to verify NMS, expected at least 10"):
            verify_nms(engine, lambda _, probe=probe: probe, [torch.zeros(1, 3, 64, 96)], decoded)


def test_outputs_that_are_not_numbers_are_refused():
    bundle = small_detector()
    metadata = export_metadata(bundle, ExportConfig())
    (images, _) = verification_inputs(bundle, metadata)
    first, *rest = reference_outputs(bundle, "raw", images)
    for outputs in ([first * torch.nan, *rest], [first, *(values * torch.nan for values in rest)]):
        with pytest.raises(UserError, match="differ by nan"):
            verify_export(Fixed(metadata, *outputs), bundle, [images], "a.onnx")
    assert largest([1.0, 3.0, 2.0]) == 3


def test_a_network_of_constant_scores_is_compared_too(tmp_path):
    pytest.importorskip("onnxruntime")
    bundle: ModelBundle = small_detector()
    for name, module in bundle.torch_network.named_modules():
        if isinstance(module, nn.Conv2d) and ".pred_convs." in f".{name}":
            nn.init.zeros_(module.weight)
            assert module.bias is not None
            module.bias.data[4::8] = -9.0
    path = tmp_path / "a.onnx"
    load_format("onnx").export(bundle, ExportConfig(nms=NmsConfig()), path)
    assert Path(path).exists()
