"""Image grids of a training run: gutters, ground truth beside predictions, and predictions below the threshold."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cspdet.inference.palette import class_color
from cspdet.structures import Batch, Categories, Detections, Targets
from cspdet.training.visualization import (
    GUTTER,
    LOW_SCORE_COLOR,
    LabeledBoxes,
    add_caption,
    draw_detection_batch,
    draw_pair,
    label_predictions,
    make_grid,
)

CLASSES = Categories(("cat", "dog"), (1, 2))


@pytest.mark.parametrize(
    ("count", "size_hw", "columns"), [(1, (20, 20), 1), (7, (20, 20), 3), (16, (20, 20), 4), (8, (20, 40), 2)]
)
def test_a_grid_is_about_square_with_white_gutters(count, size_hw, columns):
    images = [np.full((*size_hw, 3), i, np.uint8) for i in range(count)]
    grid = make_grid(images)
    height, width = size_hw
    rows = -(-count // columns)
    assert grid.shape == (rows * (height + GUTTER) - GUTTER, columns * (width + GUTTER) - GUTTER, 3)
    for i in range(count):
        y, x = i // columns * (height + GUTTER), i % columns * (width + GUTTER)
        assert (grid[y : y + height, x : x + width] == i).all()
        assert (grid[y : y + height, x + width : x + width + GUTTER] == 255).all()
        assert (grid[y + height : y + height + GUTTER, x : x + width] == 255).all()


def test_small_images_of_a_batch_are_enlarged_before_their_boxes_are_drawn():
    targets = Targets(
        image_index=torch.tensor([1]),
        box_xyxy=torch.tensor([[8.0, 16.0, 24.0, 28.0]]),
        class_id=torch.tensor([1]),
        is_crowd=torch.tensor([False]),
    )
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    grid = draw_detection_batch(Batch(images, targets, torch.tensor([5, 6]), torch.tensor([[32, 32]] * 2)), CLASSES)
    assert grid.shape == (2 * 320 + GUTTER, 320, 3)
    tile = grid[-320:]
    in_color = (tile == class_color(1)).all(axis=2)
    assert in_color[200, 80], "the left side of the box, at ten times its position"
    assert in_color[130:160, 80:110].mean() > 0.3, "the label above the box"


def detections(*scores: float) -> Detections:
    boxes = torch.tensor([[10.0 * i, 10.0, 10.0 * i + 8, 20.0] for i in range(len(scores))]).reshape(-1, 4)
    return Detections(boxes, torch.tensor(scores), torch.zeros(len(scores), dtype=torch.int64))


@pytest.mark.parametrize(
    ("scores", "labels", "caption"),
    [
        ((), [], "predictions: 0 of score 0.25 or more"),
        ((0.9, 0.8, 0.5, 0.25, 0.2), ["cat 0.90", "cat 0.80", "cat 0.50", "cat 0.25"],
         "predictions: 4 of score 0.25 or more"),
        ((0.9, 0.1, 0.004, 0.003), ["cat 0.90", "cat 0.1 low", "cat 0.004 low"],
         "predictions: 1 of score 0.25 or more, 2 lower (gray)"),
    ],
)  # fmt: skip
def test_the_best_predictions_below_the_threshold_are_drawn_if_there_are_few(scores, labels, caption):
    boxes, text = label_predictions(detections(*scores), CLASSES.names)
    assert boxes.labels == labels
    assert text == caption
    assert [color == LOW_SCORE_COLOR for color in boxes.colors] == ["low" in label for label in labels]
    assert len(boxes.box_xyxy) == len(labels)


def test_ground_truth_and_predictions_are_side_by_side_at_320_pixels():
    image = np.full((50, 100, 3), 90, np.uint8)
    truth = LabeledBoxes(np.array([[20.0, 10, 60, 40]]), ["cat"], [class_color(0)])
    pair = draw_pair(image, truth, LabeledBoxes(np.zeros((0, 4)), [], []), "none", (96, 96))
    left, right = pair[:320, :320], pair[:320, -320:]
    assert pair.shape[1] == 2 * 320 + GUTTER // 4
    # the image has 320x160 pixels below a margin of 80
    assert (left[80 + 70, round(20 * 3.2)] == class_color(0)).all()
    assert not (right == class_color(0)).all(axis=2).any()
    assert (right[80:240] == 90).all()


def test_a_caption_has_a_line_in_each_color():
    drawn = add_caption(np.zeros((10, 200, 3), np.uint8), [("cat", (0, 0, 0)), ("猫", (255, 255, 0))], 2)
    strip = drawn[10:]
    assert (strip[: len(strip) // 2] > 128).any(), "white letters on black"
    assert (strip[len(strip) // 2 :, :, 0] < 128).any(), "black letters on yellow"
