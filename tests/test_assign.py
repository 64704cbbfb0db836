"""Assignment and the ignore rule: hand-made cases, and laws against a plain loop over boxes."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cspdet import boxes
from cspdet.models.head import Anchors, YoloHeadConfig
from cspdet.training.assign import CROWD_SHARE, Slots, assign, unpunished
from cspdet.types import Targets

ANCHORS = Anchors(YoloHeadConfig(scale_x_y=(1.2, 1.1, 1.05)), (8, 16, 32))
SIZE = 128
SLOTS = Slots.of([(16, 16), (8, 8), (4, 4)], 3, torch.device("cpu"))
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
    found = assign(targets((1, 0, *box)), ANCHORS, SLOTS)
    assert found.image.tolist() == [1]
    assert found.target.tolist() == [0]
    assert found.slot.tolist() == [FIRST[1] + 1 * 64 + 3 * 8 + 2]


def test_match_iou_adds_the_other_similar_anchors():
    box = (40 - 31, 50 - 22.5, 40 + 31, 50 + 22.5)
    found = assign(targets((0, 0, *box)), ANCHORS, SLOTS, match_iou=0.3)
    sizes = torch.tensor(YoloHeadConfig().anchors).flatten(0, 1)
    similar = boxes.wh_iou(torch.tensor([[62.0, 45.0]]), sizes)[0]
    assert len(found.slot) == int((similar > 0.3).sum()) > 1


def test_the_better_fitting_of_two_boxes_has_the_slot():
    exact, rough = (30, 30, 30 + 33, 30 + 23), (30, 30, 30 + 30, 30 + 20)
    for order in ((exact, rough), (rough, exact)):
        found = assign(targets(*((0, 0, *box) for box in order)), ANCHORS, SLOTS)
        centers_share_a_cell = int(46.5 // 8) == (45 // 8) and int(41.5 // 8) == (40 // 8)
        assert centers_share_a_cell
        assert found.target.tolist() == [order.index(exact)]


def test_crowds_are_no_goals():
    found = assign(targets((0, 0, 10, 10, 50, 50), (0, 1, 60, 60, 90, 90), crowd=(0,)), ANCHORS, SLOTS)
    assert found.target.tolist() == [1]


def test_no_boxes_no_positives_and_nothing_ignored():
    empty = targets()
    assert len(assign(empty, ANCHORS, SLOTS, 0.2).slot) == 0
    predicted = torch.rand(2, SLOTS.total, 4)
    assert not unpunished(predicted, empty, ANCHORS, SLOTS, 0.7).any()


@given(rows=st.lists(ROW, max_size=12), match=st.sampled_from([None, 0.213, 0.5]))
@settings(max_examples=60)
def test_every_slot_serves_one_box_and_every_box_has_one_or_lost_a_tie(rows, match):
    wanted = targets(*rows)
    found = assign(wanted, ANCHORS, SLOTS, match)
    places = (found.image * SLOTS.total + found.slot).tolist()
    assert places == sorted(set(places))
    assert (found.image == wanted.image[found.target]).all()
    for n in range(len(rows)):
        alone = assign(targets(rows[n]), ANCHORS, SLOTS)  # its best slot, were it the only box
        rival = [
            int(t)
            for i, s, t in zip(found.image, found.slot, found.target, strict=True)
            if (int(i), int(s)) == (int(alone.image), int(alone.slot))
        ]
        assert len(rival) == 1  # itself, or the one that it lost to


@given(rows=st.lists(ROW, min_size=1, max_size=6), seed=st.integers(0, 999), threshold=st.sampled_from([0.5, 0.7]))
@settings(max_examples=40)
def test_unpunished_slots_are_those_of_the_full_comparison(rows, seed, threshold):
    """The window of reachable cells must not miss a pair: the full table of S x N overlaps says the same."""
    from cspdet.models.head import decode_boxes

    torch.manual_seed(seed)
    raw = tuple(torch.randn(2, 3, n, n, 6) * 1.5 for n in (16, 8, 4))
    predicted = decode_boxes(raw, ANCHORS)
    crowd = tuple(range(0, len(rows), 2))
    wanted = targets(*rows, crowd=crowd)
    expected = torch.zeros(2, SLOTS.total, dtype=torch.bool)
    for image, box, of_crowd in zip(wanted.image, wanted.box_xyxy, wanted.is_crowd, strict=True):
        own = predicted[image]
        share = boxes.intersection(own, box) / boxes.area(own)
        expected[image] |= share > CROWD_SHARE if of_crowd else boxes.iou(own, box) > threshold
    found = unpunished(predicted, wanted, ANCHORS, SLOTS, threshold)
    differing = found != expected
    if differing.any():  # only pairs that lie on the threshold to the last bit may differ
        assert differing.float().mean() < 1e-3
