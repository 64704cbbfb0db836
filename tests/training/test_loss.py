"""The loss: numbers worked out by hand, a plain-loop second implementation, and laws."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision

from cspdet.errors import ConfigError
from cspdet.models.config import YoloHeadConfig
from cspdet.models.head import Anchors
from cspdet.models.postprocess import decode_boxes
from cspdet.recipe import load_recipe
from cspdet.structures import Targets
from cspdet.training.assigners.anchor_iou import assign_by_anchor_iou
from cspdet.training.assigners.config import AnchorIoUConfig, SimOTAConfig
from cspdet.training.assigners.priors import PriorLayout, ignore_mask
from cspdet.training.assigners.simota import assign_simota
from cspdet.training.losses.class_weights import class_weights, weights_from_counts
from cspdet.training.losses.config import YoloLossConfig
from cspdet.training.losses.focal import focal_cross_entropy
from cspdet.training.losses.yolo import Losses, yolo_loss

CONFIG = Path(__file__).parents[2] / "configs/csppelee_efm_sam.yaml"
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


def test_zero_logits_without_boxes_cost_log_2_per_prior():
    raw = (torch.zeros(2, 1, 3, 4, 5 + CLASSES),)
    losses = yolo_loss(raw, no_targets(), ONE, YoloLossConfig(normalizer="images"), AnchorIoUConfig().build())
    assert losses.objectness.item() == pytest.approx(12 * math.log(2))  # 24 slots over 2 pictures
    assert losses.box.item() == losses.classes.item() == 0


def test_a_perfect_box_costs_only_its_doubts():
    # one cell of 8 pixels, anchor 16x16, truth 16x16 centered in the cell: zero logits are the exact box
    raw = (torch.zeros(1, 1, 1, 1, 5 + CLASSES),)
    truth = Targets(torch.tensor([0]), torch.tensor([1]), torch.tensor([[-4.0, -4, 12, 12]]), torch.tensor([False]))
    for kind in ("iou", "giou", "diou", "ciou"):
        losses = yolo_loss(raw, truth, ONE, YoloLossConfig(box=kind), AnchorIoUConfig().build())
        assert losses.box.item() == pytest.approx(0, abs=1e-5)
        assert losses.objectness.item() == pytest.approx(math.log(2))
        assert losses.classes.item() == pytest.approx(CLASSES * math.log(2))


def test_mse_of_a_box_in_the_middle_of_its_cell():
    raw = (torch.zeros(1, 1, 4, 4, 5 + CLASSES),)
    truth = Targets(torch.tensor([0]), torch.tensor([1]), torch.tensor([[4.0, 4, 20, 20]]), torch.tensor([False]))
    losses = yolo_loss(raw, truth, ONE, YoloLossConfig(box="mse", box_weight=1.0), AnchorIoUConfig().build())
    # the size is the anchor's; sigmoids of 0.5 cost the entropy of a coin each; weight 2 - 16 * 16 / (32 * 32)
    assert losses.box.item() == pytest.approx(2 * math.log(2) * 1.75)


def test_mse_gradients_are_target_minus_prediction():
    """YOLOv3, section 2.1: the gradient is the goal minus the prediction; Darknet weighs it by 2 - w h."""
    torch.manual_seed(0)
    raw = (torch.randn(1, 1, 4, 4, 5 + CLASSES).requires_grad_(),)
    truth = Targets(torch.tensor([0]), torch.tensor([1]), torch.tensor([[6.0, 7, 18, 27]]), torch.tensor([False]))
    yolo_loss(raw, truth, ONE, YoloLossConfig(box="mse", box_weight=1.0), AnchorIoUConfig().build()).box.backward()
    t, g = raw[0][0, 0, 2, 1].detach(), raw[0].grad[0, 0, 2, 1]  # center (12, 17): column 1, row 2
    weight = 2 - 12 * 20 / (32 * 32)
    target = torch.tensor([12 / 8 - 1, 17 / 8 - 2, math.log(12 / 16), math.log(20 / 16)])
    actual = torch.cat((t[:2].sigmoid(), t[2:4]))
    torch.testing.assert_close(g[:4], weight * (actual - target))


RULES = {
    "static": AnchorIoUConfig(match_iou=0.3, ignore_iou=0.5),
    "ratio and neighbors": AnchorIoUConfig(match_ratio=2.0, neighbors=3, ignore_iou=0.5),
    "dynamic": SimOTAConfig(ignore_iou=0.5),
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
@pytest.mark.parametrize("target", ["one", "iou"])
@pytest.mark.parametrize("normalizer", ["positives", "images"])
def test_a_plain_loop_computes_the_same(target, normalizer, rule):
    raw, truth = random_raw(), some_targets()
    loss = YoloLossConfig(
        box="ciou", normalizer=normalizer, objectness_target=target, label_smoothing=0.1, box_weight=2.0
    )
    found = yolo_loss(raw, truth, ANCHORS, loss, rule.build())

    flat = torch.cat([level.flatten(1, 3) for level in raw], dim=1)
    predicted = decode_boxes(raw, ANCHORS)
    layout = PriorLayout.from_level_sizes([(n, n) for n in CELLS], 3, torch.device("cpu"))
    positive = (
        assign_by_anchor_iou(truth, ANCHORS, layout, rule.match_iou, rule.match_ratio, rule.neighbors)
        if rule.name == "anchor_iou"
        else assign_simota(raw, predicted, truth, ANCHORS, layout, rule)
    )
    skip = ignore_mask(predicted, truth, ANCHORS, layout, rule.ignore_iou)
    taken = {(int(i), int(s)): int(t) for i, s, t in zip(*positive, strict=True)}
    box = objectness = classes = 0.0
    for image in range(2):
        for prior in range(layout.num_priors):
            values = flat[image, prior]
            if (image, prior) in taken:
                n = taken[image, prior]
                local, its = predicted[image, prior][None], truth.box_xyxy[n][None]
                box += torchvision.ops.complete_box_iou_loss(local, its)[0]
                aim = torchvision.ops.box_iou(local, its)[0, 0].detach() if target == "iou" else torch.tensor(1.0)
                objectness += F.binary_cross_entropy_with_logits(values[4], aim)
                labels = torch.full((CLASSES,), 0.05)
                labels[truth.class_id[n]] = 0.95
                classes += F.binary_cross_entropy_with_logits(values[5:], labels, reduction="sum")
            elif not skip[image, prior]:
                objectness += F.binary_cross_entropy_with_logits(values[4], torch.tensor(0.0))
    count = len(taken) if normalizer == "positives" else 2
    assert found.box.item() == pytest.approx(float((2 * box).detach()) / count, rel=1e-4)
    assert found.objectness.item() == pytest.approx(float(objectness.detach()) / count, rel=1e-4)
    assert found.classes.item() == pytest.approx(float(classes.detach()) / count, rel=1e-4)


@pytest.mark.parametrize("rule", [AnchorIoUConfig(match_iou=0.2), SimOTAConfig()], ids=("static", "dynamic"))
@pytest.mark.parametrize("focal", ["none", "both"])
@pytest.mark.parametrize("kind", ["mse", "iou", "giou", "diou", "ciou"])
def test_losses_and_gradients_are_finite_even_for_wild_outputs(kind, focal, rule):
    raw = random_raw(spread=100.0)
    loss = YoloLossConfig(box=kind, focal=focal, focal_gamma=0.5, objectness_target="iou")
    yolo_loss(raw, some_targets(), ANCHORS, loss, rule.build()).total.backward()
    assert all(level.grad.isfinite().all() for level in raw)


def test_the_loss_of_half_precision_outputs_is_in_fp32():
    raw = random_raw()
    full = yolo_loss(raw, some_targets(), ANCHORS, YoloLossConfig(), AnchorIoUConfig().build())
    half = yolo_loss(
        tuple(level.bfloat16() for level in raw),
        some_targets(),
        ANCHORS,
        YoloLossConfig(),
        AnchorIoUConfig().build(),
    )
    assert all(part.dtype == torch.float32 for part in half)
    assert half.total.item() == pytest.approx(full.total.item(), rel=0.02)


def test_a_crowd_is_ignored_and_a_truth_always_positive():
    """All slots whose box lies in the crowd get no gradient of objectness; without the crowd they do."""
    raw = tuple(torch.zeros(1, 3, n, n, 5 + CLASSES).requires_grad_() for n in CELLS)
    box = torch.tensor([[0.0, 0, 128, 128]])
    crowd = Targets(torch.tensor([0]), torch.tensor([0]), box, torch.tensor([True]))
    yolo_loss(raw, crowd, ANCHORS, YoloLossConfig(), AnchorIoUConfig().build()).total.backward()
    # anchors of 10x13 to 33x23, away from the border: inside by more than half
    assert raw[0].grad[..., 2:-2, 2:-2, :].abs().sum() == 0
    raw[0].grad = None
    yolo_loss(raw, no_targets(), ANCHORS, YoloLossConfig(), AnchorIoUConfig().build()).total.backward()
    assert (raw[0].grad[..., 4] > 0).all()


# --- focal loss ----------------------------------------------------------------------------------


def test_focal_loss_of_a_coin_is_an_eighth_or_so_of_the_cross_entropy():
    # p = 1/2: (1/2)^2 log 2, a quarter of it for a positive and three quarters for a negative
    loss = focal_cross_entropy(torch.zeros(2), torch.tensor([1.0, 0.0]), gamma=2.0, alpha=0.25)
    assert loss.tolist() == pytest.approx([math.log(2) / 4 * 0.25, math.log(2) / 4 * 0.75])
    # a goal between, 0.75: the distance is 1/4; log 2 as for any goal of a coin; alpha 0.75 * 0.25 + 0.25 * 0.75
    loss = focal_cross_entropy(torch.zeros(1), torch.tensor([0.75]), gamma=2.0, alpha=0.25)
    assert loss.item() == pytest.approx(math.log(2) / 16 * 0.375)


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (1.5, None), (0.5, 0.9)])
def test_focal_loss_of_hard_targets_is_torchvisions(gamma, alpha):
    torch.manual_seed(0)
    logits, target = torch.randn(200) * 4, (torch.rand(200) < 0.3).float()
    actual = focal_cross_entropy(logits, target, gamma, alpha)
    theirs = torchvision.ops.sigmoid_focal_loss(logits, target, -1 if alpha is None else alpha, gamma)
    torch.testing.assert_close(actual, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("focal", ["objectness", "class", "both"])
def test_focal_loss_is_applied_to_the_configured_terms(focal):
    raw, truth = random_raw(), some_targets()
    plain = YoloLossConfig(label_smoothing=0.1, objectness_target="iou")
    without = yolo_loss(raw, truth, ANCHORS, plain, AnchorIoUConfig().build())
    same = yolo_loss(
        raw,
        truth,
        ANCHORS,
        plain.model_copy(update={"focal": focal, "focal_gamma": 0.0, "focal_alpha": None}),
        AnchorIoUConfig().build(),
    )
    torch.testing.assert_close(tuple(same), tuple(without))  # gamma 0 is the cross-entropy
    sharp = yolo_loss(raw, truth, ANCHORS, plain.model_copy(update={"focal": focal}), AnchorIoUConfig().build())
    smaller = [name for name, a, b in zip(Losses._fields, sharp, without, strict=True) if a < b * 0.9]
    assert smaller == {"objectness": ["objectness"], "class": ["classes"], "both": ["objectness", "classes"]}[focal]


# --- weights of classes ---------------------------------------------------------------------------


def test_weights_of_ones_change_nothing():
    raw, truth = random_raw(), some_targets()
    for loss in (YoloLossConfig(), YoloLossConfig(focal="both")):
        plain = yolo_loss(raw, truth, ANCHORS, loss, AnchorIoUConfig().build())
        assert yolo_loss(raw, truth, ANCHORS, loss, AnchorIoUConfig().build(), torch.ones(CLASSES)) == plain


def test_the_weight_of_a_class_is_that_of_its_boxes():
    # zero logits cost CLASSES * log 2 a positive; two positives of the classes 0 and 2
    raw = tuple(torch.zeros(1, 3, n, n, 5 + CLASSES) for n in CELLS)
    box = torch.tensor([[5.0, 5, 20, 30], [40, 40, 110, 100]])
    truth = Targets(torch.tensor([0, 0]), torch.tensor([0, 2]), box, torch.tensor([False, False]))
    weight = torch.tensor([3.0, 100.0, 0.5])
    found, plain = (
        yolo_loss(raw, truth, ANCHORS, YoloLossConfig(), AnchorIoUConfig().build(), w) for w in (weight, None)
    )
    assert found.classes.item() == pytest.approx((3 + 0.5) / 2 * CLASSES * math.log(2))
    assert (found.box, found.objectness) == (plain.box, plain.objectness)


def test_rare_classes_weigh_more_and_the_mean_over_the_boxes_is_one():
    # roots 10 and 5: 1/10 and 1/5, whose mean over 125 boxes is (10 + 5) / 125 = 0.12
    weight = weights_from_counts(torch.tensor([100, 25]))
    assert weight.tolist() == pytest.approx([0.1 / 0.12, 0.2 / 0.12])
    counts = torch.tensor([4000, 0, 37, 1])
    weight = weights_from_counts(counts)
    assert float((weight * counts).sum() / counts.sum()) == pytest.approx(1)
    assert weight[0] < weight[2] < weight[3] == weight[1]  # no box counts as one
    assert weights_from_counts(torch.tensor([0, 0])).tolist() == [1, 1]
    assert weights_from_counts(torch.tensor([7])).tolist() == [1]


def test_class_weights_of_a_config():
    names = ("rbc", "wbc", "platelet")
    assert class_weights(YoloLossConfig(), (5, 6, 7), names) is None
    auto = class_weights(YoloLossConfig(class_weights="auto"), (100, 25, 25), names)
    assert auto is not None
    assert auto.tolist() == pytest.approx(weights_from_counts(torch.tensor([100, 25, 25])).tolist())
    listed = class_weights(YoloLossConfig(class_weights=(1.0, 2.0, 0.5)), (5, 6, 7), names)
    assert listed is not None
    assert listed.tolist() == [1, 2, 0.5]
    with pytest.raises(ConfigError, match=r"class_weights: expected 3 numbers, one a class \(rbc, wbc, .*found 2"):
        class_weights(YoloLossConfig(class_weights=(1.0, 2.0)), (5, 6, 7), names)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.loss.class_weights=[1, -2]", "train.loss.class_weights[1]: expected greater than 0, found -2"),
        ("train.loss.class_weights=atuo", "did you mean 'auto'"),
        ("train.loss.class_weights=3", "train.loss.class_weights: expected a list, found 3"),
        ("train.loss.focal=objectnes", "did you mean 'objectness'"),
        ("train.loss.focal_gamma=-1", "train.loss.focal_gamma"),
        ("train.loss.focal_alpha=1", "train.loss.focal_alpha"),
        ("train.assigner.neighbors=2", "train.assigner.neighbors"),
        ("train.assigner.match_ratio=1", "train.assigner.match_ratio"),
        ("train.assigner.name=simotta", "did you mean 'simota'"),
        ("train.assigner={name: simota, radius: 0.5}", "train.assigner.radius"),
        ("train.assigner={name: simota, candidate_top: 3}", "did you mean 'candidate_topk'"),
    ],
)
def test_a_mistake_in_a_setting_is_named(override, expected):
    with pytest.raises(ConfigError) as error:
        load_recipe(CONFIG, [override])
    assert expected in str(error.value)
    assert len(error.value.problems) == 1


def test_settings_are_read():
    overrides = ["train.loss.class_weights=[1, 0.5]", "train.assigner.name=simota", "train.assigner.candidate_topk=5"]
    train = load_recipe(CONFIG, overrides).train
    assert train.loss.class_weights == (1.0, 0.5)
    assert train.assigner == SimOTAConfig(candidate_topk=5)
    assert load_recipe(CONFIG, ["train.loss.class_weights=auto"]).train.loss.class_weights == "auto"


# --- many processes -------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
@pytest.mark.parametrize("normalizer", ["positives", "images"])
def test_the_losses_of_two_processes_add_up_to_that_of_one(normalizer, rule):
    """Three pictures here, one there, and three of four boxes here: neither half could divide by its own count."""
    raw = random_raw(images=4)
    box = torch.tensor([[5.0, 5, 20, 30], [40, 40, 110, 100], [50, 8, 70, 40], [0, 60, 120, 128]])
    truth = Targets(torch.tensor([0, 0, 1, 3]), torch.tensor([0, 2, 1, 0]), box, torch.zeros(4).bool())
    loss = YoloLossConfig(normalizer=normalizer, objectness_target="iou")
    whole = yolo_loss(raw, truth, ANCHORS, loss, rule.build())
    whole_gradient = torch.autograd.grad(whole.total, raw)

    halves = []
    for low, high in ((0, 3), (3, 4)):
        local = (truth.image_index >= low) & (truth.image_index < high)
        part = Targets(*(values[local] for values in truth))
        halves.append((tuple(level[low:high] for level in raw), part._replace(image_index=part.image_index - low)))
    counts: list[torch.Tensor] = []
    for part_raw, part in halves:
        yolo_loss(
            part_raw, part, ANCHORS, loss, rule.build(), all_reduce_sum=lambda count: counts.append(count) or count
        )
    assert len(counts) == 2  # once in every call: a collective that all enter
    assert len({float(count) for count in counts}) == 2
    total = torch.stack(counts).sum()
    parts = [
        yolo_loss(part_raw, part, ANCHORS, loss, rule.build(), all_reduce_sum=lambda _: total)
        for part_raw, part in halves
    ]
    for name, one in whole._asdict().items():
        torch.testing.assert_close(sum(getattr(part, name) for part in parts), one, rtol=1e-6, atol=1e-6)
    gradient = torch.autograd.grad(parts[0].total + parts[1].total, raw)
    torch.testing.assert_close(gradient, whole_gradient, rtol=1e-5, atol=1e-7)


def test_a_process_without_boxes_divides_by_those_of_the_others():
    raw = (torch.zeros(2, 1, 3, 4, 5 + CLASSES),)
    losses = yolo_loss(
        raw, no_targets(), ONE, YoloLossConfig(), AnchorIoUConfig().build(), all_reduce_sum=lambda count: count + 6
    )
    assert losses.objectness.item() == pytest.approx(24 / 6 * math.log(2))
    assert losses.box.item() == losses.classes.item() == 0
