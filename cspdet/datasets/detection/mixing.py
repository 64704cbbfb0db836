"""Mix two augmented images into one: mixup and cutmix.

The functions return new samples and do not modify their arguments. Coordinates are continuous, in input pixels.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from cspdet.datasets.detection.compose import AugmentedSample, keep_mask
from cspdet.datasets.detection.copy_small import Rect, box_area, box_intersection


def mixup(first: AugmentedSample, second: AugmentedSample, second_weight: float) -> AugmentedSample:
    """Blend two images of equal size and keep the boxes of both (mixup, arXiv:1710.09412).

    All boxes have full weight in the loss, regardless of the blend weights, as in YOLOX (arXiv:2107.08430).
    """
    image = cv2.addWeighted(first.sample.image, 1 - second_weight, second.sample.image, second_weight, 0)
    return _concat(first, second, image)


def cutmix(first: AugmentedSample, second: AugmentedSample, rect: Rect, min_visible: float) -> AugmentedSample:
    """Paste a rectangle of the second image into the first image, which has the same size (CutMix, arXiv:1905.04899).

    A box of the first image is reduced to its uncovered part if this part is a rectangle; if not, the box is not
    changed. A box of the second image is clipped to the rectangle. Boxes with a visible fraction below `min_visible`
    are dropped.
    """
    image = first.sample.image.copy()
    rows, columns = slice(rect.y1, rect.y2), slice(rect.x1, rect.x2)
    image[rows, columns] = second.sample.image[rows, columns]

    box = first.sample.box_xyxy.astype(np.float64)
    visible_area = box_area(box) - box_intersection(box, np.array(rect))
    left = _subtract_rect(box, rect)
    keep = keep_mask(left, visible_area, first.area, first.sample.is_crowd, min_visible)
    inside = second.sample.box_xyxy.astype(np.float64)
    inside = np.concatenate((np.maximum(inside[:, :2], rect[:2]), np.minimum(inside[:, 2:], rect[2:])), axis=1)
    keep_inside = keep_mask(inside, box_area(inside), second.area, second.sample.is_crowd, min_visible)
    return _concat(_select(first, left, keep), _select(second, inside, keep_inside), image)


def rand_bbox(size_hw: tuple[int, int], rng: np.random.Generator) -> Rect:
    """Draw a rectangle for cutmix, clipped to the image.

    Area and center are random; the aspect ratio is that of the image.
    """
    height, width = size_hw
    area_fraction, x, y = rng.random(3).tolist()
    half_w, half_h = area_fraction**0.5 * width / 2, area_fraction**0.5 * height / 2
    ends = (x * width - half_w, y * height - half_h, x * width + half_w, y * height + half_h)
    x1, y1, x2, y2 = (round(end) for end in ends)
    return Rect(max(0, x1), max(0, y1), min(width, x2), min(height, y2))


def _subtract_rect(box_xyxy: np.ndarray, rect: Rect) -> np.ndarray:
    """Cut `rect` out of the boxes (N, 4), float64; a box is unchanged if its remaining part is not a rectangle."""
    low, high = box_xyxy[:, :2], box_xyxy[:, 2:]
    first, last = np.array(rect[:2], np.float64), np.array(rect[2:], np.float64)
    meets = ((low < last) & (first < high)).all(axis=1, keepdims=True)
    spans = (first <= low) & (high <= last)  # (N, 2), along x and along y
    across = meets & spans[:, ::-1]  # (N, 2): a box can be cut along this axis if `rect` spans it along the other axis
    return np.concatenate(
        (np.where(across & (first <= low), last, low), np.where(across & (high <= last), first, high)), axis=1
    )


def _select(augmented: AugmentedSample, box_xyxy: np.ndarray, keep: np.ndarray) -> AugmentedSample:
    """Return a sample with the boxes that `keep` selects; `box_xyxy` are their new positions."""
    sample = augmented.sample
    boxes = box_xyxy[keep].astype(np.float32)
    kept = replace(sample, box_xyxy=boxes, class_id=sample.class_id[keep], is_crowd=sample.is_crowd[keep])
    return AugmentedSample(kept, augmented.area[keep])


def _concat(one: AugmentedSample, two: AugmentedSample, image: np.ndarray) -> AugmentedSample:
    """Return a sample with the given image, the boxes of both samples, and the image id of the first sample."""
    first, second = one.sample, two.sample
    sample = replace(
        first,
        image=image,
        box_xyxy=np.concatenate((first.box_xyxy, second.box_xyxy)),
        class_id=np.concatenate((first.class_id, second.class_id)),
        is_crowd=np.concatenate((first.is_crowd, second.is_crowd)),
    )
    return AugmentedSample(sample, np.concatenate((one.area, two.area)))
