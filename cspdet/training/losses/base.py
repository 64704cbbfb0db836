"""The interface of a detector's loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from cspdet.models.head import Anchors
from cspdet.structures import Categories, Targets
from cspdet.training.assigners.priors import Assigner

AllReduce = Callable[[Tensor], Tensor]


class AnyLosses(Protocol):
    """The weighted parts of a loss in the order of `part_names`, fp32 scalars, as a named tuple."""

    @property
    def total(self) -> Tensor:
        """Their sum."""

    def __iter__(self) -> Iterator[Tensor]: ...


class LossContext(NamedTuple):
    """What a loss is built with, beside its config."""

    assigner: Assigner
    categories: Categories
    class_counts: list[int]  # boxes of each class in the train split, without crowds
    device: torch.device


class DetectionLoss(ABC):
    """The loss of a detector. A user-defined loss is a subclass with a nested `Config`.

    Attributes:
        part_names: Names of the parts, as the log and metrics.jsonl (`loss_<name>`) have them.
    """

    part_names: ClassVar[tuple[str, ...]]

    def __init__(self, config: Any, context: LossContext):
        self.config, self.context = config, context

    @abstractmethod
    def __call__(
        self, raw: tuple[Tensor, ...], targets: Targets, anchors: Anchors, all_reduce_sum: AllReduce
    ) -> AnyLosses:
        """Compute the losses of this process's part of a batch.

        Args:
            raw: The head's output of each level, (B, A, H_l, W_l, 5 + C).
            targets: The boxes of the batch in input pixels.
            anchors: The anchors of the head.
            all_reduce_sum: Sums a tensor over all processes. Every process must call it equally often. Counts that are
                summed so make the losses of the processes add up to that of the whole batch in one process.
        """


def no_reduction(total: Tensor) -> Tensor:
    """The sum over all processes where there is one process."""
    return total
