"""Pictures side by side, and words below them."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from cspdet.inference.draw import FONT, RGB
from cspdet.letterbox import PAD_VALUE

MAX_GRID_IMAGES = 16  # of a batch
MIN_CAPTION_WIDTH = 192  # pixels that a line of words needs
LINE_HEIGHT, TEXT_SCALE, MARGIN = 16, 0.42, 4


def make_grid(images: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures of one size side by side in a near square, missing places grey."""
    columns = max(1, round(len(images) ** 0.5))
    height, width = images[0].shape[:2]
    rows = -(-len(images) // columns)
    canvas = np.full((rows * height, columns * width, 3), PAD_VALUE, np.uint8)
    for i, image in enumerate(images):
        y, x = divmod(i, columns)
        canvas[y * height : (y + 1) * height, x * width : (x + 1) * width] = image
    return canvas


def add_caption(image: np.ndarray, texts: Sequence[tuple[str, RGB]], lines: int) -> np.ndarray:
    """A picture, enlarged by a whole number where it is narrow, over a strip with room for `lines` lines of words.

    image  (H, W, 3) uint8 RGB
    words  a text and its color each
    """
    scale = -(-MIN_CAPTION_WIDTH // image.shape[1])
    large = image.repeat(scale, axis=0).repeat(scale, axis=1)
    strip = np.zeros((lines * LINE_HEIGHT + MARGIN, large.shape[1], 3), np.uint8)
    for i, (text, color) in enumerate(texts):
        at = (MARGIN, (i + 1) * LINE_HEIGHT - MARGIN // 2)
        cv2.putText(strip, text, at, FONT, TEXT_SCALE, color, 1, cv2.LINE_AA)
    return np.concatenate((large, strip))
