"""Configs of the training data: batches, image cache, loader processes and augmentation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, get_args

from pydantic import Field, field_validator, model_validator

from cspdet.config.base import ComponentConfig, ConfigModel
from cspdet.config.registry import Registry, component

if TYPE_CHECKING:
    from cspdet.datasets.detection.albumentations_transforms import AlbumentationsHook

Resize = Literal["letterbox", "stretch"]
Cache = Literal["auto", "none", "ram", "disk"]
OnBadImage = Literal["error", "skip"]
Interpolation = Literal["bilinear", "bicubic"]
INTERPOLATIONS: tuple[Interpolation, ...] = get_args(Interpolation)
Workers = Annotated[int, Field(ge=0)] | Literal["auto"]


class LoaderConfig(ConfigModel):
    """Settings of the training loader: batches, image order, loader processes and image cache."""

    epochs: int = Field(100, ge=1, description="Number of training epochs.")
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        16,
        description="Images per forward pass, over all processes; auto: the largest power of two that fits into the "
        "memory of the CUDA device, up to nominal_batch_size.",
    )
    nominal_batch_size: int = Field(
        16,
        ge=1,
        description="Images per optimizer step; gradients are accumulated if it is larger than batch_size.",
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of the image order and of the augmentation.")
    repeat_threshold: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Repeat images with classes that occur in less than this fraction of the images (repeat factor "
        "sampling, LVIS); null: every image once per epoch.",
    )
    workers: Workers = Field(
        "auto",
        description="Number of loader processes; 0: load in the training process; auto: by number of cores and device.",
    )
    cache: Cache = Field(
        "auto",
        description="Cache of decoded, resized images: ram, disk or none; auto: ram if at most 30% of free RAM are "
        "needed, else none.",
    )
    cache_folder: Path | None = Field(
        None,
        description="Folder of the cache files for cache: disk; runs can share it; null: the run folder.",
    )
    on_bad_image: Literal["error", "skip"] = Field(
        "error",
        description="Handling of unreadable training images: error (stop), or skip (replace them by others and log).",
    )

    @property
    def max_batch_size(self) -> int:
        """Images per forward pass; with `batch_size: auto`, the largest number allowed."""
        return self.nominal_batch_size if self.batch_size == "auto" else self.batch_size


class EvalBatching(Protocol):
    """Interface of the configs that evaluation loaders read: `EvalConfig` and `ClassifierEvalConfig`."""

    @property
    def batch_size(self) -> int:
        """Images per batch of one process."""

    @property
    def workers(self) -> int | Literal["auto"]:
        """Number of loader processes."""


# --- augmentation of detection samples -----------------------------------------------------------

AUGMENTATIONS = Registry("augmentation", {"albumentations": "cspdet.datasets.config:AlbumentationsConfig"})
Probability = Annotated[float, Field(ge=0, le=1)]
HUE = (
    "Maximum shift of the hue in both directions, as a fraction of the color circle: 0.5 is 180 degrees (Darknet: hue)."
)
SATURATION = "Multiply or divide the saturation by up to this factor; 1: no change (Darknet: saturation)."
EXPOSURE = "Multiply or divide the brightness by up to this factor; 1: no change (Darknet: exposure)."


class AlbumentationsTransform(ConfigModel):
    """Config of a transform of albumentations 2.0.8, selected by class name: `{name: CLAHE, args: {p: 0.2}}`."""

    name: str = Field(description="Class name of the albumentations transform.")
    args: dict[str, Any] = Field({}, description="Keyword arguments of the transform.")


class AlbumentationsConfig(ComponentConfig):
    """Config of an augmentation that applies transforms of the library albumentations."""

    name: Literal["albumentations"] = Field(description="Name of the augmentation.")
    transforms: tuple[AlbumentationsTransform, ...] = Field(description="The transforms, applied in order.")

    def build(self, size_hw: tuple[int, int]) -> AlbumentationsHook:
        """Build the transforms for images of `size_hw` (height, width)."""
        from cspdet.datasets.detection.albumentations_transforms import AlbumentationsHook

        return AlbumentationsHook(self.transforms, size_hw, "train.augment.transforms: albumentations")


class AugmentConfig(ConfigModel):
    """Settings of the augmentation for detectors. With the defaults, images are only resized to the input."""

    mosaic: Probability = Field(0.0, description="Probability of a mosaic of four images.")
    mixup: Probability = Field(
        0.0, description="Probability of blending with another augmented image; the boxes of both are kept."
    )
    # With 32 both weights are near 0.5, because the boxes of both images have full weight in the loss. (In
    # arXiv:1902.04103, 1.5 was best, but there a box has the weight of its image.)
    mixup_alpha: float = Field(32.0, gt=0, description="Blend weights of mixup are drawn from Beta(alpha, alpha).")
    cutmix: Probability = Field(
        0.0, description="Probability of pasting a rectangle of another augmented image, with its boxes."
    )
    close_mosaic: int = Field(0, ge=0, description="Number of last epochs without mosaic, mixup and cutmix.")
    copy_small: int = Field(0, ge=0, description="Number of copies of each small object, pasted at free positions.")
    copy_small_side: float = Field(
        32.0,
        gt=0,
        description="Maximum sqrt(area) of a small object, in pixels of the letterboxed input.",
    )
    scale: tuple[float, float] = Field(
        (1.0, 1.0), description="Lowest and highest factor of the size of the image, above 0; 1 keeps the size."
    )
    translate: Probability = Field(
        0.0,
        description="Maximum shift of either sign, as a fraction of the input: of its width in x, of its height in y.",
    )
    rotate: float = Field(0.0, ge=0, le=180, description="Maximum rotation in degrees, clockwise and counterclockwise.")
    shear: float = Field(
        0.0, ge=0, lt=90, description="Maximum shear angle in degrees, of either sign, drawn for x and for y."
    )
    hue: float = Field(0.0, ge=0, le=0.5, description=HUE)
    saturation: float = Field(1.0, ge=1, le=10, description=SATURATION)
    exposure: float = Field(1.0, ge=1, le=10, description=EXPOSURE)
    flip_horizontal: Probability = Field(0.0, description="Probability of a horizontal flip.")
    flip_vertical: Probability = Field(0.0, description="Probability of a vertical flip.")
    min_visible: Probability = Field(
        0.2, description="Minimum visible fraction of the area of a box; boxes with less are dropped."
    )
    albumentations: tuple[AlbumentationsTransform, ...] = Field(
        (), description="Transforms of albumentations 2.0.8, applied after all of the above."
    )
    transforms: tuple[Annotated[ComponentConfig, component(AUGMENTATIONS)], ...] = Field(
        (), description="Further augmentations by name, applied last: a built-in one, or a user-defined `module:Class`."
    )

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
                "mixup: expected mixup + cutmix up to 1 (an image is mixed at most once), "
                f"found {self.mixup + self.cutmix:g}"
            )
        return self


# --- augmentation of classification samples ------------------------------------------------------

Range = tuple[float, float]


class ImageAugmentConfig(ConfigModel):
    """Settings of the augmentation for classifiers. With the defaults, images are center-cropped."""

    crop_area: Range = Field((1.0, 1.0), description="Range of the area of a random crop, as a fraction of the image.")
    crop_ratio: Range = Field(
        (1.0, 1.0),
        description="Range of width / height of a random crop, relative to the input; drawn on a log scale.",
    )
    rotate: float = Field(
        0.0, ge=0, le=180, description="Maximum rotation in degrees, in both directions; corners are mirrored."
    )
    hue: float = Field(0.0, ge=0, le=0.5, description=HUE)
    saturation: float = Field(1.0, ge=1, le=10, description=SATURATION)
    exposure: float = Field(1.0, ge=1, le=10, description=EXPOSURE)
    flip_horizontal: Probability = Field(0.0, description="Probability of a horizontal flip.")
    flip_vertical: Probability = Field(0.0, description="Probability of a vertical flip.")
    erase: Probability = Field(0.0, description="Probability of random erasing: a rectangle is filled with noise.")
    erase_area: Range = Field(
        (0.02, 0.33), description="Range of the area of the erased rectangle, as a fraction of the input."
    )
    mixup: Probability = Field(0.0, description="Probability of blending with another image.")
    mixup_alpha: float = Field(0.2, gt=0, description="Blend weights of mixup are drawn from Beta(alpha, alpha).")
    cutmix: Probability = Field(0.0, description="Probability of pasting a rectangle of another image.")
    cutmix_alpha: float = Field(1.0, gt=0, description="Area fractions of cutmix are drawn from Beta(alpha, alpha).")
    mosaic: Probability = Field(0.0, description="Probability of a mosaic with three other images.")
    close_mixing: int = Field(0, ge=0, description="Number of last epochs without mixup, cutmix and mosaic.")

    @field_validator("crop_area", "erase_area")
    @classmethod
    def _check_fractions(cls, area: Range) -> Range:
        if not 0 < area[0] <= area[1] <= 1:
            raise ValueError(
                f"expected two fractions above 0 and up to 1, the lower first, found [{area[0]}, {area[1]}]"
            )
        return area

    @field_validator("crop_ratio")
    @classmethod
    def _check_ratios(cls, ratio: Range) -> Range:
        if not 0 < ratio[0] <= ratio[1]:
            raise ValueError(f"expected two ratios above 0, the lower first, found [{ratio[0]}, {ratio[1]}]")
        return ratio

    @model_validator(mode="after")
    def _check_mixing_probabilities(self) -> ImageAugmentConfig:
        total = self.mixup + self.cutmix + self.mosaic
        if total > 1 + 1e-9:
            raise ValueError(
                f"mixup: expected mixup + cutmix + mosaic up to 1 (an image is mixed at most once), found {total:g}"
            )
        return self
