"""Adapter that applies a list of albumentations transforms as one augmentation step.

The adapter works around two properties of albumentations 2.0.8. First, all loader processes draw the same random
numbers, so the transforms are seeded for each sample. Second, class ids are returned as floats, so boxes are labeled
with row indices.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from cspdet.datasets.config import AlbumentationsTransform
from cspdet.datasets.detection.compose import MIN_SIDE
from cspdet.errors import ConfigError, did_you_mean
from cspdet.letterbox import PAD_VALUE
from cspdet.structures import Sample

CONFIG_KEY = "train.augment.albumentations"


class AlbumentationsHook:
    """Applies albumentations transforms in order, seeded for each sample from its random generator.

    Args:
        transforms: Names and arguments of the transforms.
        size_hw: Height and width of the images.
        key: Config key for error messages.

    Raises:
        ConfigError: A name is unknown, albumentations rejects an argument, or a transform fails on a test image or
            changes its size; one line per transform.
    """

    def __init__(self, transforms: Sequence[AlbumentationsTransform], size_hw: tuple[int, int], key: str = CONFIG_KEY):
        built: list[Any] = []
        problems: list[str] = []
        for i, transform in enumerate(transforms):
            where = f"{key}[{i}]: {transform.name}"
            try:
                built.append(_build(transform, where))
                _dry_run(transform, size_hw, where)
            except ConfigError as error:
                problems += error.problems
        if problems:
            raise ConfigError(*problems)
        self._compose, self._key = _compose(built), key

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Return a transformed copy of a sample."""
        self._compose.set_random_seed(int(rng.integers(2**32)))
        return _apply(self._compose, sample, self._key)


def _import_albumentations() -> Any:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # otherwise the import checks online for updates
    try:
        import albumentations
    except ImportError as error:
        raise ConfigError(f"{CONFIG_KEY}: needs `pip install albumentations==2.0.8` ({error})") from None
    return albumentations


def _build(transform: AlbumentationsTransform, where: str, **overrides: Any) -> Any:
    """Build a transform; `overrides` replace arguments of the config. Raises ConfigError for invalid arguments."""
    library = _import_albumentations()
    base = {"BasicTransform", "DualTransform", "ImageOnlyTransform", "Transform3D"}
    valid = {
        name: transform_class
        for name, transform_class in vars(library).items()
        if isinstance(transform_class, type)
        and issubclass(transform_class, library.BasicTransform)
        and name not in base
    }
    if transform.name not in valid:
        raise ConfigError(f"{where}: no such transform in albumentations{did_you_mean(transform.name, valid)}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # albumentations only warns about unknown arguments
            return valid[transform.name](**{**transform.args, **overrides})
    except (ValueError, TypeError, UserWarning) as error:
        raise ConfigError(f"{where}: {_one_line(error)}") from None


def _dry_run(transform: AlbumentationsTransform, size_hw: tuple[int, int], where: str) -> None:
    """Run a transform on an image with a box, before training; raise ConfigError if the transform fails."""
    height, width = size_hw
    box = np.array(((width / 4, height / 4, width / 2, height / 2),), np.float32)
    image = np.full((height, width, 3), PAD_VALUE, np.uint8)
    sample = Sample(image, box, np.zeros(1, np.int64), np.zeros(1, bool), image_id=0)
    compose = _compose([_build(transform, where, p=1.0)])
    compose.set_random_seed(0)
    try:
        _apply(compose, sample, where)
    except ConfigError:
        raise
    except Exception as error:  # a transform may raise any exception
        raise ConfigError(f"{where}: does not run on an image with boxes: {_one_line(error)}") from error


def _compose(transforms: list[Any]) -> Any:
    library = _import_albumentations()
    boxes = library.BboxParams(
        format="pascal_voc",
        label_fields=["row"],
        clip=True,
        filter_invalid_bboxes=True,
        min_width=MIN_SIDE,
        min_height=MIN_SIDE,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Got processor for bboxes")  # transforms that do not change boxes are fine
        return library.Compose(transforms, bbox_params=boxes)


def _apply(compose: Any, sample: Sample, where: str) -> Sample:
    """Transform a sample.

    Boxes keep their row index, so that each returned box gets the class and crowd flag of its original.
    """
    result = compose(image=sample.image, bboxes=sample.box_xyxy, row=np.arange(len(sample.box_xyxy)))
    image = np.ascontiguousarray(result["image"])
    if image.shape != sample.image.shape or image.dtype != np.uint8:
        names = ", ".join(type(transform).__name__ for transform in compose.transforms)
        found, expected = (f"{'x'.join(map(str, a.shape))} {a.dtype}" for a in (image, sample.image))
        raise ConfigError(f"{where}: a transform ({names}) must keep the image {expected}, but returned {found}")
    row = np.asarray(result["row"]).astype(np.int64).reshape(-1)
    box_xyxy = np.asarray(result["bboxes"], np.float32).reshape(-1, 4)
    return replace(sample, image=image, box_xyxy=box_xyxy, class_id=sample.class_id[row], is_crowd=sample.is_crowd[row])


def _one_line(error: BaseException) -> str:
    """Return the message of an error as one line, without the links that pydantic adds."""
    lines = [line.strip() for line in str(error).splitlines()]
    return " ".join(line for line in lines if not line.startswith("For further information"))
