"""Pictures with a class each -> what a classifier is trained on: crops, flips, colors, and pictures mixed.

Everything is drawn from random streams that are passed in. First each picture is varied by itself; then pictures of
a batch are mixed, each with others of the same batch, so that no picture is decoded twice. A mixed picture has up to
four classes, each with its share of the goal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from pydantic import Field, field_validator, model_validator

from cspdet.config.base import ConfigModel
from cspdet.datasets.detection.augment import AugmentConfig, apply_hsv, random_hsv_gains
from cspdet.letterbox import resize_image

MAX_CLASSES_PER_IMAGE = 4  # classes that one picture can have: a mosaic's
MAX_CROP_ATTEMPTS = 10  # draws of a crop that do not fit into the picture before its center is taken
MOSAIC_MIN_MARGIN = 0.2  # the four pictures of a mosaic meet no closer to the border than this share of the side

Range = tuple[float, float]


class ImageAugmentConfig(ConfigModel):
    """How a classifier's training pictures are varied. The defaults train on the center of the pictures."""

    crop_area: Range = (1.0, 1.0)  # share of the picture's area that a random crop takes
    crop_ratio: Range = (1.0, 1.0)  # its width over height, relative to that of the input; drawn on a log scale
    rotate: float = Field(0.0, ge=0, le=180)  # degrees, either way; corners are filled by mirroring
    hue: float = Field(0.0, ge=0, le=0.5)  # shift by up to this share of the color circle
    saturation: float = Field(1.0, ge=1, le=10)  # multiply or divide by up to this
    exposure: float = Field(1.0, ge=1, le=10)  # the same for brightness
    flip_horizontal: float = Field(0.0, ge=0, le=1)  # chance
    flip_vertical: float = Field(0.0, ge=0, le=1)  # chance
    erase: float = Field(0.0, ge=0, le=1)  # chance that a rectangle is filled with noise
    erase_area: Range = (0.02, 0.33)  # share of the input that the rectangle takes
    mixup: float = Field(0.0, ge=0, le=1)  # chance that a picture is blended with another
    mixup_alpha: float = Field(0.2, gt=0)  # both shares are drawn from Beta(alpha, alpha)
    cutmix: float = Field(0.0, ge=0, le=1)  # chance that a rectangle of another picture is put into it
    cutmix_alpha: float = Field(1.0, gt=0)
    mosaic: float = Field(0.0, ge=0, le=1)  # chance that three of its quarters are those of other pictures
    close_mixing: int = Field(0, ge=0)  # the last epochs go without mixing, so that training ends on real pictures

    @field_validator("crop_area", "erase_area")
    @classmethod
    def _check_fractions(cls, area: Range) -> Range:
        if not 0 < area[0] <= area[1] <= 1:
            raise ValueError(f"expected two shares above 0 and up to 1, the lower first, found [{area[0]}, {area[1]}]")
        return area

    @field_validator("crop_ratio")
    @classmethod
    def _check_ratios(cls, ratio: Range) -> Range:
        if not 0 < ratio[0] <= ratio[1]:
            raise ValueError(f"expected two ratios above 0, the lower first, found [{ratio[0]}, {ratio[1]}]")
        return ratio

    @model_validator(mode="after")
    def _check_mixing_probabilities(self) -> ImageAugmentConfig:
        chances = self.mixup + self.cutmix + self.mosaic
        if chances > 1 + 1e-9:
            raise ValueError(
                f"mixup: a picture is mixed in one way: expected mixup + cutmix + mosaic up to 1, found {chances:g}"
            )
        return self


@dataclass(frozen=True)
class ImageSample:
    """One picture at input size and what it shows, M <= MOST_PARTS classes."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    class_id: tuple[int, ...]  # M
    label_weight: tuple[float, ...]  # M, of the goal; they sum to 1
    index: int  # number of the picture in its set, or of the one that was read in its place


class ImageRegion(NamedTuple):
    """Whole pixels of a picture: rows top to bottom - 1, columns left to right - 1."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def area(self) -> int:
        """Pixels."""
        return (self.bottom - self.top) * (self.right - self.left)

    def view(self, image: np.ndarray) -> np.ndarray:
        """That part of a picture, in the picture's own memory."""
        return image[self.top : self.bottom, self.left : self.right]


# --- one picture ---------------------------------------------------------------------------------


class ImageAugment:
    """Turns a picture of any size into one of `size_hw` (height, width) input pixels."""

    def __init__(self, config: ImageAugmentConfig, size_hw: tuple[int, int]):
        self.config, self.size_hw = config, size_hw
        self._hsv_config = AugmentConfig(hue=config.hue, saturation=config.saturation, exposure=config.exposure)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(h, w, 3) uint8 RGB, left as it is, to a new (H, W, 3): a function of the arguments alone."""
        config = self.config
        view = resize_image(random_crop(config, image.shape[:2], self.size_hw, rng).view(image), self.size_hw)
        if config.rotate:
            view = rotate_image(view, rng.uniform(-config.rotate, config.rotate))
        colors = random_hsv_gains(self._hsv_config, rng)
        view = np.array(view) if colors is None else apply_hsv(np.ascontiguousarray(view), colors)
        flip_x, flip_y, erases = (rng.random(3) < (config.flip_horizontal, config.flip_vertical, config.erase)).tolist()
        view = np.ascontiguousarray(view[:: -1 if flip_y else 1, :: -1 if flip_x else 1])
        if erases:
            hole = random_region(self.size_hw, rng.uniform(*config.erase_area), rng.uniform(-1.2, 1.2), rng)
            hole.view(view)[...] = rng.integers(0, 256, (*hole.view(view).shape[:2], 3), np.uint8)
        return view


def random_crop(
    config: ImageAugmentConfig, image_hw: tuple[int, int], size_hw: tuple[int, int], rng: np.random.Generator
) -> ImageRegion:
    """A part of random area, ratio and place; the largest center of the input's ratio where none fits."""
    height, width = image_hw
    straight = size_hw[1] / size_hw[0]
    low, high = (math.log(ratio) for ratio in config.crop_ratio)
    for _ in range(MAX_CROP_ATTEMPTS):
        area = rng.uniform(*config.crop_area) * height * width
        ratio = straight * math.exp(rng.uniform(low, high))
        crop_w, crop_h = max(1, round(math.sqrt(area * ratio))), max(1, round(math.sqrt(area / ratio)))
        if crop_w <= width and crop_h <= height:
            top, left = int(rng.integers(height - crop_h + 1)), int(rng.integers(width - crop_w + 1))
            return ImageRegion(top, top + crop_h, left, left + crop_w)
    crop_h, crop_w = min(height, max(1, round(width / straight))), min(width, max(1, round(height * straight)))
    top, left = (height - crop_h) // 2, (width - crop_w) // 2
    return ImageRegion(top, top + crop_h, left, left + crop_w)


def random_region(
    size_hw: tuple[int, int], area_fraction: float, log_ratio: float, rng: np.random.Generator
) -> ImageRegion:
    """Of about this share of the area, its center anywhere, cut to the picture; at least one pixel.

    log_ratio  of its width over height, relative to that of the picture; 0 keeps the picture's
    """
    sides = (math.sqrt(area_fraction * math.exp(-log_ratio)), math.sqrt(area_fraction * math.exp(log_ratio)))
    edges: list[int] = []
    for side, length in zip(sides, size_hw, strict=True):
        half, center = side * length / 2, rng.uniform(0, length)
        first = min(length - 1, max(0, round(center - half)))
        edges += [first, min(length, max(first + 1, round(center + half)))]
    return ImageRegion(*edges)


def rotate_image(image: np.ndarray, degrees: float) -> np.ndarray:
    """(H, W, 3) uint8, turned about its center; what lies outside is its own mirror image."""
    height, width = image.shape[:2]
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    return cv2.warpAffine(image, turn, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


# --- several pictures ----------------------------------------------------------------------------


def mix_batch(
    samples: Sequence[ImageSample], config: ImageAugmentConfig, rngs: Sequence[np.random.Generator]
) -> list[ImageSample]:
    """Each picture mixed with others of the list by its own stream, or left as it is.

    samples  of one size and of one class each
    """
    return [_mix_sample(samples, i, config, rng) for i, rng in enumerate(rngs)]


def _mix_sample(
    samples: Sequence[ImageSample], index: int, config: ImageAugmentConfig, rng: np.random.Generator
) -> ImageSample:
    sample, draw = samples[index], rng.random()
    others = [samples[int(i)] for i in rng.integers(len(samples), size=MAX_CLASSES_PER_IMAGE - 1)]
    if draw < config.mixup:
        return mixup(sample, others[0], rng.beta(config.mixup_alpha, config.mixup_alpha))
    if draw < config.mixup + config.cutmix:
        area_fraction = 1 - rng.beta(config.cutmix_alpha, config.cutmix_alpha)
        size_hw = (sample.image.shape[0], sample.image.shape[1])
        return cutmix(sample, others[0], random_region(size_hw, area_fraction, 0.0, rng))
    if draw < config.mixup + config.cutmix + config.mosaic:
        meet_y, meet_x = rng.uniform(MOSAIC_MIN_MARGIN, 1 - MOSAIC_MIN_MARGIN, 2) * sample.image.shape[:2]
        return mosaic([sample, *others], round(meet_y), round(meet_x))
    return sample


def mixup(first: ImageSample, second: ImageSample, second_weight: float) -> ImageSample:
    """`share` of the second picture over the first (arXiv:1710.09412)."""
    blended = cv2.addWeighted(first.image, 1 - second_weight, second.image, second_weight, 0)
    return ImageSample(blended, first.class_id + second.class_id, (1 - second_weight, second_weight), first.index)


def cutmix(first: ImageSample, second: ImageSample, region: ImageRegion) -> ImageSample:
    """That part of the second picture in its place in the first (arXiv:1905.04899)."""
    image = first.image.copy()
    region.view(image)[...] = region.view(second.image)
    second_weight = region.area / (image.shape[0] * image.shape[1])
    return ImageSample(image, first.class_id + second.class_id, (1 - second_weight, second_weight), first.index)


def mosaic(four: Sequence[ImageSample], meet_y: int, meet_x: int) -> ImageSample:
    """A quarter of each of four pictures, from its own place: upper left, upper right, lower left, lower right.

    The quarters meet in a point; each class counts by the area of its quarter, as in Darknet's classifiers.
    """
    height, width = four[0].image.shape[:2]
    image = np.empty_like(four[0].image)
    weights = []
    for i, sample in enumerate(four):
        rows = (0, meet_y) if i < 2 else (meet_y, height)
        columns = (0, meet_x) if i % 2 == 0 else (meet_x, width)
        quarter = ImageRegion(*rows, *columns)
        quarter.view(image)[...] = quarter.view(sample.image)
        weights.append(quarter.area / (height * width))
    return ImageSample(image, tuple(c for sample in four for c in sample.class_id), tuple(weights), four[0].index)
