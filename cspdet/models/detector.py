"""Object detectors: head(neck(backbone(image)))."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cspdet.models.backbones import Backbone
from cspdet.models.blocks import init_weights
from cspdet.models.config import NormalizeConfig
from cspdet.models.head import NUM_BOX_OUTPUTS, Anchors, YoloHead
from cspdet.models.necks import Neck
from cspdet.structures import ClassLayer


class Detector(nn.Module):
    """Interface of detectors: (B, 3, H, W) RGB in [0, 1] -> one raw tensor per level, (B, A, H_l, W_l, 5 + C).

    Levels are ordered finest first. The outputs have the same format in training, evaluation and export;
    `cspdet.models.postprocess` decodes the outputs.
    """

    @property
    def anchors(self) -> Anchors:
        """Anchors, strides and decoding parameters."""
        raise NotImplementedError

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        raise NotImplementedError

    @property
    def strides(self) -> tuple[int, ...]:
        """Input pixels per cell of each level, finest first."""
        return self.anchors.strides

    @property
    def class_layers(self) -> tuple[ClassLayer, ...]:
        """The layers with class outputs. User-defined detectors have none unless they define them."""
        return ()

    def check_size(self, size_hw: tuple[int, int]) -> None:
        """Raise ValueError if height or width is not a multiple of the coarsest stride."""
        check_divisible(size_hw, self.strides)


def check_divisible(size_hw: tuple[int, int], strides: tuple[int, ...]) -> None:
    """Raise ValueError if height or width is not a multiple of the largest stride."""
    step = max(strides)
    if any(side % step for side in size_hw):
        raise ValueError(f"expected multiples of {step}, found {size_hw[0]}x{size_hw[1]}")


class ComposedDetector(Detector):
    """Detector that consists of a backbone, a neck and a head; H and W are multiples of the coarsest stride."""

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
        """Anchors, strides and decoding parameters of the head."""
        return self.head.anchors

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.head.num_classes

    @property
    def class_layers(self) -> tuple[ClassLayer, ...]:
        """The prediction convolutions of the head."""
        convs = getattr(self.head, "pred_convs", ())  # a user-defined head may have others
        return tuple(ClassLayer(conv, NUM_BOX_OUTPUTS) for conv in convs)

    def normalize(self, images: Tensor) -> Tensor:
        """Normalize images in [0, 1] for the backbone."""
        return (images - self.mean) / self.std

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return one raw tensor per level, finest first."""
        return self.head(self.neck(self.backbone(self.normalize(images))))
