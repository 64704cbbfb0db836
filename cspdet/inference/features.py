"""The feature maps of a network's backbone, whatever the backbone is part of."""

from __future__ import annotations

import torch
from torch import Tensor

from cspdet.models import Classifier, Detector
from cspdet.models.classifier import BackboneClassifier
from cspdet.models.detector import ComposedDetector
from cspdet.structures import Features, FeatureSpec


def feature_specs(model: Detector | Classifier) -> tuple[FeatureSpec, ...]:
    """Channels and stride of every map, finest first.

    Raises:
        ValueError: a network that a Darknet cfg describes, which is one list of layers without a backbone apart.
    """
    if not isinstance(model, (ComposedDetector, BackboneClassifier)):
        raise ValueError("a network that a Darknet cfg describes has no backbone apart, whose maps could be taken")
    return model.backbone.out_specs


def feature_maps(model: Detector | Classifier, images: Tensor) -> Features:
    """(B, 3, H, W) RGB in [0, 1] -> the maps of `feature_specs`; raises ValueError as it does."""
    feature_specs(model)
    assert isinstance(model, (ComposedDetector, BackboneClassifier))
    return model.backbone(model.normalize(images))


def global_avg_pool(features: Features) -> Tensor:
    """(B, C): the coarsest map, averaged over its cells, which is what a classifier's last layer takes."""
    return torch.flatten(features[-1].float().mean(dim=(2, 3)), 1)
