"""Image grids for the training log: training batches with targets, and val images with predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from cspdet.datasets.classification.image_folder import ImageFolderDataset
from cspdet.datasets.collate import ImageBatch
from cspdet.datasets.formats.coco import CocoDataset
from cspdet.datasets.image_io import read_image
from cspdet.evaluation.classification import ClassifierMetrics
from cspdet.inference.draw import FONT, draw_boxes, label_detections
from cspdet.inference.palette import BLACK, RGB, class_color, text_color
from cspdet.io.terminal import escape_text
from cspdet.letterbox import Letterbox, resize_image
from cspdet.structures import Batch, Categories, Detections

MAX_GRID_IMAGES = 16
GUTTER, GUTTER_VALUE = 8, 255  # width in pixels and gray value of the space between the images of a grid
MIN_TILE_SIDE = 320  # pixels of the short side of an image with boxes, so that its labels are legible
MIN_CAPTION_WIDTH = 192  # pixels, enough for a line of text
LINE_HEIGHT, TEXT_SCALE, MARGIN = 18, 0.42, 4
CORRECT_COLOR, WRONG_COLOR = class_color(2), class_color(1)  # green and vermilion
PREDICTION_HW = (192, 192)  # size of each image in a grid of classified images
SCORE_THRESHOLD = 0.25  # of the predictions in a grid of val images
MIN_PREDICTIONS = 3  # per image: with fewer, the best predictions below the threshold are drawn too
LOW_SCORE_COLOR = (200, 200, 200)  # of predictions below the threshold


class LabeledBoxes(NamedTuple):
    """Boxes to draw, with a label and a color for each."""

    box_xyxy: np.ndarray  # (N, 4), image pixels
    labels: Sequence[str]
    colors: Sequence[RGB]


def make_grid(images: Sequence[np.ndarray]) -> np.ndarray:
    """Arrange images in an approximately square grid, with white gutters between them.

    Args:
        images: (H, W, 3) uint8 RGB images, all of the same size.

    Returns:
        (H', W', 3) uint8 RGB.
    """
    height, width = images[0].shape[:2]
    columns = min(len(images), max(1, round((len(images) * height / width) ** 0.5)))
    rows = -(-len(images) // columns)
    step_y, step_x = height + GUTTER, width + GUTTER
    canvas = np.full((rows * step_y - GUTTER, columns * step_x - GUTTER, 3), GUTTER_VALUE, np.uint8)
    for i, image in enumerate(images):
        y, x = i // columns * step_y, i % columns * step_x
        canvas[y : y + height, x : x + width] = image
    return canvas


def add_caption(image: np.ndarray, texts: Sequence[tuple[str, RGB]], lines: int) -> np.ndarray:
    """Append a caption below an image; a narrow image is first enlarged by an integer factor.

    Args:
        image: (H, W, 3) uint8 RGB.
        texts: Text and background color of each line.
        lines: Height of the caption in lines.
    """
    scale = -(-MIN_CAPTION_WIDTH // image.shape[1])
    large = image.repeat(scale, axis=0).repeat(scale, axis=1)
    strip = np.zeros((lines * LINE_HEIGHT, large.shape[1], 3), np.uint8)
    for i, (text, color) in enumerate(texts):
        top = i * LINE_HEIGHT
        strip[top : top + LINE_HEIGHT] = color
        at = (MARGIN, top + LINE_HEIGHT - MARGIN)
        text = escape_text(text)  # OpenCV ends the process for lone surrogates
        cv2.putText(strip, text, at, FONT, TEXT_SCALE, text_color(color), 1, cv2.LINE_AA)
    return np.concatenate((large, strip))


def draw_detection_batch(batch: Batch, classes: Categories) -> np.ndarray:
    """Draw the first 16 images of a detection batch with boxes and class names, as one (H, W, 3) uint8 RGB grid.

    Small images are enlarged before drawing, so that the names are legible.
    """
    height, width = batch.images.shape[2:]
    factor = max(1.0, MIN_TILE_SIDE / min(height, width))
    grid_images = []
    for i, image in enumerate(batch.images[:MAX_GRID_IMAGES].permute(0, 2, 3, 1).contiguous().numpy()):
        in_image = batch.targets.image_index == i
        boxes = _label_targets(
            batch.targets.box_xyxy[in_image].numpy() * factor,
            batch.targets.class_id[in_image].tolist(),
            batch.targets.is_crowd[in_image].tolist(),
            classes.names,
        )
        grid_images.append(draw_boxes(resize_image(image, (round(height * factor), round(width * factor))), *boxes))
    return make_grid(grid_images)


def evenly_spaced_images(dataset: CocoDataset, count: int) -> list[int]:
    """Return the indices of up to `count` evenly spaced images: of those with boxes or, if there are none, of all."""
    (candidates,) = np.nonzero(np.diff(dataset.box_start))
    if len(candidates) == 0:
        candidates = np.arange(len(dataset))
    return candidates[np.unique(np.linspace(0, len(candidates) - 1, count).astype(int))].tolist()


def label_ground_truth(dataset: CocoDataset, index: int, classes: Categories) -> LabeledBoxes:
    """Return the ground-truth boxes of an image. The index of a class in `classes` determines the color of its boxes.

    `classes` has the class names of the dataset, in any order.
    """
    box_xyxy, class_id, crowd = dataset.boxes(index)
    own = [classes.names.index(dataset.classes.names[i]) for i in class_id.tolist()]
    return _label_targets(box_xyxy, own, crowd.tolist(), classes.names)


def label_predictions(detections: Detections, class_names: Sequence[str]) -> tuple[LabeledBoxes, str]:
    """Select the predictions of an image to draw.

    These are the detections with a score of at least SCORE_THRESHOLD. If there are fewer than MIN_PREDICTIONS, the
    detections with the next highest scores are added in gray, with the word `low` in the label.

    Returns:
        The boxes, and a caption with the number of detections at or above the threshold.
    """
    above = int((detections.score >= SCORE_THRESHOLD).sum())
    drawn = slice(0, max(above, MIN_PREDICTIONS))
    all_labels, all_colors = label_detections(detections, class_names)
    labels, colors = all_labels[drawn], all_colors[drawn]
    for i in range(above, len(labels)):
        score, class_id = float(detections.score[i]), int(detections.class_id[i])
        labels[i], colors[i] = f"{class_names[class_id]} {score:.2g} low", LOW_SCORE_COLOR
    low = max(0, len(labels) - above)
    caption = f"predictions: {above} of score {SCORE_THRESHOLD} or more" + (f", {low} lower (gray)" if low else "")
    return LabeledBoxes(detections.box_xyxy[drawn].cpu().numpy(), labels, colors), caption


def draw_pair(
    image: np.ndarray, ground_truth: LabeledBoxes, predictions: LabeledBoxes, caption: str, input_hw: tuple[int, int]
) -> np.ndarray:
    """Draw the ground truth and the predictions of an image side by side, as one (H, W, 3) uint8 RGB image.

    The boxes are drawn after the image is resized, so that lines and labels keep their size.

    Args:
        image: (H, W, 3) uint8 RGB.
        ground_truth: Boxes in image pixels.
        predictions: Boxes in image pixels.
        caption: Text below the predictions.
        input_hw: Height and width of the network input. Both images have its aspect ratio; short side: 320 pixels.
    """
    height, width = (round(side * MIN_TILE_SIDE / min(input_hw)) for side in input_hw)
    letterbox = Letterbox.fit((image.shape[0], image.shape[1]), (height, width))
    resized = letterbox.resize_and_pad(image, (height, width))
    left, right = (
        add_caption(draw_boxes(resized, letterbox.to_input(boxes.box_xyxy), *boxes[1:]), [(text, BLACK)], 1)
        for boxes, text in ((ground_truth, f"ground truth: {len(ground_truth.labels)}"), (predictions, caption))
    )
    return np.concatenate((left, np.full((len(left), GUTTER // 4, 3), GUTTER_VALUE, np.uint8), right), axis=1)


def _label_targets(
    box_xyxy: np.ndarray, class_id: Sequence[int], is_crowd: Sequence[bool], names: Sequence[str]
) -> LabeledBoxes:
    labels = [names[i] + (" (crowd)" if crowd else "") for i, crowd in zip(class_id, is_crowd, strict=True)]
    return LabeledBoxes(box_xyxy, labels, [class_color(i) for i in class_id])


def draw_classification_batch(batch: ImageBatch, names: tuple[str, ...]) -> np.ndarray:
    """Draw the first 16 images of a classification batch with their classes, as one (H, W, 3) uint8 RGB grid.

    The caption of an image with several classes (mixup, CutMix) includes their label weights.
    """
    targets = [
        [(c, s) for c, s in zip(class_id, label_weight, strict=True) if s > 0]
        for class_id, label_weight in zip(
            batch.class_id[:MAX_GRID_IMAGES].tolist(), batch.label_weight[:MAX_GRID_IMAGES].tolist(), strict=True
        )
    ]
    lines = max(len(target) for target in targets)
    grid_images = []
    for image, target in zip(
        batch.images[:MAX_GRID_IMAGES].permute(0, 2, 3, 1).contiguous().numpy(), targets, strict=True
    ):
        texts = [(f"{names[c]} {s:.2f}" if s < 1 else names[c], class_color(c)) for c, s in target]
        grid_images.append(add_caption(image, texts, lines))
    return make_grid(grid_images)


def draw_predictions(images: ImageFolderDataset, metrics: ClassifierMetrics) -> np.ndarray:
    """Draw up to 16 equally spaced images of a dataset with the predicted class, as one (H, W, 3) uint8 RGB grid.

    The caption of a misclassified image includes the ground-truth class.
    """
    grid_images = []
    for index in np.unique(np.linspace(0, len(images) - 1, MAX_GRID_IMAGES).astype(int)).tolist():
        image = read_image(images.path(index))
        predicted, gt = int(metrics.ranked[index, 0]), int(images.label[index])
        texts = [
            (
                f"{images.classes[predicted]} {metrics.scores[index, 0]:.2f}",
                CORRECT_COLOR if predicted == gt else WRONG_COLOR,
            )
        ]
        if predicted != gt:
            texts.append((f"is {images.classes[gt]}", CORRECT_COLOR))
        grid_images.append(
            add_caption(Letterbox.fit(image.shape[:2], PREDICTION_HW).resize_and_pad(image, PREDICTION_HW), texts, 2)
        )
    return make_grid(grid_images)
