"""Functions shared by the necks: selection of the backbone's maps, and YOLOv3's alternating convolutions."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from cspdet.models.base_config import ActivationName
from cspdet.models.blocks import ConvBN
from cspdet.structures import FeatureSpec


def select_top_levels(inputs: tuple[FeatureSpec, ...], num_levels: int, neck_name: str) -> tuple[FeatureSpec, ...]:
    """Return the `num_levels` coarsest maps of a backbone, finest first.

    Args:
        inputs: The declared maps of the backbone, finest first.
        num_levels: Number of maps that the neck fuses.
        neck_name: Name of the neck, for the message.

    Raises:
        ValueError: The backbone has fewer maps, or the stride does not double from each map to the next.
    """
    if len(inputs) < num_levels:
        raise ValueError(f"the neck {neck_name} fuses {num_levels} feature maps; the backbone has {len(inputs)}")
    chosen = inputs[-num_levels:]
    strides = [spec.stride for spec in chosen]
    if any(coarse != 2 * fine for fine, coarse in pairwise(strides)):
        raise ValueError(f"the neck {neck_name} needs strides that double from map to map; the backbone has {strides}")
    return chosen


def yolo_conv_stack(c_in: int, width: int, num_convs: int, act: ActivationName) -> nn.Sequential:
    """Build alternating convolutions: 1x1 to `width` channels, 3x3 to twice as many, 1x1 to `width`, ...

    (B, c_in, H, W) -> (B, width, H, W) if `num_convs` is odd, (B, 2 width, H, W) if it is even.
    """
    layers: list[nn.Module] = []
    for i in range(num_convs):
        layers.append(ConvBN(2 * width, width, act=act) if i % 2 == 0 else ConvBN(width, 2 * width, 3, act=act))
    layers[0] = ConvBN(c_in, width, act=act)
    return nn.Sequential(*layers)
