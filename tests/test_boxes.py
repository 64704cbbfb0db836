"""Box algebra against numbers worked out by hand, torchvision, and laws."""

from __future__ import annotations

import math

import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st

from cspdet import boxes
from cspdet.letterbox import Letterbox

SIDE = st.floats(-500, 500, allow_nan=False, width=32)
SPAN = st.floats(0.5, 400, allow_nan=False, width=32)
BOX = st.tuples(SIDE, SIDE, SPAN, SPAN).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))


def tensor(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def test_iou_of_two_squares_that_share_a_corner():
    # 2x2 squares shifted by (1, 1): 1 shared of 4 + 4 - 1
    assert boxes.iou(tensor((0, 0, 2, 2)), tensor((1, 1, 3, 3))).item() == pytest.approx(1 / 7)


def test_penalties_of_two_squares_that_share_a_corner():
    a, b = tensor((0, 0, 2, 2)), tensor((1, 1, 3, 3))
    # the hull is 3x3 = 9 and 7 of it are covered; centers (1, 1) and (2, 2), diagonal squared 18
    assert boxes.bbox_iou(a, b, "giou").item() == pytest.approx(1 / 7 - 2 / 9, abs=1e-6)
    assert boxes.bbox_iou(a, b, "diou").item() == pytest.approx(1 / 7 - 2 / 18, abs=1e-6)
    assert boxes.bbox_iou(a, b, "ciou").item() == pytest.approx(1 / 7 - 2 / 18, abs=1e-6)  # same aspect


def test_ciou_of_a_wide_and_a_tall_box_on_one_center():
    a, b = tensor((-2, -1, 2, 1)), tensor((-1, -2, 1, 2))
    iou = 4 / 12
    v = 4 / math.pi**2 * (math.atan(2) - math.atan(1 / 2)) ** 2
    assert boxes.bbox_iou(a, b, "ciou").item() == pytest.approx(iou - v * v / (1 - iou + v), abs=1e-6)


@given(a=BOX, b=BOX)
def test_pairs_agree_with_torchvision(a, b):
    first, second = tensor(a), tensor(b)
    assert boxes.iou(first, second).item() == pytest.approx(torchvision.ops.box_iou(first, second).item(), abs=1e-9)
    for kind, loss in [
        ("giou", torchvision.ops.generalized_box_iou_loss),
        ("diou", torchvision.ops.distance_box_iou_loss),
        ("ciou", torchvision.ops.complete_box_iou_loss),
    ]:
        actual = boxes.bbox_iou(first, second, kind).item()
        assert actual == pytest.approx(1 - loss(first, second).item(), abs=1e-5), kind


@given(a=BOX, b=BOX)
def test_iou_is_symmetric_bounded_and_one_on_itself(a, b):
    first, second = tensor(a), tensor(b)
    assert boxes.iou(first, second) == boxes.iou(second, first)
    assert 0 <= boxes.iou(first, second).item() <= 1
    assert boxes.iou(first, first).item() == pytest.approx(1)


@given(box=BOX)
def test_conversions_undo_each_other(box):
    there = tensor(box)
    torch.testing.assert_close(boxes.cxcywh_to_xyxy(boxes.xyxy_to_cxcywh(there)), there)


def test_empty_boxes_overlap_nothing():
    empty = tensor((3, 3, 3, 3))
    assert boxes.iou(empty, empty).item() == 0
    assert boxes.iou(empty, tensor((0, 0, 9, 9))).item() == 0


@given(
    height=st.integers(1, 4000), width=st.integers(1, 4000), side=st.sampled_from([320, 416, 608]), box=BOX,
    resize=st.sampled_from(["letterbox", "stretch"]),
)  # fmt: skip
def test_letterbox_undo_reverses_apply(height, width, side, box, resize):
    letterbox = Letterbox.fit((height, width), (side, 2 * side), resize)
    there = tensor(box)
    torch.testing.assert_close(letterbox.to_image(letterbox.to_input(there)), there, rtol=1e-9, atol=1e-6)


@given(height=st.integers(1, 3000), width=st.integers(1, 3000), input_hw=st.sampled_from([(416, 416), (320, 640)]))
def test_a_letterboxed_image_fills_one_side_and_stays_inside(height, width, input_hw):
    letterbox = Letterbox.fit((height, width), input_hw)
    left, top, right, bottom = letterbox.to_input(tensor((0, 0, width, height)))[0].tolist()
    assert left >= 0
    assert top >= 0
    assert right <= input_hw[1] + 1e-6
    assert bottom <= input_hw[0] + 1e-6
    assert abs((right - left) - input_hw[1]) < 1e-6 or abs((bottom - top) - input_hw[0]) < 1e-6
