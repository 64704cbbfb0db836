"""Drawn boxes: where they lie, what they leave alone, and that everything stays inside the image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cspdet.inference.draw import TextStyle, draw_boxes, draw_caption, draw_detections, line_width
from cspdet.inference.palette import class_color, contrast
from cspdet.structures import Detections


def test_lines_cover_the_outermost_pixels_of_a_box_and_their_outline_is_one_pixel_wide():
    image = np.full((60, 80, 3), 7, np.uint8)
    drawn = draw_boxes(image, np.array([[10, 20, 50, 40]]), None, [(100, 0, 0)])  # line width 1 at this size
    expected = image.copy()
    expected[19:41, 9:51] = 255
    expected[20:40, 10:50] = (100, 0, 0)
    expected[21:39, 11:49] = 255
    expected[22:38, 12:48] = 7
    assert np.array_equal(drawn, expected)
    assert (image == 7).all(), "the image itself is unchanged"


@pytest.mark.parametrize("ground", [(0, 0, 0), (255, 255, 255), class_color(5), (128, 128, 128)])
@pytest.mark.parametrize("color", [class_color(5), class_color(7), (0, 0, 0), (255, 255, 255)])
def test_a_box_is_visible_on_any_background(ground, color):
    image = np.full((60, 80, 3), ground, np.uint8)
    drawn = draw_boxes(image, np.array([[10, 20, 50, 40]]), None, [color])
    across = {tuple(pixel) for pixel in drawn[30, 5:15].tolist()}
    assert max(contrast(pixel, ground) for pixel in across) > 2
    assert max(contrast(pixel, color) for pixel in across) >= 4.5, "line and outline"


def test_an_image_is_drawn_in_place_unless_it_is_read_only():
    box = np.array([[10, 20, 50, 40]])
    expected = draw_boxes(np.zeros((60, 80, 3), np.uint8), box)
    image = np.zeros((60, 80, 3), np.uint8)
    assert draw_boxes(image, box, in_place=True) is image
    assert np.array_equal(image, expected)
    locked = np.zeros((60, 80, 3), np.uint8)
    locked.flags.writeable = False
    assert np.array_equal(draw_boxes(locked, box, in_place=True), expected)
    assert not locked.any()


def test_lines_have_the_width_that_is_asked_for():
    drawn = draw_boxes(np.zeros((60, 80, 3), np.uint8), np.array([[10, 20, 50, 40]]), None, [(9, 8, 7)], width=4)
    assert (drawn[30] == (9, 8, 7)).all(axis=1).sum() == 8, "four pixels on either side"


def test_tracks_have_their_number_and_a_color_of_their_own():
    found = Detections(torch.tensor([[5.0, 40, 45, 60]]), torch.tensor([0.5]), torch.tensor([1]))
    image = np.zeros((80, 90, 3), np.uint8)
    drawn = draw_detections(image, found, ("cat", "dog"), track_ids=[9], hide_labels=True)
    assert drawn[59, 20].tolist() == list(class_color(9))
    texts = [
        draw_detections(image, found, ("cat", "dog"), track_ids=ids).any(axis=2).sum() for ids in ([None], [9], None)
    ]
    assert texts[0] == texts[2] < texts[1], "the tag of a track is longer"


def test_a_caption_stands_in_the_upper_left_corner():
    image = np.full((200, 300, 3), 128, np.uint8)
    draw_caption(image, "12.5 fps")
    rows, columns = np.nonzero((image != 128).any(axis=2))
    assert (rows.min(), columns.min()) == (0, 0)
    assert rows.max() < 40
    assert columns.max() < 150
    assert image[0, 0].tolist() == [0, 0, 0]
    assert (image > 200).any(), "white letters"


def test_lines_grow_with_the_image():
    assert [line_width(size) for size in ((1, 1), (480, 640), (720, 1280), (2160, 3840))] == [1, 2, 3, 9]


def test_the_first_box_lies_on_top():
    drawn = draw_boxes(np.zeros((50, 50, 3), np.uint8), np.array([[5, 5, 30, 30]] * 2), None, [(9, 0, 0), (0, 9, 0)])
    assert drawn[5, 5].tolist() == [9, 0, 0]


def test_the_tag_stands_above_its_box_or_inside_where_there_is_no_room():
    color = (0, 0, 255)
    for top, first, last in ((60, 30, 60), (0, 0, 30)):
        drawn = draw_boxes(np.zeros((120, 200, 3), np.uint8), np.array([[50, top, 150, 110]]), ["cup 0.87"], [color])
        rows = np.flatnonzero((drawn[:, 60:100] == color).all(axis=2).mean(axis=1) > 0.3)
        outside = [row for row in rows if not (first <= row < last or row in (top, 109))]
        assert not outside
        tag = drawn[first:last, 50:120]
        assert (tag.min(axis=2) > 128).sum() > 20, "white letters on blue"


def test_letters_are_dark_on_bright_tags():
    drawn = draw_boxes(np.zeros((120, 200, 3), np.uint8), np.array([[50, 60, 150, 110]]), ["cup"], [(255, 255, 0)])
    letters = drawn[40:60, 52:70]
    assert (letters.max(axis=2) < 100).sum() > 10
    assert (letters.min(axis=2) < 100).all(), "no white"


def test_a_label_at_the_right_edge_is_complete():
    color, wide = (0, 0, 255), np.zeros((60, 200, 3), np.uint8)
    inner, edge = (draw_boxes(wide, np.array([[x, 30, x + 10, 40]]), ["traffic light"], [color]) for x in (50, 190))

    def label(drawn):  # the pixels of the label, above the outline of the box
        columns = np.flatnonzero(drawn[20].any(axis=1))
        return drawn[5:28, columns[0] : columns[-1] + 1]

    assert np.array_equal(label(edge), label(inner))
    assert (label(edge).min(axis=2) > 128).sum() > 30, "letters"


@pytest.mark.parametrize(("width", "expected"), [(300, "a very long name 0.87"), (100, "a very l... 0.87"), (12, "")])
def test_a_long_text_is_shortened_before_its_score(width, expected):
    style = TextStyle.for_lines(1)
    fitted = style.fit("a very long name 0.87", (width, 40))
    assert fitted == expected or (expected and fitted.startswith("a ve") and fitted.endswith("... 0.87"))
    assert fitted == "" or style.size_wh(fitted)[0] <= width
    assert style.fit("name", (100, 5)) == "", "too low for any text"


def test_a_caption_is_wrapped_at_spaces():
    image = np.full((200, 120, 3), 128, np.uint8)
    draw_caption(image, "30.0 fps  ms: read 1.2  detect 22.3  draw 2.4")
    rows = np.flatnonzero((image[:, 0] == 0).all(axis=1))
    assert len(rows) >= 2 * 15, "two lines at least"
    letters = (image > 200).all(axis=2)
    assert letters.sum() > 300
    assert not letters[:, -2:].any(), "no letter reaches the edge"


def test_letters_grow_with_the_image():
    scales = [TextStyle.for_lines(0.003 * side).scale for side in (100, 560, 1000, 3000)]
    assert scales == sorted(set(scales))
    assert scales[0] == 0.4


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    box=st.tuples(*[st.floats(-200, 300)] * 4),
    label=st.text(max_size=12),
)
def test_any_box_and_label_can_be_drawn_on_any_image(height, width, box, label):
    image = np.zeros((height, width, 3), np.uint8)
    x1, y1, x2, y2 = box
    corners = [min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)]
    drawn = draw_boxes(image, np.array([corners]), [label])
    assert drawn.shape == image.shape
    assert drawn.any(), "something is always seen"


def test_detections_are_drawn_with_the_color_of_their_class():
    found = Detections(torch.tensor([[5.0, 40, 45, 60]]), torch.tensor([0.5]), torch.tensor([1]))
    drawn = draw_detections(np.zeros((80, 90, 3), np.uint8), found, ("cat", "dog"))
    assert drawn[59, 20].tolist() == list(class_color(1))


def test_the_first_classes_have_different_colors():
    colors = np.array([class_color(i) for i in range(20)], float)
    apart = np.abs(colors[:, None] - colors[None]).sum(axis=2) + np.eye(20) * 999
    assert apart.min() > 30


@pytest.mark.parametrize(
    "image", [np.zeros((5, 5), np.uint8), np.zeros((5, 5, 4), np.uint8), np.zeros((5, 5, 3), np.float32)]
)
def test_other_arrays_are_refused_with_what_was_found(image):
    with pytest.raises(ValueError, match="uint8") as caught:
        draw_boxes(image, np.zeros((0, 4)))
    assert str(image.shape) in str(caught.value)


def test_lengths_that_differ_are_refused():
    with pytest.raises(ValueError, match="1 boxes"):
        draw_boxes(np.zeros((5, 5, 3), np.uint8), np.zeros((1, 4)), ["a", "b"])


def test_a_label_with_characters_that_opencv_cannot_draw():
    image = np.zeros((60, 80, 3), np.uint8)
    drawn = draw_boxes(image, np.array([[10, 30, 50, 50]]), ["\udcff\x1b猫"])
    assert (drawn != 0).any()


@pytest.mark.parametrize(
    ("shape", "box", "width", "message"),
    [
        ((9, 9, 3), [0, 0, 5, 5], 30_000, "a line width from 1 to 100; got 30000"),
        ((9, 9, 3), [0, 0, 5, 5], 0, "a line width from 1 to 100; got 0"),
        ((9, 9, 3), [0, 0, float("nan"), 5], None, "finite coordinates"),
        ((0, 9, 3), [0, 0, 5, 5], None, "an image of"),
    ],
)
def test_what_opencv_cannot_draw_is_refused(shape, box, width, message):
    with pytest.raises(ValueError, match=message):
        draw_boxes(np.zeros(shape, np.uint8), np.array([box], np.float32), width=width)
