"""Pictures -> Sample: mosaic, affine, color and flips, with the random stream passed in.

Every picture is drawn straight into the input by one affine map: its place (a letterbox, or a corner of a
mosaic), then shear, rotation, zoom and flips about the input's center, and a shift. Boxes go through the same
map. Coordinates are continuous: pixel i spans [i, i + 1], and its center lies at i + 0.5. Before that, small objects
may be copied; after it, two such pictures may become one (`cspdet.datasets.detection.mixing`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import cv2
import numpy as np
from pydantic import Field, field_validator, model_validator

from cspdet.config.loader import ConfigModel
from cspdet.datasets.detection.mixing import Scene, copy_small, cut_mix, mix_up, random_part, worth_learning
from cspdet.letterbox import PAD_VALUE, Letterbox
from cspdet.structures import Sample

MASK_BITS = 4  # fractional bits of the corners that fillConvexPoly takes


class AlbumentationsTransform(ConfigModel):
    """One albumentations 2.0.8 transform, named as there: `{name: CLAHE, args: {p: 0.2}}`."""

    name: str
    args: dict[str, Any] = {}


class AugmentConfig(ConfigModel):
    """How training pictures are varied. The defaults train on the letterboxed pictures as they are."""

    mosaic: float = Field(0.0, ge=0, le=1)  # chance that a picture becomes a mosaic of four
    mixup: float = Field(0.0, ge=0, le=1)  # chance that another such picture is blended in, with its boxes
    # Shares are drawn from Beta(alpha, alpha): 32 keeps them near one half, as boxes of both count in full. (1.5 was
    # best in arXiv:1902.04103, whose boxes count by their picture's share.)
    mixup_alpha: float = Field(32.0, gt=0)
    cutmix: float = Field(0.0, ge=0, le=1)  # chance that a rectangle of another such picture is pasted, with its boxes
    # The last epochs go without mosaic, mixup and cutmix, so that training ends on real pictures.
    close_mosaic: int = Field(0, ge=0)
    copy_small: int = Field(0, ge=0)  # copies of each small object, at free places of its picture
    # Objects count as small up to this side, the root of their area: COCO's bound, but in pixels of the letterboxed
    # input, since what the network sees of an object is what makes it hard.
    copy_small_side: float = Field(32.0, gt=0)
    scale: tuple[float, float] = (1.0, 1.0)  # zoom drawn between these
    translate: float = Field(0.0, ge=0, le=1)  # shift by up to this share of the input, either way
    rotate: float = Field(0.0, ge=0, le=180)  # degrees, either way
    shear: float = Field(0.0, ge=0, lt=90)  # degrees, either way
    hue: float = Field(0.0, ge=0, le=0.5)  # shift by up to this share of the color circle, as Darknet's `hue`
    saturation: float = Field(1.0, ge=1, le=10)  # multiply or divide by up to this, as Darknet's `saturation`
    exposure: float = Field(1.0, ge=1, le=10)  # the same for brightness, as Darknet's `exposure`
    flip_horizontal: float = Field(0.0, ge=0, le=1)  # chance
    flip_vertical: float = Field(0.0, ge=0, le=1)  # chance
    min_visible: float = Field(0.2, ge=0, le=1)  # a box that keeps less of its area than this is dropped
    albumentations: tuple[AlbumentationsTransform, ...] = ()

    @field_validator("scale")
    @classmethod
    def _ordered(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if not 0 < scale[0] <= scale[1]:
            raise ValueError(f"expected two zooms above 0, the lower first, found [{scale[0]}, {scale[1]}]")
        return scale

    @model_validator(mode="after")
    def _one_mixing(self) -> AugmentConfig:
        if self.mixup + self.cutmix > 1 + 1e-9:
            raise ValueError(
                "mixup: a picture is mixed in one way: expected mixup + cutmix up to 1, "
                f"found {self.mixup + self.cutmix:g}"
            )
        return self


class Source(Protocol):
    """Pictures by number, each no larger than the network's input, with boxes in its own pixels."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Sample: ...


class Augment:
    """Turns picture `index` of a source into one training sample of `size_hw` (height, width) input pixels.

    The last step, `extra`, is where the transforms of `albumentations_hook` come in.
    """

    def __init__(
        self,
        config: AugmentConfig,
        size_hw: tuple[int, int],
        resize: Literal["letterbox", "stretch"] = "letterbox",
        extra: Callable[[Sample, np.random.Generator], Sample] | None = None,
    ):
        self.config, self.size_hw, self.resize, self.extra = config, size_hw, resize, extra

    def __call__(self, source: Source, index: int, rng: np.random.Generator, *, mosaic: bool = True) -> Sample:
        """The sample is a function of the arguments alone; `mosaic` false keeps to single pictures."""
        scene = self._scene(source, index, rng, mosaic=mosaic)
        if mosaic and self.config.mixup + self.config.cutmix > 0:
            scene = self._mixed(scene, source, rng)
        return scene.sample if self.extra is None else self.extra(scene.sample, rng)

    def _scene(self, source: Source, index: int, rng: np.random.Generator, *, mosaic: bool) -> Scene:
        """One picture, or a mosaic, seen as the settings want it."""
        pictures = [source[index]]
        if mosaic and rng.random() < self.config.mosaic:
            pictures += [source[int(i)] for i in rng.integers(len(source), size=3)]
        if self.config.copy_small:
            pictures = [self._with_copies(picture, rng) for picture in pictures]
        places = self._places(pictures, rng)
        view = random_view(self.config, self.size_hw, rng)
        image = np.full((*self.size_hw, 3), PAD_VALUE, np.uint8)
        moved = []
        for picture, place in zip(pictures, places, strict=True):
            drawn_by = paint(image, picture.image, view @ place, random_colors(self.config, rng))
            moved.append(move_boxes(picture.box_xyxy, drawn_by))
        return self._visible(image, np.concatenate(moved), pictures)

    def _mixed(self, scene: Scene, source: Source, rng: np.random.Generator) -> Scene:
        """The scene with a second one in it, or as it is."""
        config, kind = self.config, rng.random()
        if kind >= config.mixup + config.cutmix:
            return scene
        other = self._scene(source, int(rng.integers(len(source))), rng, mosaic=True)
        if kind < config.mixup:
            return mix_up(scene, other, rng.beta(config.mixup_alpha, config.mixup_alpha))
        return cut_mix(scene, other, random_part(self.size_hw, rng), config.min_visible)

    def _with_copies(self, picture: Sample, rng: np.random.Generator) -> Sample:
        """A picture of the source with more of its small objects."""
        box = Letterbox.fit(picture.image.shape[:2], self.size_hw, self.resize)
        sides = picture.box_xyxy[:, 2:] - picture.box_xyxy[:, :2]
        area = sides.prod(axis=1) * (box.scale_x * box.scale_y)
        return copy_small(picture, area <= self.config.copy_small_side**2, self.config.copy_small, rng)

    def _places(self, pictures: list[Sample], rng: np.random.Generator) -> list[np.ndarray]:
        """(3, 3) maps from each picture to the input: its letterbox, or four that meet in a random point.

        A mosaic is a canvas of twice the input, centered on it; its pictures meet in the middle half of the
        canvas, which is anywhere in the input.
        """
        boxes = [Letterbox.fit(p.image.shape[:2], self.size_hw, self.resize) for p in pictures]
        if len(pictures) == 1:
            return [affine((box.scale_x, 0, box.left), (0, box.scale_y, box.top)) for box in boxes]
        meet_y, meet_x = rng.random(2) * self.size_hw
        places = []
        for i, (picture, box) in enumerate(zip(pictures, boxes, strict=True)):
            left = meet_x - (picture.image.shape[1] * box.scale_x if i % 2 == 0 else 0)
            top = meet_y - (picture.image.shape[0] * box.scale_y if i < 2 else 0)
            places.append(affine((box.scale_x, 0, left), (0, box.scale_y, top)))
        return places

    def _visible(self, image: np.ndarray, box_xyxy: np.ndarray, pictures: list[Sample]) -> Scene:
        """The boxes (N, 4) cut to the input, without those that show too little."""
        class_id = np.concatenate([picture.class_id for picture in pictures])
        is_crowd = np.concatenate([picture.is_crowd for picture in pictures])
        height, width = self.size_hw
        cut = box_xyxy.clip(0, (width, height, width, height))
        shown = (cut[:, 2:] - cut[:, :2]).prod(axis=1)
        area = (box_xyxy[:, 2:] - box_xyxy[:, :2]).prod(axis=1)
        keep = worth_learning(cut, shown, area, is_crowd, self.config.min_visible)
        boxes = cut[keep].astype(np.float32)
        return Scene(Sample(image, boxes, class_id[keep], is_crowd[keep], pictures[0].image_id), area[keep])


def affine(x_row: tuple[float, float, float], y_row: tuple[float, float, float]) -> np.ndarray:
    """The (3, 3) map x' = a x + b y + c, y' = d x + e y + f."""
    return np.array((x_row, y_row, (0, 0, 1)), dtype=np.float64)


def random_view(config: AugmentConfig, size_hw: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """(3, 3) map of the input onto itself: shear, rotation, zoom, flips about its center, then a shift."""
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
    # x' = x + shear_x y, then y' = y + shear_y x': both in one step could fold the picture onto a line.
    bend = 1 + shear_x * shear_y
    a, b = zoom_x * (cos - sin * shear_y), zoom_x * (cos * shear_x - sin * bend)
    c, d = zoom_y * (sin + cos * shear_y), zoom_y * (sin * shear_x + cos * bend)
    half_w, half_h = width / 2, height / 2
    return affine(
        (a, b, half_w - a * half_w - b * half_h + shift_x * width),
        (c, d, half_h - c * half_w - d * half_h + shift_y * height),
    )


def move_boxes(box_xyxy: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """(N, 4) boxes through a (3, 3) map: the tight boxes around their four moved corners, (N, 4) float64."""
    (a, b, x), (c, d, y) = matrix[:2].tolist()
    if b == 0 == c:
        moved = box_xyxy * np.array((a, d, a, d)) + (x, y, x, y)
        return moved[:, ((0, 2)[a < 0], (1, 3)[d < 0], (2, 0)[a < 0], (3, 1)[d < 0])]
    corners = box_xyxy[:, (0, 1, 2, 1, 2, 3, 0, 3)].reshape(-1, 4, 2) @ matrix[:2, :2].T + matrix[:2, 2]
    return np.concatenate((corners.min(axis=1), corners.max(axis=1)), axis=1)


def paint(canvas: np.ndarray, image: np.ndarray, matrix: np.ndarray, colors: ColorChange | None = None) -> np.ndarray:
    """Draw `image` (h, w, 3) into `canvas` (H, W, 3), both uint8, by a (3, 3) map; the rest is left alone.

    Returns the map by which it was drawn, for the boxes. What a picture shows that stays upright begins and ends at
    whole pixels of it, up to half a pixel beside `matrix`: so it need not be warped, but resized, in half of the time.
    """
    height, width = image.shape[:2]
    (a, b, x), (c, d, y) = matrix[:2].tolist()
    corners = [(a * u + b * v + x, c * u + d * v + y) for u, v in ((0, 0), (width, 0), (width, height), (0, height))]
    # A pixel is covered where its center is, so that neighbors share an edge without a gap or an overlap.
    left, right = _covered([corner[0] for corner in corners], canvas.shape[1])
    top, bottom = _covered([corner[1] for corner in corners], canvas.shape[0])
    if right <= left or bottom <= top:
        return matrix
    region = canvas[top:bottom, left:right]
    if b == 0 == c:
        across, down = _cut(left, right, a, x, width), _cut(top, bottom, d, y, height)
        patch = image[down.start : down.end, across.start : across.end]
        if patch.shape[:2] != region.shape[:2]:
            patch = cv2.resize(patch, (right - left, bottom - top), interpolation=cv2.INTER_LINEAR)
        if a < 0 or d < 0:
            patch = cv2.flip(patch, -1 if a < 0 and d < 0 else int(a < 0))
        region[...] = patch if colors is None else change_colors(patch, colors)
        return affine((across.scale, 0, across.shift), (0, down.scale, down.shift))
    # OpenCV's coordinates are those of pixel centers, half a pixel off ours on both sides of the map.
    # It warps four channels in two thirds of the time that three take.
    patch = cv2.warpAffine(
        cv2.cvtColor(image, cv2.COLOR_RGB2RGBA),
        np.array(((a, b, x + (a + b - 1) / 2 - left), (c, d, y + (c + d - 1) / 2 - top))),
        (right - left, bottom - top),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    patch = patch[..., :3] if colors is None else change_colors(patch, colors)
    mask = np.zeros(region.shape[:2], np.uint8)
    outline = (np.array(corners) - (left + 0.5, top + 0.5)) * (1 << MASK_BITS)
    cv2.fillConvexPoly(mask, np.rint(outline).astype(np.int32), 255, shift=MASK_BITS)
    cv2.copyTo(np.ascontiguousarray(patch), mask, region)
    return matrix


class _Cut(NamedTuple):
    """What a picture shows in one direction: its pixels from `start` to before `end`, and the map that puts them there,
    scale * pixel + shift."""

    start: int
    end: int
    scale: float
    shift: float


def _cut(first: int, last: int, scale: float, shift: float, length: int) -> _Cut:
    """The pixels, out of `length`, that the map puts from `first` to `last` of the canvas, rounded to whole ones."""
    ends = sorted(((first - shift) / scale, (last - shift) / scale))
    start = min(max(round(ends[0]), 0), length - 1)
    end = min(max(round(ends[1]), start + 1), length)
    exact = (last - first) / (end - start)
    return (
        _Cut(start, end, exact, first - exact * start) if scale > 0 else _Cut(start, end, -exact, first + exact * end)
    )


def _covered(edges: list[float], limit: int) -> tuple[int, int]:
    """First and past-the-last pixel, out of `limit`, whose centers lie between the outermost edges."""
    slack = 0.5 + 1e-6  # edges that should be whole numbers come out of the maps with rounding errors
    return max(0, math.ceil(min(edges) - slack)), min(limit, math.ceil(max(edges) - slack))


class ColorChange(NamedTuple):
    """What happens to a picture in HSV: hue turns by a share of the circle, the others are multiplied."""

    hue: float
    saturation: float
    value: float


def random_colors(config: AugmentConfig, rng: np.random.Generator) -> ColorChange | None:
    """As Darknet draws: hue either way, factors up to their limit or its inverse. None to change nothing."""
    if config.hue == 0 and config.saturation == 1 and config.exposure == 1:
        return None
    hue, saturation, divide_saturation, value, divide_value = rng.random(5).tolist()
    saturation, value = 1 + saturation * (config.saturation - 1), 1 + value * (config.exposure - 1)
    return ColorChange(
        (2 * hue - 1) * config.hue,
        1 / saturation if divide_saturation < 0.5 else saturation,
        1 / value if divide_value < 0.5 else value,
    )


def change_colors(image: np.ndarray, change: ColorChange) -> np.ndarray:
    """(h, w, 3 or 4) uint8 RGB or RGBA to (h, w, 3) RGB; what leaves the range stops at its end."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    height, width = hsv.shape[:2]
    # Whole rows at a time, faster than tables by channel: hue fills uint8, so that its sum wraps around
    # as the circle does, and the factors are uint8 in units that hold the largest.
    rows = hsv.reshape(height, 3 * width)
    rows += _row((round(change.hue * 256) % 256, 0, 0), width)
    unit = int(255 / max(1.0, change.saturation, change.value))
    factors = np.empty_like(rows)
    factors[...] = _row((unit, round(change.saturation * unit), round(change.value * unit)), width)
    cv2.multiply(rows, factors, dst=rows, scale=1 / unit)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL, dst=hsv)


def _row(pixel: tuple[int, int, int], width: int) -> np.ndarray:
    """(3 width,) uint8: the pixel again and again."""
    row = np.empty((width, 3), np.uint8)
    row[...] = pixel
    return row.reshape(-1)
