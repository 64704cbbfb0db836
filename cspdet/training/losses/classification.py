"""Loss of a classifier: cross-entropy with soft targets."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class ClassLosses(NamedTuple):
    """Loss term of a classifier, an fp32 scalar."""

    classes: Tensor

    @property
    def total(self) -> Tensor:
        """The sum of the loss terms. A classifier has only one term."""
        return self.classes


def class_loss(logits: Tensor, class_id: Tensor, label_weight: Tensor, label_smoothing: float) -> Tensor:
    """Compute the mean cross-entropy over the batch, in fp32.

    The target probability of a class is (1 - label_smoothing) * label weight + label_smoothing / C.

    Args:
        logits: (B, C).
        class_id: (B, M) int64, up to M classes per image (mixup, CutMix).
        label_weight: (B, M) weights of these classes; each row sums to 1.
        label_smoothing: Weight of the uniform distribution in the target, in [0, 1).
    """
    log_p = logits.float().log_softmax(dim=1)
    target_log_p = (log_p.gather(1, class_id) * label_weight).sum(dim=1)
    return -((1 - label_smoothing) * target_log_p + label_smoothing * log_p.mean(dim=1)).mean()
