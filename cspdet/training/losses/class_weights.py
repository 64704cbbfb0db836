"""Class weights of the loss: from the config, or computed from the class frequencies."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cspdet.errors import ConfigError
from cspdet.training.losses.config import YoloLossConfig


def class_weights(config: YoloLossConfig, class_counts: Sequence[int], names: Sequence[str]) -> Tensor | None:
    """Return the class weights for `yolo_loss`, (C,) fp32; None for equal weights.

    Args:
        config: The loss config with `class_weights`.
        class_counts: Number of non-crowd boxes of each class in the train split.
        names: Class names, for the error message.

    Raises:
        ConfigError: The length of the configured list is not the number of classes.
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
    """Return weights proportional to 1 / sqrt(number of boxes), normalized to a mean of 1 over all boxes.

    This is a common compromise between equal weights and 1 / count (a baseline in Cui et al. 2019). The normalization
    keeps the magnitude of the loss. A class without boxes gets the weight of a class with one box.

    Args:
        counts: (C,) number of boxes of each class.

    Returns:
        (C,) fp32.
    """
    boxes = counts.double()
    weight = boxes.clamp(min=1).rsqrt()
    total = boxes.sum()
    mean = (weight * boxes).sum() / total if total > 0 else weight.mean()
    return (weight / mean).float()
