"""The dynamic rule: hand-made cases, a plain loop over boxes and slots, and laws."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cspdet import boxes
from cspdet.models.config import YoloHeadConfig
from cspdet.models.head import Anchors
from cspdet.models.postprocess import decode_boxes
from cspdet.structures import Targets
from cspdet.training.assigners.config import SimOTAConfig
from cspdet.training.assigners.priors import Assignment, PriorLayout
from cspdet.training.assigners.simota import assign_simota, class_cost, dynamic_k

ANCHORS = Anchors(YoloHeadConfig(anchors=(((10, 13), (30, 20)), ((40, 30), (60, 60))), scale_x_y=(1.2, 1.1)), (8, 16))
CELLS = ((6, 8), (3, 4))  # height, width
HEIGHT, WIDTH = 48, 64
PRIORS = PriorLayout.from_level_sizes(list(CELLS), 2, torch.device("cpu"))


def targets(*rows: tuple[int, int, float, float, float, float], crowd: tuple[int, ...] = ()) -> Targets:
    """(image, class, x1, y1, x2, y2) a row; `crowd` lists the rows that are crowds."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    is_crowd = torch.zeros(len(rows), dtype=torch.bool)
    is_crowd[list(crowd)] = True
    return Targets(table[:, 0].long(), table[:, 1].long(), table[:, 2:], is_crowd)


SPAN = st.floats(2, 60, width=32)
ROW = st.tuples(
    st.integers(0, 1), st.integers(0, 2), st.floats(0, 60, width=32), st.floats(0, 44, width=32), SPAN, SPAN
).map(lambda r: (r[0], r[1], r[2], r[3], min(r[2] + r[4], WIDTH), min(r[3] + r[5], HEIGHT)))
CONFIG = st.builds(
    SimOTAConfig,
    candidate_topk=st.integers(1, 12),
    radius=st.sampled_from([0.6, 1.0, 1.5, 2.5]),
    iou_weight=st.sampled_from([0.0, 3.0]),
    center_weight=st.sampled_from([0.0, 1.0]),
)


def random_raw(seed: int, images: int = 2, classes: int = 3) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(images, 2, h, w, 5 + classes, generator=generator) for h, w in CELLS)


def assigned(raw: tuple[Tensor, ...], truth: Targets, config: SimOTAConfig) -> Assignment:
    return assign_simota(raw, decode_boxes(raw, ANCHORS), truth, ANCHORS, PRIORS, config)


class Offer(NamedTuple):
    """A slot that a box may have."""

    cost: float
    place: tuple[int, int]  # image, slot
    overlap: float


def offers(raw: tuple[Tensor, ...], truth: Targets, n: int, config: SimOTAConfig) -> list[Offer]:
    """A second way to the candidates of box n: every slot of its picture is looked at, one after another."""
    image, box, class_id = int(truth.image_index[n]), truth.box_xyxy[n], int(truth.class_id[n])
    predicted = decode_boxes(raw, ANCHORS)[image]
    x, y = float((box[0] + box[2]) / 2), float((box[1] + box[3]) / 2)
    found, prior_index = [], 0
    for level, (height, width) in enumerate(CELLS):
        for anchor in range(2):
            for row in range(height):
                for col in range(width):
                    stride = ANCHORS.strides[level]
                    dx, dy = col + 0.5 - x / stride, row + 0.5 - y / stride
                    if max(abs(dx), abs(dy)) < config.radius:
                        says = raw[level][image, anchor, row, col]
                        one_hot_target = F.one_hot(torch.tensor(class_id), len(says) - 5).float()
                        p = (says[5:].sigmoid() * says[4].sigmoid()).sqrt()
                        overlap = float(boxes.iou(predicted[prior_index], box))
                        cost = float(F.binary_cross_entropy(p, one_hot_target, reduction="sum"))
                        cost += -config.iou_weight * math.log(max(overlap, 1e-8))
                        cost += config.center_weight * 10 ** (math.hypot(dx, dy) - 3)
                        found.append(Offer(cost, (image, prior_index), overlap))
                    prior_index += 1
    return found


def by_plain_loops(raw: tuple[Tensor, ...], truth: Targets, config: SimOTAConfig) -> dict[tuple[int, int], int]:
    taken: dict[tuple[int, int], tuple[float, int]] = {}
    for n in range(len(truth.image_index)):
        if truth.is_crowd[n]:
            continue
        candidates = sorted(offers(raw, truth, n, config))
        best = sorted((offer.overlap for offer in candidates), reverse=True)[: config.candidate_topk]
        for offer in candidates[: max(1, int(sum(best)))]:
            taken[offer.place] = min(taken.get(offer.place, (math.inf, n)), (offer.cost, n))
    return {place: n for place, (_, n) in taken.items()}


@given(rows=st.lists(ROW, max_size=4), crowd=st.booleans(), seed=st.integers(0, 999), config=CONFIG)
@settings(max_examples=25)
def test_plain_loops_find_the_same(rows, crowd, seed, config):
    raw = random_raw(seed)
    truth = targets(*rows, crowd=(0,) if crowd and rows else ())
    found = assigned(raw, truth, config)
    served = {(i, s): t for i, s, t in zip(*(part.tolist() for part in found), strict=True)}
    assert served == by_plain_loops(raw, truth, config)


@given(rows=st.lists(ROW, max_size=20), seed=st.integers(0, 999), config=CONFIG)
@settings(max_examples=60)
def test_every_prior_serves_one_box_and_every_box_has_one_or_lost_it_to_a_cheaper(rows, seed, config):
    raw = random_raw(seed)
    crowd = tuple(range(0, len(rows), 5))
    truth = targets(*rows, crowd=crowd)
    found = assigned(raw, truth, config)
    places = (found.image * PRIORS.num_priors + found.prior).tolist()
    assert places == sorted(set(places))
    assert (found.image == truth.image_index[found.target]).all()
    assert not truth.is_crowd[found.target].any()
    counts = found.target.bincount(minlength=len(rows))
    assert (counts <= config.candidate_topk).all()
    for n in set(range(len(rows))) - set(crowd):
        alone = assigned(raw, targets(rows[n]), config)
        assert len(alone.prior) >= max(1, int(counts[n]))
        assert set((alone.image * PRIORS.num_priors + alone.prior).tolist()) <= set(
            places
        )  # its own, or those of rivals


def test_images_are_assigned_independently():
    raw, config = random_raw(5), SimOTAConfig()
    first, second = (0, 1, 5, 5, 40, 30), (1, 2, 20, 10, 60, 40)
    both = assigned(raw, targets(first, second), config)
    for i, row in enumerate((first, second)):
        one = assigned(tuple(level[i : i + 1] for level in raw), targets((0, *row[1:])), config)
        assert both.prior[both.image == i].tolist() == one.prior.tolist()


def test_nothing_wanted_nothing_given():
    for truth in (targets(), targets((0, 0, 3, 3, 40, 40), crowd=(0,))):
        found = assigned(random_raw(0), truth, SimOTAConfig())
        assert [len(part) for part in found] == [0, 0, 0]


def test_one_class():
    found = assigned(random_raw(0, classes=1), targets((0, 0, 3, 3, 40, 40)), SimOTAConfig())
    assert len(found.prior) >= 1
    assert set(found.target.tolist()) == {0}


def test_a_box_gets_as_many_priors_as_its_best_overlaps_sum_up_to():
    overlap = torch.tensor([[0.9, 0.1, 0.8, 0.75], [0.2, 0.1, 0.0, 0.3], [1.0, 1.0, 1.0, 1.0]])
    assert dynamic_k(overlap, 3).tolist() == [2, 1, 3]  # 2.45; 0.6, but at least one; 3
    assert dynamic_k(overlap, 2).tolist() == [1, 1, 2]  # 1.7; 0.5; 2
    assert dynamic_k(overlap, 10).tolist() == [2, 1, 4]  # there are only four: 2.55; 0.6; 4


def test_the_cost_of_a_class_is_the_cross_entropy_of_the_root_of_objectness_times_class():
    # logits 0: the root of 1/4 is a coin for each class
    assert class_cost(torch.zeros(2), torch.zeros(2, 4), torch.tensor(1)).tolist() == pytest.approx(
        [4 * math.log(2)] * 2
    )
    generator = torch.Generator().manual_seed(0)
    objectness, classes = torch.randn(50, generator=generator) * 3, torch.randn(50, 5, generator=generator) * 3
    class_id = torch.arange(50) % 5
    p = (objectness.sigmoid()[:, None] * classes.sigmoid()).sqrt()
    expected = F.binary_cross_entropy(p, F.one_hot(class_id, 5).float(), reduction="none").sum(dim=1)
    torch.testing.assert_close(class_cost(objectness, classes, class_id), expected, rtol=1e-4, atol=1e-5)


def test_priors_with_confident_predictions_are_chosen():
    """Two slots predict the box exactly: 60x60 in cell (1, 1) and in (2, 1) of stride 16. One of them is sure."""
    raw = tuple(torch.zeros(1, 2, h, w, 5 + 3) for h, w in CELLS)
    sure, doubtful = (raw[1][0, 1, 1, 1], raw[1][0, 1, 1, 2])
    x = math.log(1.05 / 1.1 / (1 - 1.05 / 1.1))  # 1.1 sigmoid(x) - 0.05 = 1: the right border of a cell
    sure[0], doubtful[0] = x, -x
    sure[4:6], doubtful[4:6] = 8.0, -8.0
    box = (0, 0, 2, 24 - 30, 62, 24 + 30)  # center (32, 24)
    found = assigned(raw, targets(box), SimOTAConfig(candidate_topk=1))
    first = 2 * 6 * 8 + 1 * 3 * 4
    assert found.prior.tolist() == [first + 1 * 4 + 1]
    sure[4:6], doubtful[4:6] = doubtful[4:6].clone(), sure[4:6].clone()
    assert assigned(raw, targets(box), SimOTAConfig(candidate_topk=1)).prior.tolist() == [first + 1 * 4 + 2]


def test_outputs_that_are_no_numbers_do_no_harm():
    raw = tuple(level * 1e38 for level in random_raw(3))
    raw[0][0, 0, 2, 2] = math.nan
    found = assigned(raw, targets((0, 0, 10, 10, 30, 30), (1, 1, 1, 1, 60, 40)), SimOTAConfig())
    assert found.image.tolist() == sorted(found.image.tolist())
    assert ((found.prior >= 0) & (found.prior < PRIORS.num_priors)).all()


@pytest.mark.parametrize("box", [(0.0, 0.0, 2.0, 2.0), (62.0, 46.0, 64.0, 48.0), (64.0, 48.0, 64.0, 48.0)])
def test_a_center_in_a_corner_has_candidates(box):
    found = assigned(random_raw(1), targets((0, 0, *box)), SimOTAConfig(radius=0.6, candidate_topk=1))
    assert found.target.tolist() == [0]
