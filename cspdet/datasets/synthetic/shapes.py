"""Images of the built-in dataset: six classes of flat shapes.

As in COCO, a box is the tight bounding box of the visible pixels, and `area` is the number of visible pixels. Shapes
with less than 30% of visible area are not annotated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from cspdet.datasets.formats.coco_writer import CocoBox
from cspdet.datasets.synthetic.texture import (
    Color,
    apply_camera_noise,
    background,
    draw_clutter,
    draw_occluding_strokes,
    vivid_color,
)

# Ids have gaps and do not start at 1, so that code tested with them also works with the ids of COCO.
CATEGORIES = {3: "circle", 5: "square", 6: "triangle", 10: "star", 11: "ring", 17: "cross"}
MIN_VISIBLE_FRACTION = 0.3  # minimum visible fraction of an annotated shape
MIN_DIAMETER = 8.0  # minimum longer side of a shape in pixels
# Each class has its own range of hues, so that the classes can be learned in a few hundred training steps.
HUE_SPREAD = 1 / 24  # half width of the range, as a fraction of the color circle
OVERSAMPLE = 4  # shapes are drawn at this scale and downscaled, for anti-aliased edges


@dataclass(frozen=True)
class DrawnShape:
    """Shape with its class, position and appearance, in image pixels and radians."""

    class_index: int  # index into CATEGORIES
    center: tuple[float, float]  # x, y
    diameter: float  # longer side of its axis-aligned box
    angle: float
    aspect_ratio: float  # width over height before the rotation
    color: Color
    second_color: Color
    style: int  # 0 plain, 1 gradient, 2 stripes
    period: float  # of the stripes, in pixels


def _star(points: int, inner: float) -> np.ndarray:
    turn = np.arange(2 * points) * np.pi / points - np.pi / 2
    radius = np.where(np.arange(2 * points) % 2 == 0, 1.0, inner)
    return np.stack((np.cos(turn), np.sin(turn)), 1) * radius[:, None]


def _regular_polygon(corners: int) -> np.ndarray:
    turn = np.arange(corners) * 2 * np.pi / corners - np.pi / 2
    return np.stack((np.cos(turn), np.sin(turn)), 1)


_ARM = 0.32  # half of the arm width of the cross
_CROSS = np.array(
    [(-_ARM, -1), (_ARM, -1), (_ARM, -_ARM), (1, -_ARM), (1, _ARM), (_ARM, _ARM)]
    + [(_ARM, 1), (-_ARM, 1), (-_ARM, _ARM), (-1, _ARM), (-1, -_ARM), (-_ARM, -_ARM)]
)
_SQUARE = np.array([(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)])
# Contours of each class around its center; a second contour is a hole.
_OUTLINES: tuple[tuple[np.ndarray, ...], ...] = (
    (_regular_polygon(48),),
    (_SQUARE,),
    (_regular_polygon(3),),
    (_star(5, 0.42),),
    (_regular_polygon(48), 0.55 * _regular_polygon(48)),
    (_CROSS,),
)


def outline(shape: DrawnShape) -> list[np.ndarray]:
    """Return the contours of a shape: arrays (n, 2) float64 of x, y in image pixels; a second contour is a hole.

    The longer side of the bounding box of the contours is `diameter`.
    """
    wide, high = math.sqrt(shape.aspect_ratio), 1 / math.sqrt(shape.aspect_ratio)
    c, s = math.cos(shape.angle), math.sin(shape.angle)
    turn = np.array([[c, s], [-s, c]])
    contours = [contour * (wide, high) @ turn for contour in _OUTLINES[shape.class_index]]
    low, top = contours[0].min(0), contours[0].max(0)
    scale = shape.diameter / (top - low).max()
    return [(contour - (low + top) / 2) * scale + shape.center for contour in contours]


@dataclass(frozen=True)
class RasterizedShape:
    """A rasterized shape: a window of the image, and the fraction of each of its pixels that the shape covers."""

    top: int
    left: int
    alpha: np.ndarray  # (h, w) float32 in [0, 1], for the pixels inside the image
    pixels: int  # number of pixels that are at least half covered, including those outside the image

    @property
    def window(self) -> tuple[slice, slice]:
        """The rows and columns of the window in the image."""
        height, width = self.alpha.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)

    @property
    def mask(self) -> np.ndarray:
        """Mask of the pixels of the window that are at least half covered, (h, w) bool."""
        return self.alpha >= 0.5


def rasterize(shape: DrawnShape, size_hw: tuple[int, ...]) -> RasterizedShape:
    """Rasterize a shape with anti-aliased edges; pixels outside an image of `size_hw` are cut off."""
    contours = outline(shape)
    left, top = np.floor(contours[0].min(0)).astype(int) - 1
    right, bottom = np.ceil(contours[0].max(0)).astype(int) + 1
    large = np.zeros(((bottom - top) * OVERSAMPLE, (right - left) * OVERSAMPLE), np.uint8)
    # In fillPoly, pixel centers are at integers; here, pixel edges are: subtract half an oversampled pixel.
    fixed = [np.round(((contour - (left, top)) * OVERSAMPLE - 0.5) * 16).astype(np.int32) for contour in contours]
    cv2.fillPoly(large, fixed, 255, cv2.LINE_8, shift=4)
    alpha = cv2.resize(large, (right - left, bottom - top), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    rows = slice(max(-top, 0), max(min(size_hw[0] - top, bottom - top), 0))
    columns = slice(max(-left, 0), max(min(size_hw[1] - left, right - left), 0))
    return RasterizedShape(max(int(top), 0), max(int(left), 0), alpha[rows, columns], int((alpha >= 0.5).sum()))


def paint(canvas: np.ndarray, shape: DrawnShape, rasterized: RasterizedShape) -> None:
    """Draw a shape into `canvas` (H, W, 3) float32; its texture rotates with the shape."""
    rows, columns = rasterized.window
    y = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] - np.float32(shape.center[1])
    x = np.arange(columns.start, columns.stop, dtype=np.float32)[None] - np.float32(shape.center[0])
    along = x * np.float32(math.cos(shape.angle)) + y * np.float32(math.sin(shape.angle))
    if shape.style == 1:
        weight = along / np.float32(shape.diameter) + np.float32(0.5)
    elif shape.style == 2:
        weight = (np.sin(along * np.float32(2 * math.pi / shape.period)) > 0).astype(np.float32)
    else:
        weight = np.zeros_like(along)
    for channel, (first, second) in enumerate(zip(shape.color, shape.second_color, strict=True)):
        part = canvas[rows, columns, channel]
        part += (first + (second - first) * weight - part) * rasterized.alpha


def random_diameter(rng: np.random.Generator, size: int) -> float:
    """Sample a diameter in pixels, at least MIN_DIAMETER.

    One of three ranges, relative to the image size, is drawn first; the range 1/10 to 3/8 has a probability of 83%. The
    diameter is log-uniform in the range.
    """
    low, high = [(MIN_DIAMETER / size, 1 / 10), (1 / 10, 3 / 8), (3 / 8, 1 / 2)][rng.choice(3, p=[0.05, 0.83, 0.12])]
    fraction = math.exp(rng.uniform(math.log(min(low, high)), math.log(high)))
    return float(np.clip(fraction * size, MIN_DIAMETER, size / 2))


def random_shape(rng: np.random.Generator, canvas: np.ndarray, class_index: int | None = None) -> DrawnShape:
    """Sample a shape of a class (None: any class) at a random position, in the colors of its class."""
    height, width = canvas.shape[:2]
    center = (float(rng.uniform(0.04, 0.96) * width), float(rng.uniform(0.04, 0.96) * height))
    diameter = random_diameter(rng, min(height, width))
    class_index = int(rng.integers(len(CATEGORIES))) if class_index is None else class_index
    color = vivid_color(rng, class_index / len(CATEGORIES), HUE_SPREAD)
    second = np.clip(color + rng.uniform(-50, 50, 3), 0, 255).astype(np.float32)
    return DrawnShape(
        class_index=class_index,
        center=center,
        diameter=diameter,
        angle=float(rng.uniform(0, 2 * math.pi)),
        aspect_ratio=float(math.exp(rng.uniform(-0.3, 0.3))),
        color=color,
        second_color=second,
        style=int(rng.choice(3, p=[0.5, 0.3, 0.2])),
        period=float(rng.uniform(6, 16)),
    )


class ShapesCanvas:
    """Image with shapes; later shapes occlude earlier ones.

    `shape_index` (H, W) is the index of the top shape at each pixel; -1: none.
    """

    def __init__(self, image: np.ndarray):
        self.image = image
        self.shape_index = np.full(image.shape[:2], -1, np.int16)
        self.shapes: list[DrawnShape] = []
        self.full_areas: list[int] = []  # area of each shape without occlusion, in pixels
        self.visible_areas: list[int] = []  # visible area of each shape, in pixels

    def add(self, shape: DrawnShape, min_visible_fraction: float = 0.0) -> bool:
        """Draw a shape on top.

        Args:
            shape: The shape.
            min_visible_fraction: The shape is not drawn if less than this fraction of any shape would remain visible.

        Returns:
            True if the shape was drawn.
        """
        rasterized = rasterize(shape, self.image.shape[:2])
        rows, columns = rasterized.window
        mask = rasterized.mask
        occluded = np.bincount(self.shape_index[rows, columns][mask] + 1, minlength=len(self.shapes) + 1)[1:].tolist()
        visible_areas = [n - k for n, k in zip(self.visible_areas, occluded, strict=True)] + [int(mask.sum())]
        full_areas = [*self.full_areas, rasterized.pixels]
        if any(n < min_visible_fraction * full for n, full in zip(visible_areas, full_areas, strict=True)):
            return False
        paint(self.image, shape, rasterized)
        self.shape_index[rows, columns][mask] = len(self.shapes)
        self.shapes.append(shape)
        self.visible_areas, self.full_areas = visible_areas, full_areas
        return True

    def boxes(self) -> tuple[CocoBox, ...]:
        """Return the boxes of the shapes with at least MIN_VISIBLE_FRACTION of visible area, in drawing order."""
        ids, boxes = list(CATEGORIES), []
        for i, (shape, pixels) in enumerate(zip(self.shapes, self.full_areas, strict=True)):
            visible = self.shape_index == i
            area = int(visible.sum())
            if area == 0 or area < MIN_VISIBLE_FRACTION * pixels:
                continue
            x, y, width, height = cv2.boundingRect(visible.astype(np.uint8))
            boxes.append(
                CocoBox(ids[shape.class_index], (float(x), float(y), float(width), float(height)), float(area))
            )
        return tuple(boxes)


def make_image(seed: int, split: int, index: int, size: int) -> tuple[np.ndarray, tuple[CocoBox, ...]]:
    """Generate one image of a split; the result depends only on the arguments.

    Args:
        seed: Seed of the dataset.
        split: Index of the split.
        index: Index of the image.
        size: Height and width in pixels.

    Returns:
        The image, (size, size, 3) uint8 BGR, and its boxes.
    """
    rng = np.random.default_rng((seed, split, index))
    canvas = ShapesCanvas(background(rng, (size, size)))
    draw_clutter(rng, canvas.image, int(rng.integers(0, 9)))
    if index % 20 != 13:  # one of twenty images has no shapes
        for _ in range(int(rng.integers(2, 10))):
            # Usually one of four random shapes fits; otherwise a fifth is drawn without the limit, so that strong
            # occlusion also occurs.
            _ = any(canvas.add(random_shape(rng, canvas.image), 0.6) for _ in range(4)) or canvas.add(
                random_shape(rng, canvas.image)
            )
    canvas.shape_index[draw_occluding_strokes(rng, canvas.image, int(rng.integers(0, 4)))] = -1
    return apply_camera_noise(rng, canvas.image), canvas.boxes()
