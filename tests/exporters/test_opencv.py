"""OpenCV's DNN module reads the exported ONNX files, and computes the outputs of the network."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from engine_data import random_images, small_detector

from cspdet.exporters.base import ExportConfig, load_format
from cspdet.inference.engines.batching import split_detections
from cspdet.inference.metadata import NmsConfig
from cspdet.models.config import PostprocessConfig
from cspdet.models.postprocess import decode, postprocess

pytest.importorskip("onnxruntime")
OPENCV_5 = int(cv2.__version__.partition(".")[0]) >= 5
NMS = NmsConfig(min_score=0.3, nms_iou=0.5, max_detections=20)


def run(path: Path, names: tuple[str, ...], *engine: int) -> list[np.ndarray]:
    net = cv2.dnn.readNetFromONNX(str(path), *engine)
    net.setInput(random_images(1).numpy())
    return list(net.forward(names))


@pytest.mark.parametrize("dynamic", [False, True])
def test_boxes_and_scores_are_those_of_the_network(dynamic, tmp_path):
    if dynamic and not OPENCV_5:
        pytest.skip("OpenCV 4 needs fixed shapes")
    bundle = small_detector()
    path = tmp_path / "a.onnx"
    load_format("onnx").export(bundle, ExportConfig(outputs="decoded", dynamic=dynamic), path)
    with torch.no_grad():
        expected = decode(bundle.torch_network(random_images(1)), bundle.detector.anchors)
    engines = [()] if dynamic or not OPENCV_5 else [(), (cv2.dnn.ENGINE_CLASSIC,)]  # the latter is that of OpenCV 4
    for engine in engines:
        for found, right in zip(run(path, ("box_xyxy", "score"), *engine), expected, strict=True):
            assert found.shape == tuple(right.shape)
            assert np.abs(found - right.numpy()).max() <= 1e-4 * float(right.abs().max())


@pytest.mark.skipif(not OPENCV_5, reason="OpenCV 4 has no NMS operator")
@pytest.mark.parametrize("dynamic", [False, True])
def test_detections_after_nms_are_those_of_the_network(dynamic, tmp_path):
    bundle = small_detector()
    path = tmp_path / "a.onnx"
    load_format("onnx").export(bundle, ExportConfig(nms=NMS, dynamic=dynamic), path)
    with torch.no_grad():
        decoded = decode(bundle.torch_network(random_images(1)), bundle.detector.anchors)
    (expected,) = postprocess(*decoded, PostprocessConfig(**NMS.model_dump()))
    (rows,) = run(path, ("detections",))
    (found,) = split_detections(torch.from_numpy(rows), 1)
    assert len(expected) == 20
    assert found.class_id.tolist() == expected.class_id.tolist()
    assert torch.allclose(found.box_xyxy, expected.box_xyxy, rtol=1e-4, atol=1e-2)
    assert torch.allclose(found.score, expected.score, atol=1e-5)
