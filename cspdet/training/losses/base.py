"""Interface of the detection losses."""

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
    """Interface of the losses of a batch: a named tuple of weighted loss terms, in the order of `part_names`."""

    @property
    def total(self) -> Tensor:
        """The sum of the terms."""

    def __iter__(self) -> Iterator[Tensor]: ...


class LossContext(NamedTuple):
    """The inputs of a loss's constructor, in addition to its config."""

    assigner: Assigner
    categories: Categories
    class_counts: list[int]  # number of non-crowd boxes of each class in the train split
    device: torch.device


class DetectionLoss(ABC):
    """Base class of the detection losses. A user-defined loss is a subclass with a nested `Config`.

    Attributes:
        part_names: Names of the loss terms in the log and, as `loss_<name>`, in metrics.jsonl.
    """

    part_names: ClassVar[tuple[str, ...]]

    def __init__(self, config: Any, context: LossContext):
        self.config, self.context = config, context

    @abstractmethod
    def __call__(
        self, raw: tuple[Tensor, ...], targets: Targets, anchors: Anchors, all_reduce_sum: AllReduce
    ) -> AnyLosses:
        """Compute the loss terms of this process's part of a batch.

        Args:
            raw: Raw head outputs, one (B, A, H_l, W_l, 5 + C) per level.
            targets: Ground-truth boxes of the batch, in input pixels.
            anchors: Anchors of the head.
            all_reduce_sum: Sums a tensor over all processes. Every process must call it the same number of times. If
                the loss is divided by a count summed in this way, the losses of the processes add up to the loss of the
                whole batch.
        """


def no_reduction(total: Tensor) -> Tensor:
    """Return the tensor unchanged; this is the all-reduce of a single process."""
    return total
