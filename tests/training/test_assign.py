"""Assignment and the ignore rule: hand-made cases, and laws against a plain loop over boxes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cspdet import boxes
from cspdet.errors import ConfigError
from cspdet.models.config import YoloHeadConfig
from cspdet.models.head import Anchors
from cspdet.structures import Targets
from cspdet.training.assigners.anchor_iou import assign_by_anchor_iou
from cspdet.training.assigners.config import AnchorIoUConfig, SimOTAConfig
from cspdet.training.assigners.priors import CROWD_IOF_THRESHOLD, PriorLayout, ignore_mask

ANCHORS = Anchors(YoloHeadConfig(scale_x_y=(1.2, 1.1, 1.05)), (8, 16, 32))
SIZE = 128
PRIORS = PriorLayout.from_level_sizes([(16, 16), (8, 8), (4, 4)], 3, torch.device("cpu"))
FIRST = (0, 3 * 256, 3 * 256 + 3 * 64)


def targets(*rows: tuple[int, int, float, float, float, float], crowd: tuple[int, ...] = ()) -> Targets:
    """(image, class, x1, y1, x2, y2) a row; `crowd` lists the rows that are crowds."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    is_crowd = torch.zeros(len(rows), dtype=torch.bool)
    is_crowd[list(crowd)] = True
    return Targets(table[:, 0].long(), table[:, 1].long(), table[:, 2:], is_crowd)


SPAN = st.floats(2, 120, width=32)
ROW = st.tuples(
    st.integers(0, 1), st.integers(0, 4), st.floats(0, 120, width=32), st.floats(0, 120, width=32), SPAN, SPAN
).map(lambda r: (r[0], r[1], r[2], r[3], min(r[2] + r[4], SIZE), min(r[3] + r[5], SIZE)))


def test_a_box_goes_to_the_cell_of_its_center_with_the_nearest_anchor():
    # 62x45 is the second anchor of stride 16; the center (40, 50) lies in column 2, row 3 of 8x8 cells
    box = (40 - 31, 50 - 22.5, 40 + 31, 50 + 22.5)
    found = assign_by_anchor_iou(targets((1, 0, *box)), ANCHORS, PRIORS)
    assert found.image.tolist() == [1]
    assert found.target.tolist() == [0]
    assert found.prior.tolist() == [FIRST[1] + 1 * 64 + 3 * 8 + 2]


def test_match_iou_adds_the_other_similar_anchors():
    box = (40 - 31, 50 - 22.5, 40 + 31, 50 + 22.5)
    found = assign_by_anchor_iou(targets((0, 0, *box)), ANCHORS, PRIORS, match_iou=0.3)
    sizes = torch.tensor(YoloHeadConfig().anchors).flatten(0, 1)
    similar = boxes.wh_iou(torch.tensor([[62.0, 45.0]]), sizes)[0]
    assert len(found.prior) == int((similar > 0.3).sum()) > 1


def places(level: int, anchor: int, *cells: tuple[int, int]) -> list[int]:
    """Slots of (column, row) cells."""
    side = (16, 8, 4)[level]
    return [FIRST[level] + anchor * side**2 + row * side + col for col, row in cells]


def test_match_ratio_adds_the_anchors_whose_sides_are_both_near():
    # 40x40 against the nine: 33x23 (1.21, 1.74), 30x61 (1.33, 1.53) and 62x45 (1.55, 1.13) lie within a factor of 2;
    # 16x30 (2.5) and 59x119 (2.98) do not
    box = (20, 30, 60, 70)  # center (40, 50): column 5, row 6 of stride 8 and column 2, row 3 of stride 16
    found = assign_by_anchor_iou(targets((0, 0, *box)), ANCHORS, PRIORS, match_ratio=2.0)
    assert found.prior.tolist() == places(0, 2, (5, 6)) + places(1, 0, (2, 3)) + places(1, 1, (2, 3))
    # within 1.54 only 30x61 beside the most similar one, 62x45 (IoU 0.57); within 1.5 nothing beside it
    for ratio, more in ((1.54, [0]), (1.5, []), (1.01, [])):
        found = assign_by_anchor_iou(targets((0, 0, *box)), ANCHORS, PRIORS, match_ratio=ratio)
        assert found.prior.tolist() == [place for anchor in (*more, 1) for place in places(1, anchor, (2, 3))]


def test_match_ratio_comes_beside_match_iou():
    # 62x45 against 33x23 (IoU 0.27, sides 1.88 and 1.96) and 59x119 (IoU 0.37, sides 1.05 and 2.64)
    one = targets((0, 0, 40 - 31, 50 - 22.5, 40 + 31, 50 + 22.5))
    by_iou, by_ratio, both = (
        set(assign_by_anchor_iou(one, ANCHORS, PRIORS, *test).prior.tolist())
        for test in ((0.3, None), (None, 2.0), (0.3, 2.0))
    )
    small, tall = places(0, 2, (5, 6))[0], places(1, 2, (2, 3))[0]
    assert (small in by_ratio, small in by_iou) == (True, False)
    assert (tall in by_ratio, tall in by_iou) == (False, True)
    assert both == by_iou | by_ratio


def test_neighbors_are_the_nearest_cell_beside_and_the_nearest_above_or_below():
    # 62x45 at (41, 50): 2.5625 and 3.125 cells of 16 pixels, so the column to the right and the row above
    box = (41 - 31, 50 - 22.5, 41 + 31, 50 + 22.5)
    found = assign_by_anchor_iou(targets((0, 0, *box)), ANCHORS, PRIORS, neighbors=3)
    assert found.prior.tolist() == sorted(places(1, 1, (2, 3), (3, 3), (2, 2)))


def test_neighbors_outside_the_image_are_left_out():
    # 10x13 at (5, 6.5) and at (123, 121.5): cells of 8 pixels, 0.625 and 0.8125, 15.375 and 15.1875
    low, high = (0, 0, 10, 13), (118, 115, 128, 128)
    found = assign_by_anchor_iou(targets((0, 0, *low), (0, 0, *high)), ANCHORS, PRIORS, neighbors=3)
    assert found.prior.tolist() == sorted(places(0, 0, (0, 0), (1, 0), (0, 1), (15, 15), (14, 15), (15, 14)))
    corner = assign_by_anchor_iou(
        targets((0, 0, 0, 0, 6, 6)), ANCHORS, PRIORS, neighbors=3
    )  # center 0.375 cells from both borders
    assert corner.prior.tolist() == places(0, 0, (0, 0))


def test_a_cell_serves_the_center_in_it_before_the_neighbors():
    # a perfect 33x23 whose cell is (5, 5) and who also wants (6, 5), where a worse fitting box has its center
    exact, rough = (46 - 16.5, 42 - 11.5, 46 + 16.5, 42 + 11.5), (50 - 15, 42 - 10, 50 + 15, 42 + 10)
    for order in ((exact, rough), (rough, exact)):
        found = assign_by_anchor_iou(targets(*((0, 0, *box) for box in order)), ANCHORS, PRIORS, neighbors=3)
        served = dict(zip(found.prior.tolist(), found.target.tolist(), strict=True))
        assert served[places(0, 2, (5, 5))[0]] == order.index(exact)
        assert served[places(0, 2, (6, 5))[0]] == order.index(rough)


@given(rows=st.lists(ROW, max_size=12), match=st.sampled_from([None, 0.213]), ratio=st.sampled_from([None, 1.5, 4.0]))
@settings(max_examples=40)
def test_neighbors_only_add_priors_and_lie_within_a_cell_of_the_center(rows, match, ratio):
    truth = targets(*rows)
    alone, more = (assign_by_anchor_iou(truth, ANCHORS, PRIORS, match, ratio, neighbors) for neighbors in (1, 3))
    served = {(i, s): t for i, s, t in zip(*(part.tolist() for part in more), strict=True)}
    assert len(served) == len(more.prior)
    assert {(i, s): t for i, s, t in zip(*(part.tolist() for part in alone), strict=True)}.items() <= served.items()
    level = torch.searchsorted(PRIORS.offset, more.prior, right=True) - 1
    rest = (more.prior - PRIORS.offset[level]) % (PRIORS.width[level] * PRIORS.height[level])
    cell = torch.stack((rest % PRIORS.width[level], rest // PRIORS.width[level]), dim=-1) + 0.5
    corners = truth.box_xyxy[more.target]
    center = (corners[:, :2] + corners[:, 2:]) / 2 / ANCHORS.stride[level, None]
    assert ((cell - center).abs() <= 1).all()
    assert ((cell - center).abs() > 0.5).sum(dim=-1).le(1).all()  # beside it or above it, never across the corner


@given(rows=st.lists(ROW, max_size=8), ratio=st.floats(1.1, 6))
@settings(max_examples=40)
def test_match_ratio_is_the_same_for_boxes_larger_and_smaller_than_the_anchor(rows, ratio):
    """Of the slots at a box's center, it or a rival has those that a comparison of both sides both ways gives it."""
    truth = targets(*rows)
    found = assign_by_anchor_iou(truth, ANCHORS, PRIORS, match_ratio=ratio)
    taken = set(zip(found.image.tolist(), found.prior.tolist(), strict=True))
    for image, _, x1, y1, x2, y2 in rows:
        for level, stride in enumerate(ANCHORS.strides):
            col, row = (min(int((low + high) / 2 / stride), 128 // stride - 1) for low, high in ((x1, x2), (y1, y2)))
            for anchor, (width, height) in enumerate(ANCHORS.wh[level].tolist()):
                sides = ((x2 - x1) / width, (y2 - y1) / height)
                if max(max(side, 1 / side) for side in sides) < ratio * 0.9999:
                    assert (image, *places(level, anchor, (col, row))) in taken


def test_neighbors_need_a_head_that_reaches_out_of_its_cells():
    AnchorIoUConfig(neighbors=3).build().check_head((2.0, 2.0, 2.0))
    AnchorIoUConfig(neighbors=1).build().check_head((1.0, 1.0, 1.0))
    SimOTAConfig().build().check_head((1.0, 1.0, 1.0))  # has no neighbors
    with pytest.raises(ConfigError, match=r"neighbors.*scale_x_y.*expected 2 for every level, found \[1.2, 1.1, 2\]"):
        AnchorIoUConfig(neighbors=3).build().check_head((1.2, 1.1, 2.0))


def test_the_better_fitting_of_two_boxes_has_the_prior():
    exact, rough = (30, 30, 30 + 33, 30 + 23), (30, 30, 30 + 30, 30 + 20)
    for order in ((exact, rough), (rough, exact)):
        found = assign_by_anchor_iou(targets(*((0, 0, *box) for box in order)), ANCHORS, PRIORS)
        same_cell = int(46.5 // 8) == (45 // 8) and int(41.5 // 8) == (40 // 8)
        assert same_cell
        assert found.target.tolist() == [order.index(exact)]


def test_crowds_are_no_targets():
    found = assign_by_anchor_iou(targets((0, 0, 10, 10, 50, 50), (0, 1, 60, 60, 90, 90), crowd=(0,)), ANCHORS, PRIORS)
    assert found.target.tolist() == [1]


def test_no_boxes_no_positives_and_nothing_ignored():
    empty = targets()
    assert len(assign_by_anchor_iou(empty, ANCHORS, PRIORS, 0.2).prior) == 0
    predicted = torch.rand(2, PRIORS.num_priors, 4)
    assert not ignore_mask(predicted, empty, ANCHORS, PRIORS, 0.7).any()


@given(rows=st.lists(ROW, max_size=12), match=st.sampled_from([None, 0.213, 0.5]))
@settings(max_examples=60)
def test_every_prior_serves_one_box_and_every_box_has_one_or_lost_a_tie(rows, match):
    truth = targets(*rows)
    found = assign_by_anchor_iou(truth, ANCHORS, PRIORS, match)
    places = (found.image * PRIORS.num_priors + found.prior).tolist()
    assert places == sorted(set(places))
    assert (found.image == truth.image_index[found.target]).all()
    for n in range(len(rows)):
        alone = assign_by_anchor_iou(targets(rows[n]), ANCHORS, PRIORS)  # its best slot, were it the only box
        rival = [
            int(t)
            for i, s, t in zip(found.image, found.prior, found.target, strict=True)
            if (int(i), int(s)) == (int(alone.image), int(alone.prior))
        ]
        assert len(rival) == 1  # itself, or the one that it lost to


@given(rows=st.lists(ROW, min_size=1, max_size=6), seed=st.integers(0, 999), threshold=st.sampled_from([0.5, 0.7]))
@settings(max_examples=40)
def test_ignored_priors_are_those_of_the_full_comparison(rows, seed, threshold):
    """The window of reachable cells must not miss a pair: the full table of S x N overlaps says the same."""
    from cspdet.models.postprocess import decode_boxes

    torch.manual_seed(seed)
    raw = tuple(torch.randn(2, 3, n, n, 6) * 1.5 for n in (16, 8, 4))
    predicted = decode_boxes(raw, ANCHORS)
    crowd = tuple(range(0, len(rows), 2))
    truth = targets(*rows, crowd=crowd)
    expected = torch.zeros(2, PRIORS.num_priors, dtype=torch.bool)
    for image, box, of_crowd in zip(truth.image_index, truth.box_xyxy, truth.is_crowd, strict=True):
        own = predicted[image]
        fraction = boxes.intersection(own, box) / boxes.area(own)
        expected[image] |= fraction > CROWD_IOF_THRESHOLD if of_crowd else boxes.iou(own, box) > threshold
    found = ignore_mask(predicted, truth, ANCHORS, PRIORS, threshold)
    differing = found != expected
    if differing.any():  # only pairs that lie on the threshold to the last bit may differ
        assert differing.float().mean() < 1e-3
