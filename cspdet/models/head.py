"""The YOLOv3 head: a 1x1 convolution per level; `cspdet.models.postprocess` decodes its outputs."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cspdet.models.config import WhDecoding, YoloHeadConfig
from cspdet.structures import Features, FeatureSpec

NUM_BOX_OUTPUTS = 5  # tx, ty, tw, th, objectness


class Anchors(nn.Module):
    """Anchors, strides and decoding parameters of a head, as buffers that are not saved in checkpoints."""

    wh: Tensor  # (L, A, 2) input pixels
    stride: Tensor  # (L,) input pixels per cell
    scale_x_y: Tensor  # (L,)

    def __init__(self, config: YoloHeadConfig, strides: tuple[int, ...]):
        super().__init__()
        self.register_buffer("wh", torch.tensor(config.anchors, dtype=torch.float32), persistent=False)
        self.register_buffer("stride", torch.tensor(strides, dtype=torch.float32), persistent=False)
        self.register_buffer("scale_x_y", torch.tensor(config.scale_x_y, dtype=torch.float32), persistent=False)
        self.strides = strides
        self.wh_decoding: WhDecoding = config.wh_decoding


class YoloHead(nn.Module):
    """The YOLOv3 head: per level (B, C_l, H, W) -> raw tensor (B, A, H, W, 5 + C).

    The last dimension is tx, ty, tw, th, objectness, class logits.
    """

    def __init__(self, config: YoloHeadConfig, inputs: tuple[FeatureSpec, ...], num_classes: int):
        super().__init__()
        if len(inputs) != len(config.anchors):
            raise ValueError(f"the neck has {len(inputs)} scales, but there are anchors for {len(config.anchors)}")
        self.num_classes = num_classes
        self.anchors = Anchors(config, tuple(spec.stride for spec in inputs))
        per_cell = len(config.anchors[0]) * (5 + num_classes)
        self.pred_convs = nn.ModuleList(nn.Conv2d(spec.channels, per_cell, 1) for spec in inputs)

    def forward(self, features: Features) -> tuple[Tensor, ...]:
        """Return one raw tensor per level, finest first."""
        raw = []
        for conv, x in zip(self.pred_convs, features, strict=True):
            batch, _, height, width = x.shape
            raw.append(conv(x).view(batch, -1, 5 + self.num_classes, height, width).permute(0, 1, 3, 4, 2))
        return tuple(raw)

    def init_prediction_bias(self) -> None:
        """Initialize the prediction convolution of every level with a low prior objectness."""
        for conv, stride in zip(self.pred_convs, self.anchors.strides, strict=True):
            assert isinstance(conv, nn.Conv2d)
            init_prediction_bias(conv, self.num_classes, stride)


@torch.no_grad()
def init_prediction_bias(conv: nn.Conv2d, num_classes: int, stride: int) -> None:
    """Initialize a prediction convolution with a low prior objectness (focal loss, Lin et al. 2017, section 4.1).

    Args:
        conv: The convolution, modified in place; its outputs are (5 + num_classes) values per anchor.
        num_classes: Number of classes.
        stride: Stride of the level in input pixels.
    """
    assert conv.bias is not None
    nn.init.normal_(conv.weight, std=0.01)
    bias = conv.bias.view(-1, 5 + num_classes)
    bias.zero_()
    # With a few objects per image, about (stride / 160)^2 of the cells of a level are positive.
    bias[:, 4] = -math.log(1 / min(0.1, (stride / 160) ** 2 / 3) - 1)
    bias[:, 5:] = -math.log(max(num_classes - 1, 1))
