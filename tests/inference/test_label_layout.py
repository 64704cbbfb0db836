"""Positions of labels: inside the image, at their boxes, and not over each other where there is a free position."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cspdet.inference.label_layout import place_labels

WIDTH, HEIGHT = 120, 90


@st.composite
def layouts(draw, max_count=10):
    """Boxes in an image of 120x90 pixels, and the sizes of their labels."""
    count = draw(st.integers(0, max_count))
    boxes, sizes = [], []
    for _ in range(count):
        x, y = draw(st.integers(0, WIDTH - 1)), draw(st.integers(0, HEIGHT - 1))
        boxes.append((x, y, draw(st.integers(x + 1, WIDTH)), draw(st.integers(y + 1, HEIGHT))))
        sizes.append((draw(st.integers(1, 50)), draw(st.integers(1, 14))))
    return np.array(boxes).reshape(-1, 4), np.array(sizes).reshape(-1, 2)


def shared(first, second):
    """The pixels that two rectangles share."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(width, 0) * max(height, 0)


def positions_at_sides(box, size):
    """All positions at which a label touches a side of its box, and faces at least half of the side or of itself."""
    (x1, y1, x2, y2), (width, height) = box.tolist(), size.tolist()
    faced_x, faced_y = min(width, x2 - x1 + 1) // 2, min(height, y2 - y1 + 1) // 2
    for x in range(max(0, x1 - width + faced_x), min(WIDTH - width, x2 - faced_x) + 1):
        yield from ((x, y) for y in (y1 - height, y2, y1, y2 - height) if 0 <= y <= HEIGHT - height)
    for y in range(max(0, y1 - height + faced_y), min(HEIGHT - height, y2 - faced_y) + 1):
        yield from ((x, y) for x in (x2, x1 - width) if 0 <= x <= WIDTH - width)


@settings(max_examples=60, deadline=None)
@given(layouts(max_count=25))
def test_labels_are_inside_the_image_and_touch_their_boxes(layout):
    boxes, sizes = layout
    corners = place_labels(boxes, sizes, (WIDTH, HEIGHT))
    assert (corners >= 0).all()
    assert (corners + sizes <= (WIDTH, HEIGHT)).all()
    assert ((corners <= boxes[:, 2:]) & (corners + sizes >= boxes[:, :2])).all()


@settings(max_examples=60, deadline=None)
@given(layouts())
def test_a_label_covers_earlier_ones_only_if_no_position_at_its_box_is_free(layout):
    boxes, sizes = layout
    corners = place_labels(boxes, sizes, (WIDTH, HEIGHT))
    labels = np.concatenate((corners, corners + sizes), axis=1).tolist()
    for i, (box, size) in enumerate(zip(boxes, sizes, strict=True)):
        covered = sum(shared(labels[i], earlier) for earlier in labels[:i])
        if covered:
            best = min(
                sum(shared((x, y, x + size[0], y + size[1]), earlier) for earlier in labels[:i])
                for x, y in positions_at_sides(box, size)
            )
            assert best > 0


@settings(max_examples=40, deadline=None)
@given(layouts(max_count=4), st.integers(10, 60))
def test_occupied_rectangles_are_avoided(layout, side):
    boxes, sizes = layout
    caption = (0, 0, side, 12)
    corners = place_labels(boxes, sizes, (WIDTH, HEIGHT), [caption])
    for box, size, corner in zip(boxes, sizes, corners, strict=True):
        if shared((*corner, *(corner + size)), caption) and len(boxes) == 1:
            assert all(shared((x, y, x + size[0], y + size[1]), caption) for x, y in positions_at_sides(box, size))


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((30, 40, 60, 60), (30, 30)),  # above
        ((30, 0, 60, 20), (30, 20)),  # below: no space above
        ((30, 0, 60, 90), (30, 0)),  # inside: no space above and below
        ((100, 40, 120, 60), (90, 30)),  # above, aligned with the right side
    ],
)
def test_the_preferred_positions_of_a_single_label(box, expected):
    assert tuple(place_labels(np.array([box]), np.array([[30, 10]]), (WIDTH, HEIGHT))[0]) == expected


def test_labels_of_equal_boxes_are_all_visible():
    corners = place_labels(np.array([[40, 30, 80, 60]] * 8), np.array([[30, 10]] * 8), (WIDTH, HEIGHT))
    labels = np.concatenate((corners, corners + (30, 10)), axis=1).tolist()
    assert all(shared(a, b) == 0 for i, a in enumerate(labels) for b in labels[:i])


def test_a_label_does_not_hide_a_small_box():
    boxes = np.array([[30, 40, 80, 80], [32, 30, 42, 38]])  # the second box is where the first label would be
    corner = place_labels(boxes[[1, 0]], np.array([[1, 1], [30, 10]]), (WIDTH, HEIGHT))[1]
    assert shared((*corner, *(corner + (30, 10))), boxes[1]) == 0


def test_more_labels_than_fit_stay_inside_the_image():
    corners = place_labels(np.array([[40, 30, 80, 60]] * 80), np.array([[30, 10]] * 80), (WIDTH, HEIGHT))
    assert (corners >= 0).all()
    assert (corners + (30, 10) <= (WIDTH, HEIGHT)).all()
