"""Decoding against numbers worked out by hand and against a plain loop."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError

from cspdet.models.config import YoloHeadConfig
from cspdet.models.head import Anchors, YoloHead
from cspdet.models.postprocess import decode, decode_boxes
from cspdet.structures import FeatureSpec

ONE = YoloHeadConfig(anchors=(((10.0, 20.0),),), scale_x_y=(1.0,))


def test_zero_logits_decode_to_the_anchor_centered_in_its_cell():
    raw = torch.zeros(1, 1, 2, 3, 5 + 2)  # 2 rows, 3 columns, 2 classes
    box, score = decode((raw,), Anchors(ONE, (8,)))
    assert box[0, 4].tolist() == [7.0, 2.0, 17.0, 22.0]  # row 1, column 1: center (12, 12)
    assert score[0, 4].tolist() == [0.25, 0.25]  # 0.5 objectness x 0.5 class


def test_scale_x_y_stretches_the_center_about_the_middle_of_its_cell():
    config = ONE.model_copy(update={"scale_x_y": (1.2,)})
    raw = torch.zeros(1, 1, 1, 1, 6)
    raw[..., 0] = 50.0  # the sigmoid is 1: Darknet's 1.2 * 1 - 0.1 = 1.1 cells
    box = decode_boxes((raw,), Anchors(config, (16,)))
    assert box[0, 0].tolist() == pytest.approx([17.6 - 5, 8 - 10, 17.6 + 5, 8 + 10], abs=1e-4)


def test_a_huge_size_stays_finite():
    raw = torch.full((1, 1, 1, 1, 6), 1e4)
    assert decode_boxes((raw,), Anchors(ONE, (8,))).isfinite().all()


def test_the_real_permuted_output_decodes_as_a_plain_loop_does():
    config = YoloHeadConfig(scale_x_y=(1.2, 1.1, 1.05))
    specs = (FeatureSpec(4, 8), FeatureSpec(4, 16), FeatureSpec(4, 32))
    torch.manual_seed(0)
    head = YoloHead(config, specs, num_classes=2)
    with torch.no_grad():
        raw = head(tuple(torch.randn(2, 4, 32 // s * 2, 32 // s * 3) for s in (8, 16, 32)))
    box, score = decode(raw, head.anchors)
    sigmoid = torch.sigmoid
    prior = 0
    for level, (stride, scale) in enumerate(zip((8, 16, 32), config.scale_x_y, strict=True)):
        for a, (w, h) in enumerate(config.anchors[level]):
            for row in range(raw[level].shape[2]):
                for col in range(raw[level].shape[3]):
                    t = raw[level][1, a, row, col].double()
                    x = (col + scale * sigmoid(t[0]).item() - (scale - 1) / 2) * stride
                    y = (row + scale * sigmoid(t[1]).item() - (scale - 1) / 2) * stride
                    dx, dy = w * math.exp(t[2]) / 2, h * math.exp(t[3]) / 2
                    assert box[1, prior].tolist() == pytest.approx([x - dx, y - dy, x + dx, y + dy], rel=1e-4, abs=1e-3)
                    assert score[1, prior, 1].item() == pytest.approx((sigmoid(t[4]) * sigmoid(t[6])).item(), rel=1e-4)
                    prior += 1
    assert prior == box.shape[1] == score.shape[1]


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"scale_x_y": (1.0, 1.0)}, "one per scale"),
        ({"scale_x_y": (0.5, 1.0, 1.0)}, "from 1 to 2"),
        ({"anchors": (((1.0, 2.0),), ((1.0, 2.0), (3.0, 4.0)), ((1.0, 2.0),))}, "same number of anchors"),
        ({"anchors": (((1.0, 0.0),),) * 3}, "above 0"),
    ],
)
def test_heads_that_make_no_sense_are_refused(values, word):
    with pytest.raises(ValidationError, match=word):
        YoloHeadConfig(**values)
