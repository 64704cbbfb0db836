"""Feature maps of the backbone of a classifier or detector."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cspdet.models import Classifier, Detector
from cspdet.structures import Features, FeatureSpec


def feature_specs(model: Detector | Classifier) -> tuple[FeatureSpec, ...]:
    """Return channels and stride of each feature map, finest first.

    Raises:
        ValueError: The network was built from a Darknet cfg and has no separate backbone.
    """
    specs: tuple[FeatureSpec, ...] = _with_backbone(model).backbone.out_specs
    return specs


def feature_maps(model: Detector | Classifier, images: Tensor) -> Features:
    """Compute the feature maps of the backbone.

    Args:
        model: The network, on the device of the images.
        images: (B, 3, H, W) RGB in [0, 1].

    Returns:
        One map (B, C_l, H_l, W_l) per level, finest first, as described by `feature_specs`.

    Raises:
        ValueError: The network was built from a Darknet cfg and has no separate backbone.
    """
    network = _with_backbone(model)
    features: Features = network.backbone(network.normalize(images))
    return features


def global_avg_pool(features: Features) -> Tensor:
    """Return the (B, C) average of the coarsest feature map over its cells, the input of a classifier's last layer."""
    return torch.flatten(features[-1].float().mean(dim=(2, 3)), 1)


def _with_backbone(model: Detector | Classifier) -> Any:
    """Return the model; raise ValueError if the model has no separate backbone."""
    if getattr(model, "backbone", None) is None:
        raise ValueError("the network of a Darknet cfg has no separate backbone, so it has no feature maps to extract")
    return model
