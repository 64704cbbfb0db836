"""The whole detector: head(neck(backbone(image)))."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cspdet.models.backbones import Backbone
from cspdet.models.blocks import init_weights
from cspdet.models.config import NormalizeConfig
from cspdet.models.head import Anchors, YoloHead
from cspdet.models.necks import Neck


class Detector(nn.Module):
    """(B, 3, H, W) RGB in [0, 1] -> one raw tensor a scale, (B, A, H_l, W_l, 5 + C), finest scale first.

    The same in training, evaluation and export, whatever the network is made of.
    """

    @property
    def anchors(self) -> Anchors:
        raise NotImplementedError

    @property
    def num_classes(self) -> int:
        raise NotImplementedError

    @property
    def strides(self) -> tuple[int, ...]:
        """Input pixels a cell, one number a scale."""
        return self.anchors.strides

    def check_size(self, size_hw: tuple[int, int]) -> None:
        """Raise ValueError unless the network takes pictures of this size: multiples of the coarsest stride."""
        check_divisible(size_hw, self.strides)


def check_divisible(size_hw: tuple[int, int], strides: tuple[int, ...]) -> None:
    """Raise ValueError unless the coarsest stride divides both sides."""
    step = max(strides)
    if any(side % step for side in size_hw):
        raise ValueError(f"expected multiples of {step}, found {size_hw[0]}x{size_hw[1]}")


class ComposedDetector(Detector):
    """head(neck(backbone(image))); H and W are multiples of the coarsest stride."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, neck: Neck, head: YoloHead, normalize: NormalizeConfig):
        super().__init__()
        self.backbone, self.neck, self.head = backbone, neck, head
        self.register_buffer("mean", torch.tensor(normalize.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(normalize.std).view(1, 3, 1, 1), persistent=False)
        init_weights(self)
        self.head.init_prediction_bias()

    @property
    def anchors(self) -> Anchors:
        return self.head.anchors

    @property
    def num_classes(self) -> int:
        return self.head.num_classes

    def normalize(self, images: Tensor) -> Tensor:
        """What the backbone takes of pictures in [0, 1]."""
        return (images - self.mean) / self.std

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.head(self.neck(self.backbone(self.normalize(images))))
