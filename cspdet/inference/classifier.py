"""One classifier, ready to use: pictures in, classes, probabilities and features out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar, overload

import numpy as np
import torch
from torch import Tensor

from cspdet.checkpoints.loading import load_model
from cspdet.config.loader import parse_config
from cspdet.datasets.classification.crops import ImageCrop, Interpolation, build_image_crop
from cspdet.device import select_device, to_float_tensor
from cspdet.inference.features import feature_maps, feature_specs, global_avg_pool
from cspdet.inference.predictor import MAX_BATCH_SIZE, ImageInput, load_image
from cspdet.models.bundle import ModelBundle
from cspdet.models.classifier import Classifier, predict_probabilities
from cspdet.recipe import ClassifierEvalConfig
from cspdet.structures import Features

ResultT = TypeVar("ResultT")


class ClassScore(NamedTuple):
    """A class and how probable it is."""

    class_id: int  # index into the class names
    class_name: str
    score: float  # in [0, 1]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a picture shows: the probability of every class. The best one is `class_id`, `class_name`, `score`."""

    class_names: tuple[str, ...]
    probability: Tensor  # (C,) float32, sums to 1

    def top(self, count: int = 5) -> tuple[ClassScore, ...]:
        """The `count` best classes, or all where there are fewer, best first."""
        best = self.probability.topk(max(1, min(count, len(self.class_names))))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return tuple(ClassScore(i, self.class_names[i], score) for i, score in pairs)

    @property
    def class_id(self) -> int:
        return self.top(1)[0].class_id

    @property
    def class_name(self) -> str:
        return self.top(1)[0].class_name

    @property
    def score(self) -> float:
        return self.top(1)[0].score

    def __repr__(self) -> str:
        return f"Prediction({self.class_name!r}, score={self.score:.4f})"


def load_classifier(
    model: str | Path,
    *,
    weights: str | Path | None = None,
    device: str = "auto",
    resize: int | None = None,
    crop: float | None = None,
    ten_crop: bool | None = None,
    interpolation: Interpolation = "bilinear",
) -> ClassifierPredictor:
    """A classifier from a checkpoint, or from a config (with `weights`, else with random values).

    resize, crop and ten_crop stand for those of the model's own `eval` section: the short side in pixels, else the
    share of it that the input shows, and whether ten crops are averaged.

    Raises:
        UserError: no such model, a damaged file, no such device, or a `resize` below the input's size.
    """
    chosen = select_device(device)
    bundle = load_model(model, weights=weights, task="classification")
    overrides = {"resize": resize, "crop": crop, "ten_crop": ten_crop}
    eval_ = override_eval_config(
        bundle.config.eval, {name: value for name, value in overrides.items() if value is not None}
    )
    return ClassifierPredictor(bundle, chosen, build_image_crop(bundle.config.input, eval_, interpolation))


def override_eval_config(eval_: ClassifierEvalConfig, overrides: dict[str, int | float | bool]) -> ClassifierEvalConfig:
    """The settings with some replaced; a share given leaves a short side that only the config gives behind.

    Raises:
        ConfigError: values that cannot be.
    """
    base = eval_.model_dump(mode="json")
    if "crop" in overrides and "resize" not in overrides:
        base["resize"] = None
    return parse_config({**base, **overrides}, ClassifierEvalConfig, "command line")


class FeaturePredictor:
    """Pictures to the maps of a backbone, which may be a classifier's or a detector's."""

    def __init__(self, bundle: ModelBundle, device: torch.device, crop: ImageCrop):
        self.model = bundle.torch_network.eval().to(device).to(memory_format=torch.channels_last)
        self.name = bundle.name
        self.class_names: tuple[str, ...] = bundle.categories.names  # by class_id
        self.device, self.crop = device, crop

    @property
    def size_hw(self) -> tuple[int, int]:
        """Of what the network sees."""
        return self.crop.size_hw

    @overload
    def features(self, x: ImageInput) -> Features: ...  # type: ignore[overload-overlap]
    @overload
    def features(self, x: Sequence[ImageInput]) -> list[Features]: ...

    def features(self, x: ImageInput | Sequence[ImageInput]) -> Features | list[Features]:
        """The backbone's maps of the center crop, finest first: (C_l, H_l, W_l) float32 each, on the CPU.

        Raises:
            ValueError: a network of a Darknet cfg, which has no backbone apart; an array of another shape or type.
            DataError: a file that is not a readable picture.
        """
        feature_specs(self.model)
        return _map_one_or_many(x, self._features)

    @overload
    def pooled_features(self, x: ImageInput) -> Tensor: ...  # type: ignore[overload-overlap]
    @overload
    def pooled_features(self, x: Sequence[ImageInput]) -> list[Tensor]: ...

    def pooled_features(self, x: ImageInput | Sequence[ImageInput]) -> Tensor | list[Tensor]:
        """The coarsest map averaged over its cells: (C,) float32, a picture's description; raises as `features`."""
        feature_specs(self.model)
        return _map_one_or_many(
            x, lambda inputs: [global_avg_pool(tuple(m[None] for m in f))[0] for f in self._features(inputs)]
        )

    @torch.inference_mode()
    def _features(self, inputs: Sequence[ImageInput]) -> list[Features]:
        center = ImageCrop(self.crop.size_hw, self.crop.resize, False, self.crop.interpolation)
        images = to_float_tensor(self._make_crops(inputs, center)[:, 0], self.device)
        maps = [level.float().cpu() for level in feature_maps(self.model, images)]
        return [tuple(level[i] for level in maps) for i in range(len(inputs))]

    @staticmethod
    def _make_crops(inputs: Sequence[ImageInput], crop: ImageCrop) -> Tensor:
        """(B, views, 3, H, W) uint8."""
        named = [
            (load_image(p), str(p) if isinstance(p, (str, Path)) else f"picture {i}") for i, p in enumerate(inputs)
        ]
        return torch.from_numpy(np.stack([crop(image, name) for image, name in named]))


class ClassifierPredictor(FeaturePredictor):
    """What `load_classifier` returns."""

    model: Classifier

    @overload
    def __call__(self, x: ImageInput) -> Prediction: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, x: Sequence[ImageInput]) -> list[Prediction]: ...

    def __call__(self, x: ImageInput | Sequence[ImageInput]) -> Prediction | list[Prediction]:
        """What one picture shows, or each of a list of pictures: a path, or (H, W, 3) uint8 RGB.

        Raises:
            ValueError: an array of another shape or type.
            DataError: a file that is not a readable picture.
        """
        return _map_one_or_many(
            x, lambda inputs: [Prediction(self.class_names, p) for p in self._probabilities(inputs)]
        )

    predict = __call__

    def probabilities(self, x: ImageInput | Sequence[ImageInput]) -> Tensor:
        """(C,) float32 of one picture, (N, C) of a list, on the CPU; raises as a call does."""
        found = _map_one_or_many(x, self._probabilities)
        if isinstance(found, Tensor):
            return found
        return torch.stack(found) if found else torch.empty((0, len(self.class_names)))

    def _probabilities(self, inputs: Sequence[ImageInput]) -> list[Tensor]:
        return list(predict_probabilities(self.model, self._make_crops(inputs, self.crop), self.device).cpu())


def _map_one_or_many(
    x: ImageInput | Sequence[ImageInput], function: Callable[[Sequence[ImageInput]], list[ResultT]]
) -> ResultT | list[ResultT]:
    """`work` on one picture, or on a list of them in pieces."""
    if isinstance(x, (str, Path, np.ndarray)):
        return function([x])[0]
    if not isinstance(x, Sequence):
        raise ValueError(f"expected a path, a (H, W, 3) uint8 RGB array, or a list of them; got {type(x).__name__}")
    found: list[ResultT] = []
    for first in range(0, len(x), MAX_BATCH_SIZE):
        found += function(x[first : first + MAX_BATCH_SIZE])
    return found
