"""Pictures side by side, and words below them."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from cspdet.inference.draw import FONT, RGB
from cspdet.letterbox import PAD_VALUE

MOST_TILES = 16  # of a batch
LEAST_WIDTH = 192  # pixels that a line of words needs
LINE_HEIGHT, TEXT_SCALE, MARGIN = 16, 0.42, 4


def tile(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures of one size side by side in a near square, missing places grey."""
    columns = max(1, round(len(pictures) ** 0.5))
    height, width = pictures[0].shape[:2]
    rows = -(-len(pictures) // columns)
    canvas = np.full((rows * height, columns * width, 3), PAD_VALUE, np.uint8)
    for i, picture in enumerate(pictures):
        y, x = divmod(i, columns)
        canvas[y * height : (y + 1) * height, x * width : (x + 1) * width] = picture
    return canvas


def captioned(image: np.ndarray, words: Sequence[tuple[str, RGB]], lines: int) -> np.ndarray:
    """A picture, enlarged by a whole number where it is narrow, over a strip with room for `lines` lines of words.

    image  (H, W, 3) uint8 RGB
    words  a text and its color each
    """
    times = -(-LEAST_WIDTH // image.shape[1])
    large = image.repeat(times, axis=0).repeat(times, axis=1)
    strip = np.zeros((lines * LINE_HEIGHT + MARGIN, large.shape[1], 3), np.uint8)
    for i, (text, color) in enumerate(words):
        at = (MARGIN, (i + 1) * LINE_HEIGHT - MARGIN // 2)
        cv2.putText(strip, text, at, FONT, TEXT_SCALE, color, 1, cv2.LINE_AA)
    return np.concatenate((large, strip))
