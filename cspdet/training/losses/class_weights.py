"""How much a class counts in the loss: by the user's numbers, or more the rarer it is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cspdet.errors import ConfigError
from cspdet.training.losses.config import YoloLossConfig


def class_weights(config: YoloLossConfig, class_counts: Sequence[int], names: Sequence[str]) -> Tensor | None:
    """(C,) fp32 for `yolo_loss`, or None where all classes count the same.

    class_counts  boxes of each class in the train split, crowds left out
    names         of the classes, for the message

    Raises:
        ConfigError: the config's list is not one number a class.
    """
    if config.class_weights == "none":
        return None
    if config.class_weights == "auto":
        return weights_from_counts(torch.tensor(class_counts))
    if len(config.class_weights) != len(names):
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise ConfigError(
            f"train.loss.class_weights: expected {len(names)} numbers, one a class ({shown}); "
            f"found {len(config.class_weights)}"
        )
    return torch.tensor(config.class_weights)


def weights_from_counts(counts: Tensor) -> Tensor:
    """(C,) boxes of each class to (C,) fp32 weights: in inverse proportion to the root of the count.

    The usual way between equal weights and 1 / count (named by Cui et al. 2019, whose own has a number to choose).
    Scaled so that the mean over the boxes is 1, which keeps the size of the loss; a class without boxes counts as if it
    had one.
    """
    boxes = counts.double()
    weight = boxes.clamp(min=1).rsqrt()
    total = boxes.sum()
    mean = (weight * boxes).sum() / total if total > 0 else weight.mean()
    return (weight / mean).float()
