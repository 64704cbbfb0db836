"""The loss of a classifier: cross entropy against soft targets."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class ClassLosses(NamedTuple):
    """The loss of a batch, a scalar in fp32."""

    classes: Tensor

    @property
    def total(self) -> Tensor:
        """The sum of the parts: there is one."""
        return self.classes


def class_loss(logits: Tensor, class_id: Tensor, label_weight: Tensor, label_smoothing: float) -> Tensor:
    """Mean cross entropy against targets that may be distributed over classes; computed in fp32.

    The target of a class is (1 - label_smoothing) times its weight, plus label_smoothing / C.

    Args:
        logits: (B, C).
        class_id: (B, M) int64, the classes of each image.
        label_weight: (B, M), their weights, which sum to 1 in each row.
        label_smoothing: The part of the target that is spread evenly over all classes.
    """
    log_p = logits.float().log_softmax(dim=1)
    target_log_p = (log_p.gather(1, class_id) * label_weight).sum(dim=1)
    return -((1 - label_smoothing) * target_log_p + label_smoothing * log_p.mean(dim=1)).mean()
