"""The focal loss of Lin et al. 2017: cross-entropy that down-weights easy examples."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# A logit that is right to the last bit has the distance 0, where a power below 1 has no finite slope.
MIN_DISTANCE = 1e-6


def focal_cross_entropy(logits: Tensor, target: Tensor, gamma: float, alpha: float | None) -> Tensor:
    """Elementwise |target - p|^gamma times the binary cross-entropy, weighted by alpha.

    For targets 0 and 1 this is eq. 5 of Lin et al. Targets between (an IoU, smoothed labels) follow eq. 5 of Li et al.
    2020, "Generalized focal loss", with a weight between.

    Args:
        logits: Of any shape.
        target: In [0, 1], of the same shape.
        gamma: The focusing exponent; 0 is cross-entropy.
        alpha: Weight of positives; 1 - alpha that of negatives; None: both 1.
    """
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    loss = (target - logits.sigmoid()).abs().clamp(min=MIN_DISTANCE).pow(gamma) * loss
    if alpha is not None:
        loss = torch.lerp(torch.full_like(target, 1 - alpha), torch.full_like(target, alpha), target) * loss
    return loss
