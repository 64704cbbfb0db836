"""Image fingerprints for the search of near-duplicates: difference hashes and high-pass thumbnails."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from cspdet.datasets.image_io import read_image, read_image_header
from cspdet.errors import DataError
from cspdet.io.progress import progress
from cspdet.io.text import opencv_path

NUM_BITS = 128  # bits per hash
MIN_CONTRAST = 1.0  # minimum standard deviation of the fine structure in gray levels; other images are not compared
THUMBNAIL = 32  # side of the fine structure in pixels; images are decoded at twice this size or more
BLUR_SIZE = 5  # fine structure: thumbnail minus its mean over 5x5 pixels (a high-pass filter)
REDUCED_READ_FLAGS = {
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    1: cv2.IMREAD_GRAYSCALE,
}


class Fingerprints(NamedTuple):
    """Fingerprints of N images, about 2 KB per image."""

    hashes: np.ndarray  # (N, 128) bool
    mirrored: np.ndarray  # (N, 128) bool, of the mirrored images
    detail: np.ndarray  # (N, THUMBNAIL, THUMBNAIL) float16, fine structure with mean 0 and norm THUMBNAIL
    usable: np.ndarray  # (N,) bool, enough contrast to compare
    unreadable: np.ndarray  # (N,) bool


def compute_fingerprints(paths: list[Path]) -> Fingerprints:
    """Read all images at reduced size, in threads, and compute their fingerprints; unreadable images are marked."""
    count = len(paths)
    hashes, mirrored = np.zeros((count, NUM_BITS), bool), np.zeros((count, NUM_BITS), bool)
    detail = np.zeros((count, THUMBNAIL, THUMBNAIL), np.float16)
    usable, unreadable = np.zeros(count, bool), np.zeros(count, bool)

    def process(index: int) -> None:
        try:
            grey = read_small_grey(paths[index])
        except DataError:
            unreadable[index] = True
            return
        detail[index], contrast = _fine_structure(grey)
        usable[index] = contrast >= MIN_CONTRAST
        hashes[index], mirrored[index] = difference_hash(grey), difference_hash(grey[:, ::-1])

    with ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1))) as threads:
        for _ in progress(threads.map(process, range(count)), "comparing images", "image", count):
            pass
    return Fingerprints(hashes, mirrored, detail, usable, unreadable)


def read_small_grey(path: Path) -> np.ndarray:
    """Read an image in grayscale, at a scale of 1/8, 1/4, 1/2 or 1.

    The scale is the smallest at which both sides have at least 2 * THUMBNAIL pixels, or else 1.

    Returns:
        (h, w) float32 gray levels of the upright image.

    Raises:
        DataError: The file is not an image, or is truncated.
    """
    side = min(read_image_header(path).stored_hw)
    factor = next((factor for factor in (8, 4, 2) if side >= 2 * THUMBNAIL * factor), 1)
    grey = cv2.imread(opencv_path(path), REDUCED_READ_FLAGS[factor])
    if grey is None:  # a format that OpenCV cannot read
        grey = cv2.cvtColor(read_image(path), cv2.COLOR_RGB2GRAY)
    return grey.astype(np.float32)


def difference_hash(grey: np.ndarray) -> np.ndarray:
    """Compute a hash of an image from the signs of brightness differences in an 8x8 grid.

    Args:
        grey: (h, w) float32 gray levels.

    Returns:
        (128,) bool. The first 64 values: whether each cell is brighter than its left neighbor; the last 64: whether it
        is brighter than its upper neighbor.
    """
    across = cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA)
    down = cv2.resize(grey, (8, 9), interpolation=cv2.INTER_AREA)
    return np.concatenate(((across[:, 1:] > across[:, :-1]).ravel(), (down[1:] > down[:-1]).ravel()))


def _fine_structure(grey: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the high spatial frequencies of a gray image (h, w).

    Returns:
        (THUMBNAIL, THUMBNAIL) values with standard deviation 1, and the standard deviation before scaling.
    """
    side, margin = THUMBNAIL + BLUR_SIZE - 1, BLUR_SIZE // 2
    small = cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA)
    detail = small - cv2.blur(small, (BLUR_SIZE, BLUR_SIZE))
    detail = detail[
        margin:-margin, margin:-margin
    ]  # only pixels with a complete neighborhood, so that a linear gradient is removed completely
    detail = detail - detail.mean()
    deviation = float(detail.std())
    return detail / max(deviation, 1e-6), deviation
