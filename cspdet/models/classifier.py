"""Image classifiers: a backbone, global average pooling and a linear layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cspdet.device import Precision, autocast, to_float_tensor
from cspdet.models.backbones import Backbone
from cspdet.models.blocks import init_weights
from cspdet.models.config import NormalizeConfig
from cspdet.models.detector import check_divisible
from cspdet.structures import ClassLayer


class Classifier(nn.Module):
    """Interface of classifiers: (B, 3, H, W) RGB in [0, 1] -> (B, C) logits."""

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        raise NotImplementedError

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides of the feature maps in input pixels, finest first."""
        raise NotImplementedError

    @property
    def class_layers(self) -> tuple[ClassLayer, ...]:
        """The layers with class outputs. User-defined classifiers have none unless they define them."""
        return ()

    def check_size(self, size_hw: tuple[int, int]) -> None:
        """Raise ValueError if height or width is not a multiple of the coarsest stride."""
        check_divisible(size_hw, self.strides)


class BackboneClassifier(Classifier):
    """Classifier that consists of a backbone, global average pooling of its coarsest map, and a linear layer."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, num_classes: int, normalize: NormalizeConfig | None = None):
        super().__init__()
        normalize = normalize or NormalizeConfig()
        self.backbone = backbone
        self.skip_normalize = normalize == NormalizeConfig()  # mean 0, std 1: avoids operations in exported graphs
        self.register_buffer("mean", torch.tensor(normalize.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(normalize.std).view(1, 3, 1, 1), persistent=False)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(backbone.out_specs[-1].channels, num_classes)
        init_weights(self)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.fc.out_features

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides of the backbone's feature maps in input pixels, finest first."""
        return tuple(spec.stride for spec in self.backbone.out_specs)

    @property
    def class_layers(self) -> tuple[ClassLayer, ...]:
        """The linear layer."""
        return (ClassLayer(self.fc, 0),)

    def normalize(self, images: Tensor) -> Tensor:
        """Normalize images in [0, 1] for the backbone."""
        return images if self.skip_normalize else (images - self.mean) / self.std

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, C)."""
        return self.fc(self.pool(self.backbone(self.normalize(images))[-1]).flatten(1))


@torch.inference_mode()
def predict_probabilities(
    model: Classifier, crops: Tensor, device: torch.device, precision: Precision = "fp32"
) -> Tensor:
    """Predict class probabilities, averaged over the crops of each image.

    Args:
        model: The network, on `device`.
        crops: (B, V, 3, H, W) uint8 RGB, V crops per image.
        device: Device of the network.
        precision: Precision of the forward pass.

    Returns:
        (B, C) float32 probabilities. NaN values, which occur if training diverged, are replaced by 0.
    """
    count, num_crops = crops.shape[:2]
    parts = []
    for part in crops.flatten(0, 1).split(max(1, count)):  # limits the memory of ten crops to that of one
        with autocast(device, precision):
            logits = model(to_float_tensor(part, device))
        parts.append(logits.float().softmax(dim=1).nan_to_num(0.0))
    return torch.cat(parts).unflatten(0, (count, num_crops)).mean(dim=1)
