"""Feature maps of the backbone of a classifier or detector."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cspdet.models import Classifier, Detector
from cspdet.structures import Features, FeatureSpec


def feature_specs(model: Detector | Classifier) -> tuple[FeatureSpec, ...]:
    """Channels and stride of every feature map, finest first.

    Raises:
        ValueError: The network of a Darknet cfg, which is one list of layers without a separate backbone.
    """
    specs: tuple[FeatureSpec, ...] = _with_backbone(model).backbone.out_specs
    return specs


def feature_maps(model: Detector | Classifier, images: Tensor) -> Features:
    """Compute the feature maps of `feature_specs`.

    Args:
        model: On the device of the images.
        images: (B, 3, H, W) RGB in [0, 1].

    Raises:
        ValueError: As `feature_specs`.
    """
    network = _with_backbone(model)
    features: Features = network.backbone(network.normalize(images))
    return features


def global_avg_pool(features: Features) -> Tensor:
    """Average the coarsest map over its cells, as before the last layer of a classifier: (B, C)."""
    return torch.flatten(features[-1].float().mean(dim=(2, 3)), 1)


def _with_backbone(model: Detector | Classifier) -> Any:
    """The model, if it has a backbone and a `normalize` method."""
    if getattr(model, "backbone", None) is None:
        raise ValueError("the network of a Darknet cfg has no separate backbone, so it has no feature maps to extract")
    return model
