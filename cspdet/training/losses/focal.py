"""Cross-entropy that looks away from what is easy: the focal loss of Lin et al. 2017."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# A logit that is right to the last bit has the distance 0, where a power below 1 has no finite slope.
MIN_DISTANCE = 1e-6


def focal_cross_entropy(logits: Tensor, target: Tensor, gamma: float, alpha: float | None) -> Tensor:
    """Elementwise, of equal shapes: |goal - p|^gamma times the binary cross-entropy, weighed by alpha.

    For goals 0 and 1 this is eq. 5 of Lin et al.: alpha weighs the positives, 1 - alpha the rest, None neither. Goals
    between (an IoU, smoothed labels) follow eq. 5 of Li et al. 2020, "Generalized focal loss", and are weighed between.
    """
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    loss = (target - logits.sigmoid()).abs().clamp(min=MIN_DISTANCE).pow(gamma) * loss
    if alpha is not None:
        loss = torch.lerp(torch.full_like(target, 1 - alpha), torch.full_like(target, alpha), target) * loss
    return loss
