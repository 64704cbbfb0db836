"""Focal loss of Lin et al. 2017: cross-entropy that down-weights easy examples."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# The gradient of |target - p|^gamma with gamma < 1 is infinite where p equals the target.
MIN_DISTANCE = 1e-6


def focal_cross_entropy(logits: Tensor, target: Tensor, gamma: float, alpha: float | None) -> Tensor:
    """Compute the elementwise focal loss: |target - p|^gamma times the binary cross-entropy, weighted by alpha.

    For targets 0 and 1 this is eq. 5 of Lin et al. 2017. Soft targets (an IoU, smoothed labels) follow eq. 5 of Li et
    al. 2020, "Generalized focal loss", with the weight interpolated between 1 - alpha and alpha.

    Args:
        logits: Logits of any shape.
        target: Values in [0, 1], of the same shape.
        gamma: Focusing exponent; 0 is cross-entropy.
        alpha: Weight of positives; negatives have the weight 1 - alpha. None: both weights are 1.
    """
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    loss = (target - logits.sigmoid()).abs().clamp(min=MIN_DISTANCE).pow(gamma) * loss
    if alpha is not None:
        loss = torch.lerp(torch.full_like(target, 1 - alpha), torch.full_like(target, alpha), target) * loss
    return loss
