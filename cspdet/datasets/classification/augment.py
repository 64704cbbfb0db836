"""Augmentation of classification samples: crops, flips, colors, erasing, and mixing within a batch.

First, each image is augmented separately (`ImageAugment`). Then the image is mixed with other images of the same batch
(`mix_batch`), so that no image is decoded twice. A mixed image has up to four classes with weights. All random numbers
are drawn from the generators that the caller passes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from cspdet.datasets.colors import apply_hsv, random_hsv_gains
from cspdet.datasets.config import ImageAugmentConfig
from cspdet.letterbox import resize_image

MAX_CLASSES_PER_IMAGE = 4  # a mosaic has four images
MAX_CROP_ATTEMPTS = 10  # number of random crops that are tried before the center crop is used
MOSAIC_MIN_MARGIN = 0.2  # minimum distance of a mosaic's common corner from the border, as a fraction of the side


@dataclass(frozen=True)
class ImageSample:
    """An image with its M classes, M <= MAX_CLASSES_PER_IMAGE."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    class_id: tuple[int, ...]  # M
    label_weight: tuple[float, ...]  # M, weights of the classes in the target; they sum to 1
    index: int  # index of the image in its dataset; for an unreadable image, that of its replacement


class ImageRegion(NamedTuple):
    """A rectangle of whole pixels: rows top to bottom - 1, columns left to right - 1."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def area(self) -> int:
        """Area in pixels."""
        return (self.bottom - self.top) * (self.right - self.left)

    def view(self, image: np.ndarray) -> np.ndarray:
        """Return the region of an image, as a view."""
        return image[self.top : self.bottom, self.left : self.right]


# --- one image -----------------------------------------------------------------------------------


class ImageAugment:
    """Augments an image of any size; the result has the input size.

    Args:
        config: Augmentations with their strengths.
        size_hw: Input height and width in pixels.
    """

    def __init__(self, config: ImageAugmentConfig, size_hw: tuple[int, int]):
        self.config, self.size_hw = config, size_hw

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Augment an image (h, w, 3) uint8 RGB; return a new image (H, W, 3) that depends only on the arguments."""
        config = self.config
        view = resize_image(random_crop(config, image.shape[:2], self.size_hw, rng).view(image), self.size_hw)
        if config.rotate:
            view = rotate_image(view, rng.uniform(-config.rotate, config.rotate))
        colors = random_hsv_gains(config, rng)
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
    """Draw a crop of random area, aspect ratio and position; if no draw fits, return the largest center crop.

    Args:
        config: Ranges of area and aspect ratio.
        image_hw: Height and width of the image.
        size_hw: Height and width of the input. `config.crop_ratio` is relative to this aspect ratio.
        rng: Random generator.
    """
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
    """Draw a rectangle with a random center in an image, clipped to the image; the rectangle has at least one pixel.

    Args:
        size_hw: Height and width of the image.
        area_fraction: Fraction of the image area, before clipping.
        log_ratio: Natural logarithm of a factor. The width / height of the rectangle is that of the image times this
            factor.
        rng: Random generator for the position.
    """
    sides = (math.sqrt(area_fraction * math.exp(-log_ratio)), math.sqrt(area_fraction * math.exp(log_ratio)))
    edges: list[int] = []
    for side, length in zip(sides, size_hw, strict=True):
        half, center = side * length / 2, rng.uniform(0, length)
        first = min(length - 1, max(0, round(center - half)))
        edges += [first, min(length, max(first + 1, round(center + half)))]
    return ImageRegion(*edges)


def rotate_image(image: np.ndarray, degrees: float) -> np.ndarray:
    """Rotate an image (H, W, 3) uint8 counterclockwise about its center; the corners are filled by mirroring."""
    height, width = image.shape[:2]
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    return cv2.warpAffine(image, turn, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


# --- several images ------------------------------------------------------------------------------


def mix_batch(
    samples: Sequence[ImageSample], config: ImageAugmentConfig, rngs: Sequence[np.random.Generator]
) -> list[ImageSample]:
    """Mix each sample with other samples of the batch, with the probabilities of the config.

    Args:
        samples: Samples of equal image size, each with one class.
        config: Probabilities of mixup, cutmix and mosaic.
        rngs: The generator of each sample.
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
    """Blend two images and their classes (mixup, arXiv:1710.09412); the second image has the weight `second_weight`."""
    blended = cv2.addWeighted(first.image, 1 - second_weight, second.image, second_weight, 0)
    return ImageSample(blended, first.class_id + second.class_id, (1 - second_weight, second_weight), first.index)


def cutmix(first: ImageSample, second: ImageSample, region: ImageRegion) -> ImageSample:
    """Paste a region of the second image into the first (CutMix, arXiv:1905.04899).

    The weight of a class is the area fraction of its image.
    """
    image = first.image.copy()
    region.view(image)[...] = region.view(second.image)
    second_weight = region.area / (image.shape[0] * image.shape[1])
    return ImageSample(image, first.class_id + second.class_id, (1 - second_weight, second_weight), first.index)


def mosaic(four: Sequence[ImageSample], meet_y: int, meet_x: int) -> ImageSample:
    """Combine the upper left, upper right, lower left and lower right parts of four images, in this order.

    The common corner of the parts is (meet_x, meet_y). The weight of a class is the area fraction of its part.
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
