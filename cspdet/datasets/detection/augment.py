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

from cspdet.config.base import ConfigModel
from cspdet.datasets.detection.mixing import AugmentedSample, copy_small, cutmix, keep_mask, mixup, rand_bbox
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
    def _check_scale(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if not 0 < scale[0] <= scale[1]:
            raise ValueError(f"expected two zooms above 0, the lower first, found [{scale[0]}, {scale[1]}]")
        return scale

    @model_validator(mode="after")
    def _check_mixing_probabilities(self) -> AugmentConfig:
        if self.mixup + self.cutmix > 1 + 1e-9:
            raise ValueError(
                "mixup: a picture is mixed in one way: expected mixup + cutmix up to 1, "
                f"found {self.mixup + self.cutmix:g}"
            )
        return self


class SampleDataset(Protocol):
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

    def __call__(self, dataset: SampleDataset, index: int, rng: np.random.Generator, *, mosaic: bool = True) -> Sample:
        """The sample is a function of the arguments alone; `mosaic` false keeps to single pictures."""
        composed = self._compose_image(dataset, index, rng, mosaic=mosaic)
        if mosaic and self.config.mixup + self.config.cutmix > 0:
            composed = self._mix_in_second(composed, dataset, rng)
        return composed.sample if self.extra is None else self.extra(composed.sample, rng)

    def _compose_image(
        self, dataset: SampleDataset, index: int, rng: np.random.Generator, *, mosaic: bool
    ) -> AugmentedSample:
        """One picture, or a mosaic, seen as the settings want it."""
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
            drawn_by = warp_into(image, sample.image, view @ placement, random_hsv_gains(self.config, rng))
            moved.append(transform_boxes(sample.box_xyxy, drawn_by))
        return self._clip_and_filter(image, np.concatenate(moved), samples)

    def _mix_in_second(
        self, first: AugmentedSample, dataset: SampleDataset, rng: np.random.Generator
    ) -> AugmentedSample:
        """The scene with a second one in it, or as it is."""
        config, draw = self.config, rng.random()
        if draw >= config.mixup + config.cutmix:
            return first
        other = self._compose_image(dataset, int(rng.integers(len(dataset))), rng, mosaic=True)
        if draw < config.mixup:
            return mixup(first, other, rng.beta(config.mixup_alpha, config.mixup_alpha))
        return cutmix(first, other, rand_bbox(self.size_hw, rng), config.min_visible)

    def _copy_small_objects(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """A picture of the source with more of its small objects."""
        box = Letterbox.fit(sample.image.shape[:2], self.size_hw, self.resize)
        sides = sample.box_xyxy[:, 2:] - sample.box_xyxy[:, :2]
        area = sides.prod(axis=1) * (box.scale_x * box.scale_y)
        return copy_small(sample, area <= self.config.copy_small_side**2, self.config.copy_small, rng)

    def _placements(self, samples: list[Sample], rng: np.random.Generator) -> list[np.ndarray]:
        """(3, 3) maps from each picture to the input: its letterbox, or four that meet in a random point.

        A mosaic is a canvas of twice the input, centered on it; its pictures meet in the middle half of the
        canvas, which is anywhere in the input.
        """
        boxes = [Letterbox.fit(p.image.shape[:2], self.size_hw, self.resize) for p in samples]
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
        """The boxes (N, 4) cut to the input, without those that show too little."""
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
    """The (3, 3) map x' = a x + b y + c, y' = d x + e y + f."""
    return np.array((x_row, y_row, (0, 0, 1)), dtype=np.float64)


def random_affine_matrix(config: AugmentConfig, size_hw: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
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


def transform_boxes(box_xyxy: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """(N, 4) boxes through a (3, 3) map: the tight boxes around their four moved corners, (N, 4) float64."""
    (a, b, x), (c, d, y) = matrix[:2].tolist()
    if b == 0 == c:
        moved = box_xyxy * np.array((a, d, a, d)) + (x, y, x, y)
        return moved[:, ((0, 2)[a < 0], (1, 3)[d < 0], (2, 0)[a < 0], (3, 1)[d < 0])]
    corners = box_xyxy[:, (0, 1, 2, 1, 2, 3, 0, 3)].reshape(-1, 4, 2) @ matrix[:2, :2].T + matrix[:2, 2]
    return np.concatenate((corners.min(axis=1), corners.max(axis=1)), axis=1)


def warp_into(canvas: np.ndarray, image: np.ndarray, matrix: np.ndarray, gains: HsvGains | None = None) -> np.ndarray:
    """Draw `image` (h, w, 3) into `canvas` (H, W, 3), both uint8, by a (3, 3) map; the rest is left alone.

    Returns the map by which it was drawn, for the boxes. What a picture shows that stays upright begins and ends at
    whole pixels of it, up to half a pixel beside `matrix`: so it need not be warped, but resized, in half of the time.
    """
    height, width = image.shape[:2]
    (a, b, x), (c, d, y) = matrix[:2].tolist()
    corners = [(a * u + b * v + x, c * u + d * v + y) for u, v in ((0, 0), (width, 0), (width, height), (0, height))]
    # A pixel is covered where its center is, so that neighbors share an edge without a gap or an overlap.
    left, right = _covered_pixels([corner[0] for corner in corners], canvas.shape[1])
    top, bottom = _covered_pixels([corner[1] for corner in corners], canvas.shape[0])
    if right <= left or bottom <= top:
        return matrix
    region = canvas[top:bottom, left:right]
    if b == 0 == c:
        across, down = _axis_crop(left, right, a, x, width), _axis_crop(top, bottom, d, y, height)
        patch = image[down.start : down.end, across.start : across.end]
        if patch.shape[:2] != region.shape[:2]:
            patch = cv2.resize(patch, (right - left, bottom - top), interpolation=cv2.INTER_LINEAR)
        if a < 0 or d < 0:
            patch = cv2.flip(patch, -1 if a < 0 and d < 0 else int(a < 0))
        region[...] = patch if gains is None else apply_hsv(patch, gains)
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
    patch = patch[..., :3] if gains is None else apply_hsv(patch, gains)
    mask = np.zeros(region.shape[:2], np.uint8)
    outline = (np.array(corners) - (left + 0.5, top + 0.5)) * (1 << MASK_BITS)
    cv2.fillConvexPoly(mask, np.rint(outline).astype(np.int32), 255, shift=MASK_BITS)
    cv2.copyTo(np.ascontiguousarray(patch), mask, region)
    return matrix


class _AxisCrop(NamedTuple):
    """What a picture shows in one direction: its pixels from `start` to before `end`, and the map that puts them there,
    scale * pixel + shift."""

    start: int
    end: int
    scale: float
    shift: float


def _axis_crop(first: int, last: int, scale: float, shift: float, length: int) -> _AxisCrop:
    """The pixels, out of `length`, that the map puts from `first` to `last` of the canvas, rounded to whole ones."""
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
    """First and past-the-last pixel, out of `limit`, whose centers lie between the outermost edges."""
    slack = 0.5 + 1e-6  # edges that should be whole numbers come out of the maps with rounding errors
    return max(0, math.ceil(min(edges) - slack)), min(limit, math.ceil(max(edges) - slack))


class HsvGains(NamedTuple):
    """What happens to a picture in HSV: hue turns by a share of the circle, the others are multiplied."""

    hue: float
    saturation: float
    value: float


def random_hsv_gains(config: AugmentConfig, rng: np.random.Generator) -> HsvGains | None:
    """As Darknet draws: hue either way, factors up to their limit or its inverse. None to change nothing."""
    if config.hue == 0 and config.saturation == 1 and config.exposure == 1:
        return None
    hue, saturation, divide_saturation, value, divide_value = rng.random(5).tolist()
    saturation, value = 1 + saturation * (config.saturation - 1), 1 + value * (config.exposure - 1)
    return HsvGains(
        (2 * hue - 1) * config.hue,
        1 / saturation if divide_saturation < 0.5 else saturation,
        1 / value if divide_value < 0.5 else value,
    )


def apply_hsv(image: np.ndarray, gains: HsvGains) -> np.ndarray:
    """(h, w, 3 or 4) uint8 RGB or RGBA to (h, w, 3) RGB; what leaves the range stops at its end."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    height, width = hsv.shape[:2]
    # Whole rows at a time, faster than tables by channel: hue fills uint8, so that its sum wraps around
    # as the circle does, and the factors are uint8 in units that hold the largest.
    rows = hsv.reshape(height, 3 * width)
    rows += _repeat_pixel((round(gains.hue * 256) % 256, 0, 0), width)
    unit = int(255 / max(1.0, gains.saturation, gains.value))
    factors = np.empty_like(rows)
    factors[...] = _repeat_pixel((unit, round(gains.saturation * unit), round(gains.value * unit)), width)
    cv2.multiply(rows, factors, dst=rows, scale=1 / unit)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL, dst=hsv)


def _repeat_pixel(pixel: tuple[int, int, int], width: int) -> np.ndarray:
    """(3 width,) uint8: the pixel again and again."""
    row = np.empty((width, 3), np.uint8)
    row[...] = pixel
    return row.reshape(-1)
