"""Image grids for the training log: training batches with targets, and val images with predictions."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from cspdet.datasets.classification.image_folder import ImageFolderDataset
from cspdet.datasets.collate import ImageBatch
from cspdet.datasets.image_io import read_image
from cspdet.evaluation.classification import ClassifierMetrics
from cspdet.inference.draw import FONT, draw_boxes
from cspdet.letterbox import PAD_VALUE, Letterbox
from cspdet.palette import RGB, class_color
from cspdet.structures import Batch, Categories

MAX_GRID_IMAGES = 16
MIN_CAPTION_WIDTH = 192  # pixels, enough for a line of text
LINE_HEIGHT, TEXT_SCALE, MARGIN = 16, 0.42, 4
CORRECT_COLOR, WRONG_COLOR = (90, 220, 110), (250, 110, 90)  # RGB of the text
PREDICTION_HW = (192, 192)  # size of each image in a grid of predictions


def make_grid(images: Sequence[np.ndarray]) -> np.ndarray:
    """Arrange images in an approximately square grid; unused cells are gray.

    Args:
        images: (H, W, 3) uint8 RGB images, all of the same size.

    Returns:
        (rows * H, columns * W, 3) uint8 RGB.
    """
    columns = max(1, round(len(images) ** 0.5))
    height, width = images[0].shape[:2]
    rows = -(-len(images) // columns)
    canvas = np.full((rows * height, columns * width, 3), PAD_VALUE, np.uint8)
    for i, image in enumerate(images):
        y, x = divmod(i, columns)
        canvas[y * height : (y + 1) * height, x * width : (x + 1) * width] = image
    return canvas


def add_caption(image: np.ndarray, texts: Sequence[tuple[str, RGB]], lines: int) -> np.ndarray:
    """Append a caption below an image; a narrow image is first enlarged by an integer factor.

    Args:
        image: (H, W, 3) uint8 RGB.
        texts: Text and color of each line.
        lines: Height of the caption in lines.
    """
    scale = -(-MIN_CAPTION_WIDTH // image.shape[1])
    large = image.repeat(scale, axis=0).repeat(scale, axis=1)
    strip = np.zeros((lines * LINE_HEIGHT + MARGIN, large.shape[1], 3), np.uint8)
    for i, (text, color) in enumerate(texts):
        at = (MARGIN, (i + 1) * LINE_HEIGHT - MARGIN // 2)
        text = text.encode("utf-8", "replace").decode()  # OpenCV ends the process for lone surrogates
        cv2.putText(strip, text, at, FONT, TEXT_SCALE, color, 1, cv2.LINE_AA)
    return np.concatenate((large, strip))


def draw_detection_batch(batch: Batch, classes: Categories) -> np.ndarray:
    """Draw the first 16 images of a detection batch with their boxes, as one (H, W, 3) uint8 RGB grid."""
    grid_images = []
    for i, image in enumerate(batch.images[:MAX_GRID_IMAGES].permute(0, 2, 3, 1).contiguous().numpy()):
        in_image = batch.targets.image_index == i
        class_id = batch.targets.class_id[in_image].tolist()
        crowd = batch.targets.is_crowd[in_image].tolist()
        labels = [
            classes.names[c] + (" (crowd)" if is_crowd else "") for c, is_crowd in zip(class_id, crowd, strict=True)
        ]
        grid_images.append(
            draw_boxes(image, batch.targets.box_xyxy[in_image].numpy(), labels, [class_color(c) for c in class_id])
        )
    return make_grid(grid_images)


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
