"""Predictors that return the class, the class probabilities or the feature maps of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypeVar, overload

import numpy as np
import torch
from torch import Tensor

from cspdet.config.base import ConfigModel
from cspdet.config.loader import parse_config
from cspdet.datasets.classification.crops import ImageCrop
from cspdet.device import to_float_tensor
from cspdet.inference.features import feature_maps, feature_specs, global_avg_pool
from cspdet.inference.predictor import ImageInput, ImagePredictor, load_image, map_images
from cspdet.models.bundle import ModelBundle
from cspdet.models.classifier import Classifier, predict_probabilities
from cspdet.structures import Features

ConfigT = TypeVar("ConfigT", bound=ConfigModel)


class ClassScore(NamedTuple):
    """A class with its probability."""

    class_id: int  # index into the class names
    class_name: str
    score: float  # in [0, 1]


@dataclass(frozen=True, eq=False)
class Prediction:
    """Class probabilities of an image.

    Attributes:
        class_names: Names of the C classes, by class index.
        probability: (C,) float32 probability of each class; the sum is 1.
    """

    class_names: tuple[str, ...]
    probability: Tensor

    def top(self, count: int = 5) -> tuple[ClassScore, ...]:
        """Return the `count` most probable classes, most probable first; return all classes if there are fewer."""
        best = self.probability.topk(max(1, min(count, len(self.class_names))))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return tuple(ClassScore(i, self.class_names[i], score) for i, score in pairs)

    @property
    def class_id(self) -> int:
        """Index of the most probable class."""
        return self.top(1)[0].class_id

    @property
    def class_name(self) -> str:
        """Name of the most probable class."""
        return self.top(1)[0].class_name

    @property
    def score(self) -> float:
        """Probability of the most probable class."""
        return self.top(1)[0].score

    def __repr__(self) -> str:
        return f"Prediction({self.class_name!r}, score={self.score:.4f})"


def override_eval_config(eval_: ConfigT, overrides: Mapping[str, int | float | bool]) -> ConfigT:
    """Replace values of a classifier's `eval` section.

    If `crop` is replaced but `resize` is not, `resize` is removed, because it would take precedence over `crop`.

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
    def features(self, x: ImageInput) -> Features: ...  # type: ignore[overload-overlap]
    @overload
    def features(self, x: Sequence[ImageInput]) -> list[Features]: ...

    def features(self, x: ImageInput | Sequence[ImageInput]) -> Features | list[Features]:
        """Compute the feature maps of the center crop of one image, or of each image in a list.

        Args:
            x: Path of an image file or an (H, W, 3) uint8 RGB array, or a list of them.

        Returns:
            For each image, one (C_l, H_l, W_l) float32 map per level, finest first, on the CPU.

        Raises:
            ValueError: The network was built from a Darknet cfg and has no separate backbone, or an array has another
                shape or type.
            DataError: A file is not a readable image.
        """
        feature_specs(self.model)
        return map_images(x, self._features)

    @overload
    def pooled_features(self, x: ImageInput) -> Tensor: ...  # type: ignore[overload-overlap]
    @overload
    def pooled_features(self, x: Sequence[ImageInput]) -> list[Tensor]: ...

    def pooled_features(self, x: ImageInput | Sequence[ImageInput]) -> Tensor | list[Tensor]:
        """Return the average of the coarsest feature map, (C,) float32, of one image or of each image in a list.

        Raises:
            ValueError, DataError: See `features`.
        """
        feature_specs(self.model)
        return map_images(
            x, lambda inputs: [global_avg_pool(tuple(m[None] for m in f))[0] for f in self._features(inputs)]
        )

    @torch.inference_mode()
    def _features(self, inputs: Sequence[ImageInput]) -> list[Features]:
        center = replace(self.crop, ten_crop=False)
        images = to_float_tensor(_make_crops(inputs, center)[:, 0], self.device)
        maps = [level.float().cpu() for level in feature_maps(self.model, images)]
        return [tuple(level[i] for level in maps) for i in range(len(inputs))]


class ClassifierPredictor(FeaturePredictor, ImagePredictor[Prediction]):
    """Predictor that classifies images, and returns the features of the classifier's backbone."""

    model: Classifier

    def probabilities(self, x: ImageInput | Sequence[ImageInput]) -> Tensor:
        """Return the probability of each class, float32 on the CPU: (C,) for one image, (N, C) for a list of images.

        Raises:
            ValueError, DataError: See `predict`.
        """
        results = map_images(x, self._probabilities)
        if isinstance(results, Tensor):
            return results
        return torch.stack(results) if results else torch.empty((0, len(self.class_names)))

    def _predict_batch(self, inputs: Sequence[ImageInput]) -> list[Prediction]:
        return [Prediction(self.class_names, probability) for probability in self._probabilities(inputs)]

    def _probabilities(self, inputs: Sequence[ImageInput]) -> list[Tensor]:
        return list(predict_probabilities(self.model, _make_crops(inputs, self.crop), self.device).cpu())


def _make_crops(inputs: Sequence[ImageInput], crop: ImageCrop) -> Tensor:
    """Return the crops of the images as a (B, V, 3, H, W) uint8 tensor, V crops per image."""
    named = [(load_image(x), str(x) if isinstance(x, (str, Path)) else f"image {i}") for i, x in enumerate(inputs)]
    return torch.from_numpy(np.stack([crop(image, name) for image, name in named]))
