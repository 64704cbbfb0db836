"""Threshold, class-wise NMS, order and limits, against hand-worked boxes, laws and a plain double loop."""

from __future__ import annotations

import importlib
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cspdet.boxes import iou
from cspdet.models import postprocess as module
from cspdet.models.config import PostprocessConfig, YoloHeadConfig
from cspdet.models.postprocess import _load_nms, decode, decode_and_nms, postprocess, vote_boxes
from cspdet.structures import FeatureSpec

LOOSE = PostprocessConfig(min_score=0.1, nms_iou=0.5, max_detections=100)


def loose(**changes: Any) -> PostprocessConfig:
    """LOOSE with some values replaced."""
    return LOOSE.model_copy(update=changes)


def test_nms_of_three_boxes():
    # A (0..10) scores 0.9, B (1..11) 0.8: shared 9 x 10 = 90, union 200 - 90 = 110, IoU 0.818 > 0.5: B goes.
    # C (5..15): shared with A 5 x 10 = 50, union 150, IoU 1/3: C stays.
    box = torch.tensor([[[0.0, 0, 10, 10], [1, 0, 11, 10], [5, 0, 15, 10]]])
    score = torch.tensor([[[0.9], [0.8], [0.7]]])[:, [1, 0, 2]]
    (found,) = postprocess(box[:, [1, 0, 2]], score, LOOSE)
    assert found.box_xyxy.tolist() == [[0.0, 0, 10, 10], [5.0, 0, 15, 10]]
    assert found.score.tolist() == pytest.approx([0.9, 0.7])


def test_max_iou_is_the_highest_overlap_that_stays():
    # IoU of (0..10) and (5..15) is exactly 1/3.
    box, score = torch.tensor([[[0.0, 0, 10, 10], [5, 0, 15, 10]]]), torch.tensor([[[0.9], [0.8]]])
    for max_iou, count in ((0.34, 2), (0.33, 1), (1.0, 2), (0.0, 1)):
        assert len(postprocess(box, score, loose(nms_iou=max_iou))[0]) == count


def test_a_prior_gives_every_class_above_the_threshold_and_classes_do_not_suppress_each_other():
    box = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 10]]])
    score = torch.tensor([[[0.9, 0.3, 0.1], [0.5, 0.6, 0.05]]])  # 0.1 is not above 0.1
    (found,) = postprocess(box, score, LOOSE)
    assert found.class_id.tolist() == [
        0,
        1,
    ]  # (slot 0, class 0) and (slot 1, class 1); the others overlap them
    assert found.score.tolist() == pytest.approx([0.9, 0.6])


def test_classes_stay_apart_for_boxes_far_outside_the_image():
    box = torch.tensor([[[-1e30, -1e30, 1e30, 1e30], [-1e30, -1e30, 1e30, 1e30]]])
    (found,) = postprocess(box, torch.tensor([[[0.9, 0.0], [0.0, 0.8]]]), LOOSE)
    assert found.class_id.tolist() == [0, 1]


def test_what_is_not_finite_never_comes_out():
    nan, inf = float("nan"), float("inf")
    box = torch.tensor([[[0.0, 0, 10, 10], [nan, 0, 5, 5], [0, 0, inf, 5], [20, 20, 30, 30], [40, 40, 50, 50]]])
    score = torch.tensor([[[0.5], [0.9], [0.9], [nan], [inf]]])
    (found,) = postprocess(box, score, LOOSE)
    assert found.box_xyxy.tolist() == [[0.0, 0, 10, 10]]


def test_equal_scores_keep_the_order_of_priors_also_when_candidates_are_limited():
    count = 200  # more than 30 candidates for one detection
    left = torch.arange(count).float() * 20
    box = torch.stack((left, left * 0, left + 10, left * 0 + 10), dim=-1)[None]
    (found,) = postprocess(box, torch.full((1, count, 1), 0.5), loose(max_detections=3))
    assert found.box_xyxy[:, 0].tolist() == [0.0, 20.0, 40.0]


def test_nothing_found_and_no_classes_are_legal():
    for classes in (0, 3):
        found = postprocess(torch.rand(2, 5, 4), torch.zeros(2, 5, classes), LOOSE)
        assert [len(one) for one in found] == [0, 0]
        assert found[0].box_xyxy.shape == (0, 4)


def reference(box: Tensor, score: Tensor, min_score: float, max_iou: float, limit: int) -> list[tuple[int, int]]:
    """NMS as a textbook writes it, one pair after the other: (slot, class), best first."""
    pairs = [(s, c) for s in range(score.shape[0]) for c in range(score.shape[1]) if score[s, c] > min_score]
    pairs.sort(key=lambda pair: -float(score[pair]))
    kept: list[tuple[int, int]] = []
    for prior, kind in pairs:
        if all(other != kind or float(iou(box[prior], box[s])) <= max_iou for s, other in kept):
            kept.append((prior, kind))
    return kept[:limit]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), priors=st.integers(0, 60), classes=st.integers(1, 3), limit=st.integers(1, 9))
def test_agrees_with_a_double_loop_whatever_the_order_of_the_priors(seed, priors, classes, limit):
    random = torch.Generator().manual_seed(seed)
    corner = torch.rand(priors, 2, generator=random) * 40
    box = torch.cat((corner, corner + 5 + torch.rand(priors, 2, generator=random) * 40), dim=-1)
    score = torch.rand(priors, classes, generator=random)
    config = PostprocessConfig(min_score=0.2, nms_iou=0.45, max_detections=limit)
    expected = reference(box, score, 0.2, 0.45, limit)
    shuffled = torch.randperm(priors, generator=random)
    for order in (torch.arange(priors), shuffled):
        (found,) = postprocess(box[None, order], score[None, order], config)
        assert found.class_id.tolist() == [kind for _, kind in expected]
        assert found.score.tolist() == [float(score[pair]) for pair in expected]
        assert found.box_xyxy.tolist() == [box[prior].tolist() for prior, _ in expected]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_nms_of_its_own_result_changes_nothing(seed):
    random = torch.Generator().manual_seed(seed)
    corner = torch.rand(1, 50, 2, generator=random) * 40
    box = torch.cat((corner, corner + 20), dim=-1)
    (once,) = postprocess(box, torch.rand(1, 50, 1, generator=random), LOOSE)
    (twice,) = postprocess(once.box_xyxy[None], once.score[None, :, None], LOOSE)
    assert torch.equal(once.box_xyxy, twice.box_xyxy)
    assert torch.equal(once.score, twice.score)


@pytest.mark.parametrize("vote_iou", [None, 0.5])
@pytest.mark.parametrize("min_score", [0.0, 0.1, 0.6])
def test_detect_is_decode_and_postprocess(min_score, vote_iou):
    torch.manual_seed(3)
    specs = tuple(FeatureSpec(8, stride) for stride in (8, 16, 32))
    head = YoloHeadConfig().build(specs, num_classes=4)
    features = tuple(torch.randn(2, 8, 64 // stride, 96 // stride) * 200 for stride in (8, 16, 32))
    with torch.no_grad():
        raw = head(features)  # permuted views, as the network gives them
    config = PostprocessConfig(min_score=min_score, nms_iou=0.6, max_detections=20, vote_iou=vote_iou)
    expected, found = postprocess(*decode(raw, head.anchors), config), decode_and_nms(raw, head.anchors, config)
    assert any(len(one) for one in expected) or min_score > 0.5
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(a.box_xyxy, b.box_xyxy)
        torch.testing.assert_close(a.score, b.score)
        assert a.class_id.tolist() == b.class_id.tolist()


# --- box voting ----------------------------------------------------------------------------------


def test_a_box_becomes_the_average_of_those_that_overlap_it():
    # Overlaps with A (0..10): B (1..11) 90 / 110 = 0.818, C (5..15) 1/3; D is A's place in another class.
    box = torch.tensor([[[0.0, 0, 10, 10], [1, 0, 11, 10], [5, 0, 15, 10], [0, 0, 30, 10]]])
    score = torch.tensor([[[0.6, 0.0], [0.3, 0.0], [0.2, 0.0], [0.0, 0.5]]])
    (found,) = postprocess(box, score, loose(vote_iou=0.5))
    # A with B: (0.6 * 0 + 0.3 * 1) / 0.9 = 1/3. C overlaps B by 0.43, and stays as it is, as D does.
    assert found.box_xyxy.tolist() == pytest.approx(
        torch.tensor([[1 / 3, 0, 31 / 3, 10], [0, 0, 30, 10], [5, 0, 15, 10]])
    )
    assert found.score.tolist() == pytest.approx([0.6, 0.5, 0.2])
    assert found.class_id.tolist() == [0, 1, 0]
    # With 0.3, C votes for A too, and A and B for C: (0.6 * 0 + 0.3 * 1 + 0.2 * 5) / 1.1 = 1.1818.
    (found,) = postprocess(box, score, loose(vote_iou=0.3))
    assert found.box_xyxy[[0, 2], 0].tolist() == pytest.approx([13 / 11, 13 / 11])


def test_a_limit_of_one_moves_nothing_and_boxes_without_area_stay():
    box = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 10], [4, 4, 4, 4], [9, 9, 2, 2]]])
    score = torch.tensor([[[0.9], [0.8], [0.7], [0.6]]])
    plain = postprocess(box, score, LOOSE)[0]
    for vote_iou in (1.0, 0.5):
        voted = postprocess(box, score, loose(vote_iou=vote_iou))[0]
        assert torch.equal(voted.box_xyxy, plain.box_xyxy)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), priors=st.integers(0, 40), classes=st.integers(1, 3), pairs=st.integers(1, 300))
def test_voting_agrees_with_a_double_loop_in_pieces_of_any_length(seed, priors, classes, pairs):
    random = torch.Generator().manual_seed(seed)
    corner = torch.rand(priors, 2, generator=random, dtype=torch.float64) * 20
    box = torch.cat((corner, corner + 10 + torch.rand(priors, 2, generator=random, dtype=torch.float64) * 10), dim=-1)
    score = torch.rand(priors, generator=random, dtype=torch.float64) + 0.01
    kind = torch.randint(classes, (priors,), generator=random)
    kept = torch.randperm(priors, generator=random)[: priors // 2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_IOU_PAIRS", pairs)
        found = vote_boxes(box, score, kind, kept, 0.5)
    assert found.shape == (len(kept), 4)
    for moved, index in zip(found, kept.tolist(), strict=True):
        near = [s for s in range(priors) if kind[s] == kind[index] and (s == index or iou(box[s], box[index]) > 0.5)]
        expected = sum(score[s] * box[s] for s in near) / sum(score[s] for s in near)
        torch.testing.assert_close(moved, expected, rtol=1e-9, atol=1e-9)


def test_voting_changes_neither_scores_nor_classes():
    random = torch.Generator().manual_seed(0)
    corner = torch.rand(1, 80, 2, generator=random) * 40
    box, score = torch.cat((corner, corner + 15), dim=-1), torch.rand(1, 80, 2, generator=random)
    plain, voted = postprocess(box, score, LOOSE)[0], postprocess(box, score, loose(vote_iou=0.6))[0]
    assert torch.equal(plain.score, voted.score)
    assert torch.equal(plain.class_id, voted.class_id)
    assert not torch.equal(plain.box_xyxy, voted.box_xyxy)


@pytest.mark.e2e
def test_nms_is_torchvisions_and_does_not_import_it():
    code = """
import sys, torch
from cspdet.models.postprocess import _load_nms
box = torch.rand(50, 4, generator=torch.Generator().manual_seed(0)).double()
box[:, 2:] += box[:, :2]
score = torch.arange(50).flip(0).double()
kept = _load_nms()(box, score, 0.5)
assert "torchvision" not in sys.modules and "torch._dynamo" not in sys.modules
import torchvision
assert 0 < len(kept) < 50 and torch.equal(kept, torchvision.ops.nms(box, score, 0.5))
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_the_library_torchvision_is_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", importlib.import_module("torchvision"))
    _load_nms.cache_clear()
    box = torch.tensor([[0.0, 0, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30]])
    assert _load_nms()(box, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist() == [0, 2]
    _load_nms.cache_clear()
