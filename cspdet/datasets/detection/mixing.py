"""Training pictures of detectors made of parts of others: mixup, cutmix, copies of small objects.

Functions of samples alone: they return new ones and leave those given as they are. Coordinates are continuous, pixels
of the picture that a sample holds.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np

from cspdet.letterbox import resize_image
from cspdet.structures import Sample

MIN_SIDE = 2.0  # pixels; less of a box than this shows nothing to learn
COPY_SCALE_RANGE = (0.8, 1.2)  # of a copied object, as arXiv:1902.07296 has it
MAX_COPY_ATTEMPTS = 20  # places tried for a copy
MAX_OVERLAP = 0.3  # share of the smaller of two boxes; beyond it, one of them hides the other


class AugmentedSample(NamedTuple):
    """A sample, and how large its boxes were before anything of them was cut off or covered."""

    sample: Sample
    area: np.ndarray  # (N,) float64, square pixels


class Rect(NamedTuple):
    """A rectangle of whole pixels: columns x1 to x2 - 1, rows y1 to y2 - 1."""

    x1: int
    y1: int
    x2: int
    y2: int


def keep_mask(
    box_xyxy: np.ndarray, visible_area: np.ndarray, area: np.ndarray, is_crowd: np.ndarray, min_visible: float
) -> np.ndarray:
    """(N,) bool: whether enough is left of boxes (N, 4), of which `shown` of `area` square pixels (N,) can be seen.

    A crowd stays as long as anything of it shows: what lies inside it must not be punished.
    """
    is_visible = (visible_area >= min_visible * area) | is_crowd
    return is_visible & (box_xyxy[:, 2:] - box_xyxy[:, :2] >= MIN_SIDE).all(axis=1)


# --- two pictures --------------------------------------------------------------------------------


def mixup(first: AugmentedSample, second: AugmentedSample, second_weight: float) -> AugmentedSample:
    """`share` of the second picture over the first, of one size, with the boxes of both (arXiv:1710.09412).

    Each box counts in full, as in YOLOX (arXiv:2107.08430), whatever its picture's share: targets have no weights.
    """
    image = cv2.addWeighted(first.sample.image, 1 - second_weight, second.sample.image, second_weight, 0)
    return _concat(first, second, image)


def cutmix(first: AugmentedSample, second: AugmentedSample, rect: Rect, min_visible: float) -> AugmentedSample:
    """That part of the second picture in its place in the first, of one size (arXiv:1905.04899), with the boxes that
    show enough: `min_visible` of their area.

    Of a box of the first, a straight cut leaves a smaller box. What is left otherwise, around a corner or on two
    sides, is no rectangle, and the box stays as it is. A box of the second ends where the part does.
    """
    image = first.sample.image.copy()
    rows, columns = slice(rect.y1, rect.y2), slice(rect.x1, rect.x2)
    image[rows, columns] = second.sample.image[rows, columns]

    box = first.sample.box_xyxy.astype(np.float64)
    visible_area = _area(box) - _intersection(box, np.array(rect))
    left = _subtract_rect(box, rect)
    keep = keep_mask(left, visible_area, first.area, first.sample.is_crowd, min_visible)
    inside = second.sample.box_xyxy.astype(np.float64)
    inside = np.concatenate((np.maximum(inside[:, :2], rect[:2]), np.minimum(inside[:, 2:], rect[2:])), axis=1)
    keep_inside = keep_mask(inside, _area(inside), second.area, second.sample.is_crowd, min_visible)
    return _concat(_select(first, left, keep), _select(second, inside, keep_inside), image)


def rand_bbox(size_hw: tuple[int, int], rng: np.random.Generator) -> Rect:
    """A rectangle as cutmix draws it: any share of the picture, of its shape, its center anywhere, cut to it."""
    height, width = size_hw
    area_fraction, x, y = rng.random(3).tolist()
    half_w, half_h = area_fraction**0.5 * width / 2, area_fraction**0.5 * height / 2
    ends = (x * width - half_w, y * height - half_h, x * width + half_w, y * height + half_h)
    x1, y1, x2, y2 = (round(end) for end in ends)
    return Rect(max(0, x1), max(0, y1), min(width, x2), min(height, y2))


def _subtract_rect(box_xyxy: np.ndarray, rect: Rect) -> np.ndarray:
    """(N, 4) float64 boxes without what `part` covers of them, where that leaves a rectangle; else as they are."""
    low, high = box_xyxy[:, :2], box_xyxy[:, 2:]
    first, last = np.array(rect[:2], np.float64), np.array(rect[2:], np.float64)
    meets = ((low < last) & (first < high)).all(axis=1, keepdims=True)
    spans = (first <= low) & (high <= last)  # (N, 2), along x and along y
    across = meets & spans[:, ::-1]  # where it spans the other way, an end that it covers is cut off; both, all of it
    return np.concatenate(
        (np.where(across & (first <= low), last, low), np.where(across & (high <= last), first, high)), axis=1
    )


def _select(augmented: AugmentedSample, box_xyxy: np.ndarray, keep: np.ndarray) -> AugmentedSample:
    """Some boxes of a scene, at their new places."""
    sample = augmented.sample
    boxes = box_xyxy[keep].astype(np.float32)
    kept = replace(sample, box_xyxy=boxes, class_id=sample.class_id[keep], is_crowd=sample.is_crowd[keep])
    return AugmentedSample(kept, augmented.area[keep])


def _concat(one: AugmentedSample, two: AugmentedSample, image: np.ndarray) -> AugmentedSample:
    """The boxes of both on a picture that goes by the first's id."""
    first, second = one.sample, two.sample
    sample = replace(
        first,
        image=image,
        box_xyxy=np.concatenate((first.box_xyxy, second.box_xyxy)),
        class_id=np.concatenate((first.class_id, second.class_id)),
        is_crowd=np.concatenate((first.is_crowd, second.is_crowd)),
    )
    return AugmentedSample(sample, np.concatenate((one.area, two.area)))


# --- small objects -------------------------------------------------------------------------------


def copy_small(sample: Sample, small: np.ndarray, copies: int, rng: np.random.Generator) -> Sample:
    """Up to `copies` more of each `small` object (N,) bool, at free places of the same picture (arXiv:1902.07296).

    An object is copied as its box shows it, with hard edges, a little larger or smaller. Neither is one copied that
    another hides, nor a copy put where it hides or is hidden; where no free place is found, it is left out. Crowds are
    never copied.
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
    """(N,) bool: no other of the boxes (N, 4) hides it or is hidden."""
    if len(box_xyxy) == 0:
        return np.zeros(0, bool)
    overlap = np.stack([_overlap_ratio(box_xyxy, box) for box in box_xyxy])
    np.fill_diagonal(overlap, 0)
    return np.asarray((overlap <= MAX_OVERLAP).all(axis=1))


def _enclosing_pixels(box_xyxy: np.ndarray, size_hw: tuple[int, int]) -> Rect:
    """The pixels of a picture that a box (4,) touches, one or more."""
    height, width = size_hw
    x1, y1 = np.floor(box_xyxy[:2]).astype(int).clip(0, (width - 1, height - 1)).tolist()
    x2, y2 = np.ceil(box_xyxy[2:]).astype(int).clip((x1 + 1, y1 + 1), (width, height)).tolist()
    return Rect(x1, y1, x2, y2)


def _find_free_rect(patch: np.ndarray, image: np.ndarray, boxes: np.ndarray, rng: np.random.Generator) -> Rect | None:
    """Where a patch fits into a picture without hiding or being hidden: the first free one of some random places."""
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


# --- boxes ---------------------------------------------------------------------------------------


def _area(box_xyxy: np.ndarray) -> np.ndarray:
    """(N,) square pixels of boxes (N, 4) or (4,); 0 for those turned inside out."""
    return np.asarray((box_xyxy[..., 2:] - box_xyxy[..., :2]).clip(0).prod(axis=-1))


def _intersection(box_xyxy: np.ndarray, other_xyxy: np.ndarray) -> np.ndarray:
    """(N,) square pixels that boxes (N, 4) share with one (4,)."""
    low = np.maximum(box_xyxy[:, :2], other_xyxy[:2])
    return _area(np.concatenate((low, np.minimum(box_xyxy[:, 2:], other_xyxy[2:])), axis=1))


def _overlap_ratio(box_xyxy: np.ndarray, other_xyxy: np.ndarray) -> np.ndarray:
    """(N,) what boxes (N, 4) share with one (4,), of the smaller of the two; never less than their IoU."""
    smaller = np.minimum(_area(box_xyxy), _area(other_xyxy))
    return np.asarray(_intersection(box_xyxy, other_xyxy) / np.maximum(smaller, 1e-9))
