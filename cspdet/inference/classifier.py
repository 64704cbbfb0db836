"""Predictors that return the classes, the class probabilities or the feature maps of images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar, overload

import numpy as np
import torch
from torch import Tensor

from cspdet.config.base import ConfigModel
from cspdet.config.loader import parse_config
from cspdet.datasets.classification.crops import ImageCrop
from cspdet.device import to_float_tensor
from cspdet.inference.features import feature_maps, feature_specs, global_avg_pool
from cspdet.inference.image_input import ImageInput, LoadedImage
from cspdet.inference.image_result import ResultImage
from cspdet.inference.prediction import Prediction
from cspdet.inference.predictor import ImagePredictor, map_images
from cspdet.models.bundle import ModelBundle
from cspdet.models.classifier import Classifier, predict_probabilities
from cspdet.structures import Features

ConfigT = TypeVar("ConfigT", bound=ConfigModel)


def override_eval_config(eval_: ConfigT, overrides: Mapping[str, int | float | bool]) -> ConfigT:
    """Replace values of a classifier's `eval` section.

    If `crop` is replaced but `resize` is not, `resize` is removed, because `resize` takes precedence over `crop`.

    Raises:
        ConfigError: A value is invalid.
    """
    base = eval_.model_dump(mode="json")
    if "crop" in overrides and "resize" not in overrides:
        base["resize"] = None
    return parse_config({**base, **overrides}, type(eval_), "command line")


class FeaturePredictor:
    """Computes the feature maps of the backbone of a classifier or detector.

    Attributes:
        model: The network on `device`.
        name: Name of the model.
        class_names: Names of the classes, by class index.
        device: Device of the network.
        crop: Resizing and cropping of the images.
    """

    def __init__(self, bundle: ModelBundle, device: torch.device, crop: ImageCrop):
        self.model = bundle.torch_network.eval().to(device).to(memory_format=torch.channels_last)
        self.name, self.class_names, self.device, self.crop = bundle.name, bundle.categories.names, device, crop

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the network input in pixels."""
        return self.crop.size_hw

    @overload
    def features(self, x: ImageInput, *, bgr: bool = False) -> Features: ...  # type: ignore[overload-overlap]
    @overload
    def features(self, x: Iterable[ImageInput], *, bgr: bool = False) -> list[Features]: ...

    def features(self, x: ImageInput | Iterable[ImageInput], *, bgr: bool = False) -> Features | list[Features]:
        """Compute the feature maps of the center crop of one image, or of each image in a list.

        Args:
            x: One image or several, of the types that `load_image` accepts.
            bgr: Whether the channels of arrays and tensors are BGR instead of RGB.

        Returns:
            For each image, one (C_l, H_l, W_l) float32 map per level, finest first, on the CPU.

        Raises:
            ValueError: The network was built from a Darknet cfg and has no separate backbone, or an image has another
                type, shape or value range.
            DataError: A file is not a readable image.
        """
        feature_specs(self.model)
        return map_images(x, self._features, bgr=bgr)

    @overload
    def pooled_features(self, x: ImageInput, *, bgr: bool = False) -> Tensor: ...  # type: ignore[overload-overlap]
    @overload
    def pooled_features(self, x: Iterable[ImageInput], *, bgr: bool = False) -> list[Tensor]: ...

    def pooled_features(self, x: ImageInput | Iterable[ImageInput], *, bgr: bool = False) -> Tensor | list[Tensor]:
        """Return the spatial mean of the coarsest feature map, (C,) float32, of one image or of each image in a list.

        Raises:
            ValueError: The network has no separate backbone, or an image has another type, shape or value range.
            DataError: A file is not a readable image.
        """
        feature_specs(self.model)
        return map_images(
            x, lambda images: [global_avg_pool(tuple(m[None] for m in f))[0] for f in self._features(images)], bgr=bgr
        )

    @torch.inference_mode()
    def _features(self, images: Sequence[LoadedImage]) -> list[Features]:
        center = replace(self.crop, ten_crop=False)
        crops = to_float_tensor(_make_crops(images, center)[:, 0], self.device)
        maps = [level.float().cpu() for level in feature_maps(self.model, crops)]
        return [tuple(level[i] for level in maps) for i in range(len(images))]


class ClassifierPredictor(FeaturePredictor, ImagePredictor[Prediction]):
    """Predictor that classifies images, and returns the features of the classifier's backbone."""

    model: Classifier

    def probabilities(self, x: ImageInput | Iterable[ImageInput], *, bgr: bool = False) -> Tensor:
        """Return the probability of each class, float32 on the CPU: (C,) for one image, (N, C) for a list of images.

        Raises:
            ValueError: An image has another type, shape or value range.
            DataError: A file is not a readable image.
        """
        results = map_images(x, self._probabilities, bgr=bgr)
        if isinstance(results, Tensor):
            return results
        return torch.stack(results) if results else torch.empty((0, len(self.class_names)))

    def __repr__(self) -> str:
        height, width = self.size_hw
        return f"ClassifierPredictor({self.name}: {self._describe_classes()}, {height}x{width}, torch on {self.device})"

    def _predict_batch(self, images: Sequence[LoadedImage]) -> list[Prediction]:
        return [
            Prediction(self.class_names, probability, ResultImage.from_loaded(image))
            for probability, image in zip(self._probabilities(images), images, strict=True)
        ]

    def _probabilities(self, images: Sequence[LoadedImage]) -> list[Tensor]:
        return list(predict_probabilities(self.model, _make_crops(images, self.crop), self.device).cpu())


def _make_crops(images: Sequence[LoadedImage], crop: ImageCrop) -> Tensor:
    """Return the crops of B images, V per image, as a (B, V, 3, H, W) uint8 tensor."""
    return torch.from_numpy(np.stack([crop(image.pixels, image.name) for image in images]))
