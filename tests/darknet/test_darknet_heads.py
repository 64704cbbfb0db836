"""The heads of a cfg against Darknet's decoding and NMS, written a second time as plain loops; the limit of memory."""

from __future__ import annotations

from math import exp

import numpy as np
import pytest
import torch
from darknet_data import NET, YOLOV2, conv, network, region, yolo
from torch import Tensor

from cspdet.darknet.cfg import parse_cfg
from cspdet.darknet.graph import build_graph
from cspdet.darknet.heads import RegionOutput
from cspdet.darknet.network import DarknetDetector
from cspdet.darknet.num_classes import with_num_classes
from cspdet.errors import ConfigError
from cspdet.models.config import PostprocessConfig
from cspdet.models.postprocess import decode, decode_and_nms

HEADS = {
    "region": (YOLOV2, 3, "region"),
    "yolo": (NET + conv(16, 3, 8) + conv(14, norm=False, act="linear") + yolo("0,2", "scale_x_y=1.1"), 2, "yolo"),
    "new_coords": (
        NET + conv(16, 3, 8) + conv(14, norm=False, act="logistic") + yolo("0,2", "scale_x_y=2", "new_coords=1"),
        2,
        "new_coords",
    ),
}
ANCHORS = {"region": ((12, 10), (28, 36)), "yolo": ((10, 14), (37, 58)), "new_coords": ((10, 14), (37, 58))}  # pixels


def sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x))


def decode_cell_by_cell(x: np.ndarray, kind: str, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """The boxes (S, 4) and scores (S, C) of a convolution's outputs (channels, H, W) before a head of stride 8.

    The channels of an anchor are x, y, w, h, objectness, classes. The outputs of `new_coords` are without a sigmoid.
    cspdet limits exp(t) of a size to exp(6).
    """
    boxes, scores = [], []
    _, rows, columns = x.shape
    shift = {"region": 1.0, "yolo": 1.1, "new_coords": 2.0}[kind]
    for a, (width, height) in enumerate(ANCHORS[kind]):
        for j in range(rows):
            for i in range(columns):
                t = [float(v) for v in x[a * (5 + classes) : (a + 1) * (5 + classes), j, i]]
                cx = (i + shift * sigmoid(t[0]) - (shift - 1) / 2) * 8
                cy = (j + shift * sigmoid(t[1]) - (shift - 1) / 2) * 8
                w, h = ((2 * sigmoid(v)) ** 2 if kind == "new_coords" else exp(min(v, 6)) for v in t[2:4])
                boxes.append((cx - w * width / 2, cy - h * height / 2, cx + w * width / 2, cy + h * height / 2))
                total = sum(exp(v) for v in t[5:])
                p = [exp(v) / total if kind == "region" else sigmoid(v) for v in t[5:]]
                scores.append([sigmoid(t[4]) * value for value in p])
    return np.array(boxes), np.array(scores)


def area(box: np.ndarray) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def iou(a: np.ndarray, b: np.ndarray) -> float:
    inside = area(np.array((*np.maximum(a[:2], b[:2]), *np.minimum(a[2:], b[2:]))))
    return inside / (area(a) + area(b) - inside)


def nms(boxes: np.ndarray, scores: np.ndarray, min_score: float, limit: float) -> list[tuple[int, int]]:
    """(box, class) of every detection, class by class, the highest score first."""
    kept: list[tuple[int, int]] = []
    for c in range(scores.shape[1]):
        chosen: list[int] = []
        for s in sorted(np.flatnonzero(scores[:, c] > min_score), key=lambda s: -scores[s, c]):
            if all(iou(boxes[s], boxes[k]) <= limit for k in chosen):
                chosen.append(s)
        kept += [(s, c) for s in chosen]
    return sorted(kept, key=lambda item: -scores[item])


def outputs(text: str) -> tuple[DarknetDetector, np.ndarray, tuple[Tensor, ...]]:
    """The network of a cfg with one head, the output of its last convolution for noise, and its raw outputs."""
    torch.manual_seed(0)
    detector = network(text).eval()
    assert isinstance(detector, DarknetDetector)
    last = detector.body.layer[len(detector.body.layer) - 2]
    seen: list[Tensor] = []
    last.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        last.conv.bias.zero_()
        detector(images)
        last.conv.weight *= 1.5 / seen[0].std()  # outputs of both signs, some of them large
        raw = detector(images)
    return detector, seen[1][0].numpy(), raw


@pytest.mark.parametrize("kind", HEADS)
def test_boxes_scores_and_nms_are_those_of_plain_loops(kind):
    text, classes, _ = HEADS[kind]
    detector, x, raw = outputs(text)
    assert np.abs(x).max() > 3
    boxes, scores = decode_cell_by_cell(x, kind, classes)
    found_boxes, found_scores = (value[0].numpy() for value in decode(raw, detector.anchors))
    np.testing.assert_allclose(found_boxes, boxes, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(found_scores, scores, rtol=1e-4, atol=2e-6)
    (detections,) = decode_and_nms(
        raw, detector.anchors, PostprocessConfig(min_score=0.2, nms_iou=0.45, max_detections=1000)
    )
    expected = nms(boxes, scores, 0.2, 0.45)
    assert 5 < len(expected) < (scores > 0.2).sum()  # NMS has something to remove
    assert detections.class_id.tolist() == [c for _, c in expected]
    np.testing.assert_allclose(detections.box_xyxy.numpy(), boxes[[s for s, _ in expected]], rtol=1e-5, atol=1e-3)


def test_a_region_with_certain_or_single_classes_stays_finite():
    x = torch.tensor((0.0, 0, 0, 0, 0, 200, -200, 3)).view(1, 8, 1, 1)
    raw = RegionOutput(1)(x)
    assert raw.isfinite().all()
    assert raw[..., 5:].sigmoid().flatten().tolist() == pytest.approx([1, 0, 0], abs=2e-6)
    assert RegionOutput(1)(x[:, :6])[..., 5].sigmoid().item() == pytest.approx(1, abs=2e-6)


def test_a_region_takes_another_number_of_classes_and_gets_gradients():
    cfg = with_num_classes(parse_cfg(YOLOV2, "x.cfg"), 5)
    detector = DarknetDetector(cfg)
    (raw,) = detector(torch.rand(1, 3, 64, 64))
    assert (cfg.num_classes, tuple(raw.shape)) == (5, (1, 2, 8, 8, 10))
    raw[..., 5].sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in detector.body.layer[-2].parameters())


# The first layers of cspx-p7-mish, the released network with the most live values; and one that needs twice as many.
STEM = NET.replace("=64", "=1536") + conv(80, 3, act="mish") + conv(80, 3, 2, act="mish") + conv(40, act="mish")
TAIL = conv(16, 3, 16, norm=False, act="linear") + region()


def test_the_largest_released_network_fits_the_limit_of_memory():
    assert len(build_graph(parse_cfg(STEM + TAIL, "x.cfg")).layers) == 5
    with pytest.raises(ConfigError, match=r"x.cfg:8: \[convolutional\] the output has 160x1536x1536 values; expected"):
        build_graph(parse_cfg(STEM.replace("filters=80", "filters=160") + TAIL, "x.cfg"))
    live = r"the live feature maps of one image of 3x1536x1536 have [\d,]+ values; expected at most 268,435,456"
    with pytest.raises(ConfigError, match=live):
        build_graph(parse_cfg(STEM.replace("stride=2", "stride=1") + TAIL, "x.cfg"))
