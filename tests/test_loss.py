"""The loss: numbers worked out by hand, a plain-loop second implementation, and laws."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
import torchvision

from cspdet.models.head import Anchors, YoloHeadConfig, decode_boxes
from cspdet.training.assign import AssignConfig, Slots, assign, unpunished
from cspdet.training.loss import LossConfig, yolo_loss
from cspdet.types import Targets

ANCHORS = Anchors(YoloHeadConfig(scale_x_y=(1.2, 1.1, 1.05)), (8, 16, 32))
ONE = Anchors(YoloHeadConfig(anchors=(((16.0, 16.0),),), scale_x_y=(1.0,)), (8,))
CELLS = (16, 8, 4)
CLASSES = 3


def random_raw(images: int = 2, spread: float = 1.0) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(1)
    return tuple((torch.randn(images, 3, n, n, 5 + CLASSES) * spread).requires_grad_() for n in CELLS)


def some_targets() -> Targets:
    box = torch.tensor([[5.0, 5, 20, 30], [40, 40, 110, 100], [50, 8, 70, 40], [0, 60, 120, 128]])
    crowd = torch.tensor([False, False, False, True])
    return Targets(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 2, 1, 0]), box, crowd)


def no_targets() -> Targets:
    return Targets(torch.zeros(0).long(), torch.zeros(0).long(), torch.zeros(0, 4), torch.zeros(0).bool())


def test_zero_logits_without_boxes_cost_log_2_a_slot():
    raw = (torch.zeros(2, 1, 3, 4, 5 + CLASSES),)
    losses = yolo_loss(raw, no_targets(), ONE, LossConfig(normalizer="images"), AssignConfig())
    assert losses.objectness.item() == pytest.approx(12 * math.log(2))  # 24 slots over 2 pictures
    assert losses.box.item() == losses.classes.item() == 0


def test_a_perfect_box_costs_only_its_doubts():
    # one cell of 8 pixels, anchor 16x16, truth 16x16 centered in the cell: zero logits are the exact box
    raw = (torch.zeros(1, 1, 1, 1, 5 + CLASSES),)
    truth = Targets(torch.tensor([0]), torch.tensor([1]), torch.tensor([[-4.0, -4, 12, 12]]), torch.tensor([False]))
    for kind in ("iou", "giou", "diou", "ciou"):
        losses = yolo_loss(raw, truth, ONE, LossConfig(box=kind), AssignConfig())
        assert losses.box.item() == pytest.approx(0, abs=1e-5)
        assert losses.objectness.item() == pytest.approx(math.log(2))
        assert losses.classes.item() == pytest.approx(CLASSES * math.log(2))


def test_mse_of_a_box_in_the_middle_of_its_cell():
    raw = (torch.zeros(1, 1, 4, 4, 5 + CLASSES),)
    truth = Targets(torch.tensor([0]), torch.tensor([1]), torch.tensor([[4.0, 4, 20, 20]]), torch.tensor([False]))
    losses = yolo_loss(raw, truth, ONE, LossConfig(box="mse", box_weight=1.0), AssignConfig())
    # the size is the anchor's; sigmoids of 0.5 cost the entropy of a coin each; weight 2 - 16 * 16 / (32 * 32)
    assert losses.box.item() == pytest.approx(2 * math.log(2) * 1.75)


def test_mse_gradients_are_goal_minus_prediction():
    """YOLOv3, section 2.1: the gradient is the goal minus the prediction; Darknet weighs it by 2 - w h."""
    torch.manual_seed(0)
    raw = (torch.randn(1, 1, 4, 4, 5 + CLASSES).requires_grad_(),)
    truth = Targets(torch.tensor([0]), torch.tensor([1]), torch.tensor([[6.0, 7, 18, 27]]), torch.tensor([False]))
    yolo_loss(raw, truth, ONE, LossConfig(box="mse", box_weight=1.0), AssignConfig()).box.backward()
    t, g = raw[0][0, 0, 2, 1].detach(), raw[0].grad[0, 0, 2, 1]  # center (12, 17): column 1, row 2
    weight = 2 - 12 * 20 / (32 * 32)
    goal = torch.tensor([12 / 8 - 1, 17 / 8 - 2, math.log(12 / 16), math.log(20 / 16)])
    ours = torch.cat((t[:2].sigmoid(), t[2:4]))
    torch.testing.assert_close(g[:4], weight * (ours - goal))


@pytest.mark.parametrize("goal", ["one", "iou"])
@pytest.mark.parametrize("normalizer", ["positives", "images"])
def test_a_plain_loop_computes_the_same(goal, normalizer):
    raw, truth = random_raw(), some_targets()
    loss = LossConfig(box="ciou", normalizer=normalizer, objectness_goal=goal, label_smoothing=0.1, box_weight=2.0)
    rule = AssignConfig(match_iou=0.3, ignore_iou=0.5)
    found = yolo_loss(raw, truth, ANCHORS, loss, rule)

    flat = torch.cat([level.flatten(1, 3) for level in raw], dim=1)
    predicted = decode_boxes(raw, ANCHORS)
    slots = Slots.of([(n, n) for n in CELLS], 3, torch.device("cpu"))
    positive = assign(truth, ANCHORS, slots, rule.match_iou)
    skip = unpunished(predicted, truth, ANCHORS, slots, rule.ignore_iou)
    taken = {(int(i), int(s)): int(t) for i, s, t in zip(*positive, strict=True)}
    box = objectness = classes = 0.0
    for image in range(2):
        for slot in range(slots.total):
            values = flat[image, slot]
            if (image, slot) in taken:
                n = taken[image, slot]
                mine, its = predicted[image, slot][None], truth.box_xyxy[n][None]
                box += torchvision.ops.complete_box_iou_loss(mine, its)[0]
                aim = torchvision.ops.box_iou(mine, its)[0, 0].detach() if goal == "iou" else torch.tensor(1.0)
                objectness += F.binary_cross_entropy_with_logits(values[4], aim)
                labels = torch.full((CLASSES,), 0.05)
                labels[truth.class_id[n]] = 0.95
                classes += F.binary_cross_entropy_with_logits(values[5:], labels, reduction="sum")
            elif not skip[image, slot]:
                objectness += F.binary_cross_entropy_with_logits(values[4], torch.tensor(0.0))
    count = len(taken) if normalizer == "positives" else 2
    assert found.box.item() == pytest.approx(float((2 * box).detach()) / count, rel=1e-4)
    assert found.objectness.item() == pytest.approx(float(objectness.detach()) / count, rel=1e-4)
    assert found.classes.item() == pytest.approx(float(classes.detach()) / count, rel=1e-4)


@pytest.mark.parametrize("kind", ["mse", "iou", "giou", "diou", "ciou"])
def test_losses_and_gradients_are_finite_even_for_wild_outputs(kind):
    raw = random_raw(spread=100.0)
    yolo_loss(raw, some_targets(), ANCHORS, LossConfig(box=kind), AssignConfig(match_iou=0.2)).total.backward()
    assert all(level.grad.isfinite().all() for level in raw)


def test_half_precision_outputs_are_judged_in_fp32():
    raw = random_raw()
    full = yolo_loss(raw, some_targets(), ANCHORS, LossConfig(), AssignConfig())
    half = yolo_loss(tuple(level.bfloat16() for level in raw), some_targets(), ANCHORS, LossConfig(), AssignConfig())
    assert all(part.dtype == torch.float32 for part in half)
    assert half.total.item() == pytest.approx(full.total.item(), rel=0.02)


def test_a_crowd_is_never_punished_and_a_truth_always_rewarded():
    """All slots whose box lies in the crowd get no gradient of objectness; without the crowd they do."""
    raw = tuple(torch.zeros(1, 3, n, n, 5 + CLASSES).requires_grad_() for n in CELLS)
    box = torch.tensor([[0.0, 0, 128, 128]])
    crowd = Targets(torch.tensor([0]), torch.tensor([0]), box, torch.tensor([True]))
    yolo_loss(raw, crowd, ANCHORS, LossConfig(), AssignConfig()).total.backward()
    # anchors of 10x13 to 33x23, away from the border: inside by more than half
    assert raw[0].grad[..., 2:-2, 2:-2, :].abs().sum() == 0
    raw[0].grad = None
    yolo_loss(raw, no_targets(), ANCHORS, LossConfig(), AssignConfig()).total.backward()
    assert (raw[0].grad[..., 4] > 0).all()
