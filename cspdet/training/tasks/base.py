"""What the training loop asks of a task: batches, a loss, a judgment, pictures. Detection and classification answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from torch import Tensor

from cspdet.models import Classifier, Detector
from cspdet.recipe import ClassificationRecipe, DetectionRecipe
from cspdet.structures import Categories
from cspdet.training.distributed.context import DistributedContext

Network = Detector | Classifier
AllReduce = Callable[[Tensor], Tensor]


class AnyBatch(Protocol):
    """What the loop itself looks at in a batch."""

    @property
    def images(self) -> Tensor:
        """(B, 3, H, W) uint8 RGB."""


class AnyLosses(Protocol):
    """The weighted parts of a loss in the order of `Task.loss_names`, fp32 scalars, as a named tuple."""

    @property
    def total(self) -> Tensor:
        """Their sum."""

    def __iter__(self) -> Iterator[Tensor]: ...


BatchT = TypeVar("BatchT", bound=AnyBatch)
ModelT = TypeVar("ModelT", bound=Network)
# As protocols want them: what only comes out, and what only goes in.
BatchT_co = TypeVar("BatchT_co", bound=AnyBatch, covariant=True)
ModelT_contra = TypeVar("ModelT_contra", bound=Network, contravariant=True)


class Loader(Protocol[BatchT_co]):
    """Batches, epoch by epoch: functions of (seed, epoch, number of the batch)."""

    skipped: dict[str, str]  # pictures that could not be read so far, and why

    def __len__(self) -> int: ...
    def images_in_batch(self, batch_index: int) -> int:
        """Pictures in batch `number` of an epoch, over all processes."""

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[BatchT_co]:
        """The batches of epoch `epoch` (0-based) from number `start_batch` on."""


@dataclass(frozen=True, eq=False)
class EvalResult:
    """What an evaluation found."""

    primary_metric: float  # the deciding number: more is better
    metrics: dict[str, float | None]  # for the epoch's line of metrics.jsonl
    full_metrics: dict[str, Any]  # for metrics.json, should these weights be the best so far
    results: list[dict[str, Any]] | None  # for detections.json likewise
    visualization: np.ndarray  # (H, W, 3) uint8 RGB, some pictures with what was found


class Task(Protocol[ModelT_contra, BatchT]):
    """What is learned, from what, and how it is judged."""

    command: str  # the command that trains it
    loss_names: tuple[str, ...]  # of what `losses` returns; `class` becomes `loss_class` in metrics.jsonl
    log_metrics: tuple[str, ...]  # numbers of a judgment that an epoch's line in the log tells
    val_image_name: str  # the file that a judgment's picture goes to
    image_list_label: str  # what `names_of` gives: "image ids"

    @property
    def recipe(self) -> DetectionRecipe | ClassificationRecipe:
        """What was asked for."""

    @property
    def classes(self) -> Categories:
        """Those of the train split."""

    @property
    def loader(self) -> Loader[BatchT]:
        """The training batches."""

    @property
    def has_val_set(self) -> bool:
        """Whether there is a val split."""

    def losses(
        self, model: ModelT_contra, output: Any, batch: BatchT, size_hw: tuple[int, int], all_reduce_sum: AllReduce
    ) -> AnyLosses:
        """Of this process's part of a batch; those of all processes add up to the loss of the whole batch.

        output   what the network made of the batch's pictures
        size_hw  their height and width then, which multi-scale training changes
        across   sums a tensor over all processes
        """

    def evaluate(self, model: ModelT_contra, name: str, context: DistributedContext) -> EvalResult | None:
        """Evaluate a network, called `name`, on the val split, each process on its part; rank 0 gets the judgment."""

    def draw_batch(self, batch: BatchT) -> np.ndarray:
        """What the network sees and should say of it, (H, W, 3) uint8 RGB."""

    def describe_images(self, batch: BatchT) -> list[str]:
        """How a user finds the pictures of a batch."""
