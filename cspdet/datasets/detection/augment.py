"""Augmentation of detection samples: compose -> mix -> transforms.

    compose      one image, or a mosaic of four, warped into the input (`compose.py`)
    mix          mixup or cutmix with a second composed image (`mixing.py`)
    transforms   albumentations and user-defined augmentations, from the registry AUGMENTATIONS

All random numbers are drawn from the generator that the caller passes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np

from cspdet.datasets.config import AugmentConfig, Resize
from cspdet.datasets.detection.albumentations_transforms import AlbumentationsHook
from cspdet.datasets.detection.compose import AugmentedSample, ImageComposer, SampleDataset
from cspdet.datasets.detection.mixing import cutmix, mixup, rand_bbox
from cspdet.errors import ConfigError
from cspdet.structures import Sample


class Transform(Protocol):
    """Interface of the augmentations in the config key `train.augment.transforms`.

    The config of an augmentation has a method `build(size_hw)` that returns the augmentation.
    """

    def __call__(self, sample: Sample, rng: np.random.Generator, /) -> Sample:
        """Return a new sample of the same image size; `sample` must not be modified.

        Args:
            sample: An image of input size with its boxes in input pixels.
            rng: Random generator of this sample; no other source of random numbers may be used.
        """


class Augment:
    """Builds an augmented training sample of input size from an image of a dataset.

    Args:
        config: Augmentations with their strengths.
        size_hw: Input height and width in pixels.
        resize: How images are fit into the input before the augmentation: letterbox or stretch.

    Raises:
        ConfigError: A transform cannot be built.
    """

    def __init__(self, config: AugmentConfig, size_hw: tuple[int, int], resize: Resize = "letterbox"):
        self.config, self.size_hw = config, size_hw
        self.compose = ImageComposer(config, size_hw, resize)
        self.transforms: list[tuple[str, Transform]] = []
        if config.albumentations:
            self.transforms.append(("train.augment.albumentations", AlbumentationsHook(config.albumentations, size_hw)))
        for i, transform in enumerate(config.transforms):
            self.transforms.append((f"train.augment.transforms[{i}]: {transform.name}", transform.build(size_hw)))

    def __call__(self, dataset: SampleDataset, index: int, rng: np.random.Generator, *, mosaic: bool = True) -> Sample:
        """Build an augmented sample; the result depends only on the arguments.

        Args:
            dataset: Samples by index; mosaic, mixup and cutmix read further samples.
            index: Index of the sample to augment.
            rng: Random generator.
            mosaic: Whether to apply mosaic, mixup and cutmix.
        """
        composed = self.compose(dataset, index, rng, mosaic=mosaic)
        if mosaic and self.config.mixup + self.config.cutmix > 0:
            composed = self._mix_in_second(composed, dataset, rng)
        sample = composed.sample
        for name, transform in self.transforms:
            sample = _check(name, transform(sample, rng), sample)
        return sample

    def _mix_in_second(
        self, first: AugmentedSample, dataset: SampleDataset, rng: np.random.Generator
    ) -> AugmentedSample:
        """Mix a second composed image into the first with probability mixup + cutmix; otherwise return the first."""
        config, draw = self.config, rng.random()
        if draw >= config.mixup + config.cutmix:
            return first
        second = self.compose(dataset, int(rng.integers(len(dataset))), rng, mosaic=True)
        if draw < config.mixup:
            return mixup(first, second, rng.beta(config.mixup_alpha, config.mixup_alpha))
        return cutmix(first, second, rand_bbox(self.size_hw, rng), config.min_visible)


def _check(name: str, sample: Sample, before: Sample) -> Sample:
    """Convert the result of a transform to the dtypes of a sample; raise ConfigError if the shapes are invalid."""
    image, count = sample.image, len(sample.box_xyxy)
    if image.shape != before.image.shape or image.dtype != np.uint8:
        raise ConfigError(f"{name}: expected an image of {_shape(before.image)} as given, found {_shape(image)}")
    boxes, class_id, is_crowd = sample.box_xyxy, sample.class_id, sample.is_crowd
    if boxes.shape != (count, 4) or class_id.shape != (count,) or is_crowd.shape != (count,):
        raise ConfigError(
            f"{name}: expected boxes (N, 4) with N classes and N crowd flags, found {_shape(boxes)}, "
            f"{_shape(class_id)} and {_shape(is_crowd)}"
        )
    return replace(
        before,
        image=image,
        box_xyxy=np.asarray(boxes, np.float32),
        class_id=np.asarray(class_id, np.int64),
        is_crowd=np.asarray(is_crowd, np.bool_),
    )


def _shape(array: np.ndarray) -> str:
    return f"{'x'.join(map(str, array.shape))} {array.dtype}"
