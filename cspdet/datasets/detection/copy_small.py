"""Copy-paste augmentation of small objects within an image (arXiv:1902.07296).

Coordinates are continuous, in pixels of the sample's image.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from cspdet.letterbox import resize_image
from cspdet.structures import Sample

COPY_SCALE_RANGE = (0.8, 1.2)  # scale of a copied object, from arXiv:1902.07296
MAX_COPY_ATTEMPTS = 20  # number of random positions that are tried for a copy
MAX_OVERLAP = 0.3  # maximum intersection as a fraction of the smaller box; above, one object occludes the other


class Rect(NamedTuple):
    """A rectangle of whole pixels: columns x1 to x2 - 1, rows y1 to y2 - 1."""

    x1: int
    y1: int
    x2: int
    y2: int


def copy_small(sample: Sample, small: np.ndarray, copies: int, rng: np.random.Generator) -> Sample:
    """Paste copies of small objects at free positions of their image.

    The content of a box is copied without blending, at a random scale from COPY_SCALE_RANGE. Crowds and occluded
    objects are not copied. A copy overlaps other objects by at most MAX_OVERLAP. A copy is omitted if no such position
    is found.

    Args:
        sample: The image and its boxes; not modified.
        small: (N,) bool, the objects to copy.
        copies: Number of copies per object.
        rng: Random generator for sizes and positions.
    """
    rows = np.flatnonzero(small & ~sample.is_crowd & _is_unoccluded(sample.box_xyxy))
    if len(rows) == 0:
        return sample
    image = sample.image.copy()
    boxes = list(sample.box_xyxy.astype(np.float64))
    made: list[int] = []
    for row in np.repeat(rows, copies).tolist():
        zoom = rng.uniform(*COPY_SCALE_RANGE)
        source = _enclosing_pixels(boxes[row], (image.shape[0], image.shape[1]))
        patch = sample.image[source.y1 : source.y2, source.x1 : source.x2]
        patch = resize_image(patch, (max(1, round(patch.shape[0] * zoom)), max(1, round(patch.shape[1] * zoom))))
        target = _find_free_rect(patch, image, np.array(boxes), rng)
        if target is None:
            continue
        image[target.y1 : target.y2, target.x1 : target.x2] = patch
        ratio = np.array(
            ((target.x2 - target.x1) / (source.x2 - source.x1), (target.y2 - target.y1) / (source.y2 - source.y1))
        )
        copied_box = (boxes[row].reshape(2, 2) - source[:2]) * ratio + target[:2]
        boxes.append(copied_box.reshape(4))
        made.append(row)
    return replace(
        sample,
        image=image,
        box_xyxy=np.array(boxes).astype(np.float32),
        class_id=np.concatenate((sample.class_id, sample.class_id[made])),
        is_crowd=np.concatenate((sample.is_crowd, sample.is_crowd[made])),
    )


def _is_unoccluded(box_xyxy: np.ndarray) -> np.ndarray:
    """Return a mask (N,) of the boxes (N, 4) that no other box overlaps by more than MAX_OVERLAP."""
    if len(box_xyxy) == 0:
        return np.zeros(0, bool)
    overlap = np.stack([_overlap_ratio(box_xyxy, box) for box in box_xyxy])
    np.fill_diagonal(overlap, 0)
    return np.asarray((overlap <= MAX_OVERLAP).all(axis=1))


def _enclosing_pixels(box_xyxy: np.ndarray, size_hw: tuple[int, int]) -> Rect:
    """Return the rectangle of all pixels of an image that a box (4,) touches, at least one pixel."""
    height, width = size_hw
    x1, y1 = np.floor(box_xyxy[:2]).astype(int).clip(0, (width - 1, height - 1)).tolist()
    x2, y2 = np.ceil(box_xyxy[2:]).astype(int).clip((x1 + 1, y1 + 1), (width, height)).tolist()
    return Rect(x1, y1, x2, y2)


def _find_free_rect(patch: np.ndarray, image: np.ndarray, boxes: np.ndarray, rng: np.random.Generator) -> Rect | None:
    """Find a random position at which a patch overlaps no box by more than MAX_OVERLAP.

    Return None if all attempts fail.
    """
    height, width = patch.shape[:2]
    attempts = rng.random((MAX_COPY_ATTEMPTS, 2))
    room = (image.shape[1] - width + 1, image.shape[0] - height + 1)
    if min(room) < 1:
        return None
    for x, y in (attempts * room).astype(int).tolist():
        rect = Rect(x, y, x + width, y + height)
        if (_overlap_ratio(boxes, np.array(rect)) <= MAX_OVERLAP).all():
            return rect
    return None


def box_area(box_xyxy: np.ndarray) -> np.ndarray:
    """Return the area of boxes, (N, 4) -> (N,) or (4,) -> (), in square pixels; the area of an inverted box is 0."""
    return np.asarray((box_xyxy[..., 2:] - box_xyxy[..., :2]).clip(0).prod(axis=-1))


def box_intersection(box_xyxy: np.ndarray, other_xyxy: np.ndarray) -> np.ndarray:
    """Return the (N,) intersection area of boxes (N, 4) with one box (4,), in square pixels."""
    low = np.maximum(box_xyxy[:, :2], other_xyxy[:2])
    return box_area(np.concatenate((low, np.minimum(box_xyxy[:, 2:], other_xyxy[2:])), axis=1))


def _overlap_ratio(box_xyxy: np.ndarray, other_xyxy: np.ndarray) -> np.ndarray:
    """Return the (N,) intersection of boxes (N, 4) with one box (4,), divided by the area of the smaller box."""
    smaller = np.minimum(box_area(box_xyxy), box_area(other_xyxy))
    return np.asarray(box_intersection(box_xyxy, other_xyxy) / np.maximum(smaller, 1e-9))
