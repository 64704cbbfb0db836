"""Geometric augmentation: warp one image, or a mosaic of four, into the input, with the boxes.

Each image is drawn into the input with one affine map: its placement (letterbox, or corner of a mosaic), then shear,
rotation, zoom and flips about the center of the input, then a shift. The same map is applied to the boxes. Coordinates
are continuous: pixel i spans [i, i + 1].
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import cv2
import numpy as np

from cspdet.datasets.colors import HsvGains, apply_hsv, random_hsv_gains
from cspdet.datasets.config import AugmentConfig, Resize
from cspdet.datasets.detection.copy_small import copy_small
from cspdet.letterbox import PAD_VALUE, Letterbox
from cspdet.structures import Sample

MASK_BITS = 4  # fractional bits of the corner coordinates for fillConvexPoly
MIN_SIDE = 2.0  # pixels; boxes with a shorter side are dropped


class AugmentedSample(NamedTuple):
    """A sample, and the areas of its boxes before the boxes were clipped or covered."""

    sample: Sample
    area: np.ndarray  # (N,) float64, square pixels


class SampleDataset(Protocol):
    """Interface of datasets: index -> sample with an image of at most the input size, and boxes in image pixels."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Sample: ...


class ImageComposer:
    """Warps one image of a dataset, or a mosaic of four, into the input.

    Args:
        config: Mosaic, geometry, colors and copies of small objects.
        size_hw: Input height and width in pixels.
        resize: How images are fit into the input before the augmentation: letterbox or stretch.
    """

    def __init__(self, config: AugmentConfig, size_hw: tuple[int, int], resize: Resize):
        self.config, self.size_hw, self.resize = config, size_hw, resize
        self._changes_colors = config.hue != 0 or config.saturation != 1 or config.exposure != 1

    def __call__(
        self, dataset: SampleDataset, index: int, rng: np.random.Generator, *, mosaic: bool
    ) -> AugmentedSample:
        """Compose image `index`; with probability `config.mosaic`, compose a mosaic of this and three random images."""
        samples = [dataset[index]]
        if mosaic and rng.random() < self.config.mosaic:
            samples += [dataset[int(i)] for i in rng.integers(len(dataset), size=3)]
        if self.config.copy_small:
            samples = [self._copy_small_objects(sample, rng) for sample in samples]
        placements = self._placements(samples, rng)
        view = random_affine_matrix(self.config, self.size_hw, rng)
        image = np.full((*self.size_hw, 3), PAD_VALUE, np.uint8)
        moved = []
        for sample, placement in zip(samples, placements, strict=True):
            gains = random_hsv_gains(self.config, rng) if self._changes_colors else None
            drawn_by = warp_into(image, sample.image, view @ placement, gains)
            moved.append(transform_boxes(sample.box_xyxy, drawn_by))
        return self._clip_and_filter(image, np.concatenate(moved), samples)

    def _copy_small_objects(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Return a sample with additional copies of its small objects."""
        box = Letterbox.fit(sample.image.shape[:2], self.size_hw, self.resize)
        sides = sample.box_xyxy[:, 2:] - sample.box_xyxy[:, :2]
        area = sides.prod(axis=1) * (box.scale_x * box.scale_y)
        return copy_small(sample, area <= self.config.copy_small_side**2, self.config.copy_small, rng)

    def _placements(self, samples: list[Sample], rng: np.random.Generator) -> list[np.ndarray]:
        """Return one (3, 3) map for each image, from image pixels to input pixels.

        A single image is fit into the input. The four images of a mosaic touch at a random point, and can extend beyond
        the input.
        """
        boxes = [Letterbox.fit(sample.image.shape[:2], self.size_hw, self.resize) for sample in samples]
        if len(samples) == 1:
            return [affine((box.scale_x, 0, box.left), (0, box.scale_y, box.top)) for box in boxes]
        meet_y, meet_x = rng.random(2) * self.size_hw
        placements = []
        for i, (sample, box) in enumerate(zip(samples, boxes, strict=True)):
            left = meet_x - (sample.image.shape[1] * box.scale_x if i % 2 == 0 else 0)
            top = meet_y - (sample.image.shape[0] * box.scale_y if i < 2 else 0)
            placements.append(affine((box.scale_x, 0, left), (0, box.scale_y, top)))
        return placements

    def _clip_and_filter(self, image: np.ndarray, box_xyxy: np.ndarray, samples: list[Sample]) -> AugmentedSample:
        """Clip the boxes (N, 4) to the input, and drop boxes with too little visible area."""
        class_id = np.concatenate([sample.class_id for sample in samples])
        is_crowd = np.concatenate([sample.is_crowd for sample in samples])
        height, width = self.size_hw
        clipped = box_xyxy.clip(0, (width, height, width, height))
        visible_area = (clipped[:, 2:] - clipped[:, :2]).prod(axis=1)
        area = (box_xyxy[:, 2:] - box_xyxy[:, :2]).prod(axis=1)
        keep = keep_mask(clipped, visible_area, area, is_crowd, self.config.min_visible)
        boxes = clipped[keep].astype(np.float32)
        first = samples[0]
        kept = Sample(image, boxes, class_id[keep], is_crowd[keep], first.image_id, first.image_hw)
        return AugmentedSample(kept, area[keep])


def affine(x_row: tuple[float, float, float], y_row: tuple[float, float, float]) -> np.ndarray:
    """Return the (3, 3) matrix of the map x' = a x + b y + c, y' = d x + e y + f; the rows are (a, b, c), (d, e, f)."""
    return np.array((x_row, y_row, (0, 0, 1)), dtype=np.float64)


def random_affine_matrix(config: AugmentConfig, size_hw: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Draw a random (3, 3) map of the input: shear, rotation, zoom and flips about its center, then a shift."""
    height, width = size_hw
    draw = rng.random(8).tolist()
    either_way = [2 * value - 1 for value in draw[:5]]
    angle = math.radians(either_way[0] * config.rotate)
    shear_x, shear_y = (math.tan(math.radians(value * config.shear)) for value in either_way[1:3])
    shift_x, shift_y = (value * config.translate for value in either_way[3:5])
    zoom = config.scale[0] + draw[5] * (config.scale[1] - config.scale[0])
    zoom_x = -zoom if draw[6] < config.flip_horizontal else zoom
    zoom_y = -zoom if draw[7] < config.flip_vertical else zoom
    cos, sin = math.cos(angle), math.sin(angle)
    # x' = x + shear_x y, then y' = y + shear_y x': a simultaneous shear could collapse the image to a line.
    bend = 1 + shear_x * shear_y
    a, b = zoom_x * (cos - sin * shear_y), zoom_x * (cos * shear_x - sin * bend)
    c, d = zoom_y * (sin + cos * shear_y), zoom_y * (sin * shear_x + cos * bend)
    half_w, half_h = width / 2, height / 2
    return affine(
        (a, b, half_w - a * half_w - b * half_h + shift_x * width),
        (c, d, half_h - c * half_w - d * half_h + shift_y * height),
    )


def transform_boxes(box_xyxy: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Map boxes (N, 4) with a (3, 3) matrix; return the (N, 4) float64 bounding boxes of their mapped corners."""
    (a, b, x), (c, d, y) = matrix[:2].tolist()
    if b == 0 == c:
        moved = box_xyxy * np.array((a, d, a, d)) + (x, y, x, y)
        return moved[:, ((0, 2)[a < 0], (1, 3)[d < 0], (2, 0)[a < 0], (3, 1)[d < 0])]
    corners = box_xyxy[:, (0, 1, 2, 1, 2, 3, 0, 3)].reshape(-1, 4, 2) @ matrix[:2, :2].T + matrix[:2, 2]
    return np.concatenate((corners.min(axis=1), corners.max(axis=1)), axis=1)


def warp_into(canvas: np.ndarray, image: np.ndarray, matrix: np.ndarray, gains: HsvGains | None = None) -> np.ndarray:
    """Draw an image into a canvas; pixels outside the image are not changed.

    Without rotation and shear, the image is cropped at whole pixels and resized, which takes half the time of a warp.

    Args:
        canvas: (H, W, 3) uint8, modified in place.
        image: (h, w, 3) uint8.
        matrix: (3, 3) map from image to canvas.
        gains: Color change; None: no change.

    Returns:
        The map with which the image was drawn, to be applied to its boxes. Without rotation and shear, it may differ
        from `matrix` by up to half a pixel.
    """
    height, width = image.shape[:2]
    (a, b, x), (c, d, y) = matrix[:2].tolist()
    corners = [(a * u + b * v + x, c * u + d * v + y) for u, v in ((0, 0), (width, 0), (width, height), (0, height))]
    # A pixel is drawn if its center is covered, so that adjacent images have no gap and no overlap.
    left, right = _covered_pixels([corner[0] for corner in corners], canvas.shape[1])
    top, bottom = _covered_pixels([corner[1] for corner in corners], canvas.shape[0])
    if right <= left or bottom <= top:
        return matrix
    region = canvas[top:bottom, left:right]
    if b == 0 == c:
        across, down = _axis_crop(left, right, a, x, width), _axis_crop(top, bottom, d, y, height)
        _resize_into(region, image, across, down, gains)
        return affine((across.scale, 0, across.shift), (0, down.scale, down.shift))
    # In OpenCV, pixel centers are at integer coordinates: half a pixel less than here, in image and canvas.
    shift = np.array(((a, b, x + (a + b - 1) / 2 - left), (c, d, y + (c + d - 1) / 2 - top)))
    _warp_into(region, image, shift, np.array(corners) - (left + 0.5, top + 0.5), gains)
    return matrix


def _resize_into(
    region: np.ndarray, image: np.ndarray, across: _AxisCrop, down: _AxisCrop, gains: HsvGains | None
) -> None:
    """Fill a region of the canvas with a resized and flipped crop of an image."""
    patch = image[down.start : down.end, across.start : across.end]
    if patch.shape[:2] != region.shape[:2]:
        patch = cv2.resize(patch, (region.shape[1], region.shape[0]), interpolation=cv2.INTER_LINEAR)
    if across.scale < 0 or down.scale < 0:
        patch = cv2.flip(patch, -1 if across.scale < 0 and down.scale < 0 else int(across.scale < 0))
    region[...] = patch if gains is None else apply_hsv(patch, gains)


def _warp_into(
    region: np.ndarray, image: np.ndarray, matrix: np.ndarray, corners: np.ndarray, gains: HsvGains | None
) -> None:
    """Warp an image into the polygon `corners` (4, 2) of a region; pixel centers are at integer coordinates."""
    patch = cv2.warpAffine(
        cv2.cvtColor(image, cv2.COLOR_RGB2RGBA),  # warping four channels takes two thirds of the time of three
        matrix,
        (region.shape[1], region.shape[0]),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    patch = patch[..., :3] if gains is None else apply_hsv(patch, gains)
    mask = np.zeros(region.shape[:2], np.uint8)
    cv2.fillConvexPoly(mask, np.rint(corners * (1 << MASK_BITS)).astype(np.int32), 255, shift=MASK_BITS)
    cv2.copyTo(np.ascontiguousarray(patch), mask, region)


class _AxisCrop(NamedTuple):
    """The visible part of an image along one axis, and its map to the canvas: scale * coordinate + shift."""

    start: int
    end: int  # exclusive
    scale: float
    shift: float


def _axis_crop(first: int, last: int, scale: float, shift: float, length: int) -> _AxisCrop:
    """Return the image pixels for the canvas pixels `first` to `last` - 1, and the map from image to canvas."""
    ends = sorted(((first - shift) / scale, (last - shift) / scale))
    start = min(max(round(ends[0]), 0), length - 1)
    end = min(max(round(ends[1]), start + 1), length)
    exact = (last - first) / (end - start)
    return (
        _AxisCrop(start, end, exact, first - exact * start)
        if scale > 0
        else _AxisCrop(start, end, -exact, first + exact * end)
    )


def _covered_pixels(edges: list[float], limit: int) -> tuple[int, int]:
    """Return start and exclusive end of the pixels below `limit` with centers between min(edges) and max(edges)."""
    slack = 0.5 + 1e-6  # tolerance for rounding errors of edges at whole pixels
    return max(0, math.ceil(min(edges) - slack)), min(limit, math.ceil(max(edges) - slack))


def keep_mask(
    box_xyxy: np.ndarray, visible_area: np.ndarray, area: np.ndarray, is_crowd: np.ndarray, min_visible: float
) -> np.ndarray:
    """Return a mask of the boxes that have enough visible area, and sides of at least MIN_SIDE.

    Crowds are kept at any visible fraction, so that predictions inside crowds remain ignored in the loss.

    Args:
        box_xyxy: (N, 4) visible parts of the boxes.
        visible_area: (N,) visible area in square pixels.
        area: (N,) area in square pixels before clipping and covering.
        is_crowd: (N,) bool.
        min_visible: Minimum visible fraction of `area`.

    Returns:
        (N,) bool.
    """
    is_visible = (visible_area >= min_visible * area) | is_crowd
    return is_visible & (box_xyxy[:, 2:] - box_xyxy[:, :2] >= MIN_SIDE).all(axis=1)
