"""Class weights of the loss: from the config, or computed from the class frequencies."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cspdet.errors import ConfigError
from cspdet.training.losses.config import YoloLossConfig


def class_weights(config: YoloLossConfig, class_counts: Sequence[int], names: Sequence[str]) -> Tensor | None:
    """The class weights for `yolo_loss`, (C,) fp32, or None where all classes count the same.

    Args:
        config: The loss's config with `class_weights`.
        class_counts: Boxes of each class in the train split, without crowds.
        names: Names of the classes, for the message.

    Raises:
        ConfigError: the config's list is not one number a class.
    """
    if config.class_weights == "none":
        return None
    if config.class_weights == "auto":
        return weights_from_counts(torch.tensor(class_counts))
    if len(config.class_weights) != len(names):
        listed = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise ConfigError(
            f"train.loss.class_weights: expected {len(names)} numbers, one a class ({listed}); "
            f"found {len(config.class_weights)}"
        )
    return torch.tensor(config.class_weights)


def weights_from_counts(counts: Tensor) -> Tensor:
    """Weights in inverse proportion to the square root of the number of boxes, with mean 1 over the boxes.

    The usual compromise between equal weights and 1 / count (Cui et al. 2019 name it beside their own). The mean keeps
    the size of the loss; a class without boxes counts as if it had one.

    Args:
        counts: (C,) boxes of each class.

    Returns:
        (C,) fp32.
    """
    boxes = counts.double()
    weight = boxes.clamp(min=1).rsqrt()
    total = boxes.sum()
    mean = (weight * boxes).sum() / total if total > 0 else weight.mean()
    return (weight / mean).float()
