"""What the training loop asks of a task: batches, a loss, a judgment, pictures. Detection and classification answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from torch import Tensor

from cspdet.models import Classifier, Detector
from cspdet.recipe import ClassifierRecipe, Recipe
from cspdet.structures import Classes
from cspdet.training.distributed.context import World

Network = Detector | Classifier
Across = Callable[[Tensor], Tensor]


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


B = TypeVar("B", bound=AnyBatch)
Model = TypeVar("Model", bound=Network)
# As protocols want them: what only comes out, and what only goes in.
Loaded = TypeVar("Loaded", bound=AnyBatch, covariant=True)
Trained = TypeVar("Trained", bound=Network, contravariant=True)


class Loader(Protocol[Loaded]):
    """Batches, epoch by epoch: functions of (seed, epoch, number of the batch)."""

    skipped: dict[str, str]  # pictures that could not be read so far, and why

    def __len__(self) -> int: ...
    def batch_pictures(self, number: int) -> int:
        """Pictures in batch `number` of an epoch, over all processes."""

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Loaded]:
        """The batches of epoch `epoch` (0-based) from number `start_batch` on."""


@dataclass(frozen=True, eq=False)
class Judgment:
    """What an evaluation found."""

    score: float  # the deciding number: more is better
    numbers: dict[str, float | None]  # for the epoch's line of metrics.jsonl
    document: dict[str, Any]  # for metrics.json, should these weights be the best so far
    results: list[dict[str, Any]] | None  # for detections.json likewise
    picture: np.ndarray  # (H, W, 3) uint8 RGB, some pictures with what was found


class Task(Protocol[Trained, B]):
    """What is learned, from what, and how it is judged."""

    verb: str  # the command that trains it
    loss_names: tuple[str, ...]  # of what `losses` returns; `class` becomes `loss_class` in metrics.jsonl
    told: tuple[str, ...]  # numbers of a judgment that an epoch's line in the log tells
    val_picture: str  # the file that a judgment's picture goes to
    image_names: str  # what `names_of` gives: "image ids"

    @property
    def recipe(self) -> Recipe | ClassifierRecipe:
        """What was asked for."""

    @property
    def classes(self) -> Classes:
        """Those of the train split."""

    @property
    def loader(self) -> Loader[B]:
        """The training batches."""

    @property
    def can_judge(self) -> bool:
        """Whether there is a val split."""

    def losses(self, model: Trained, output: Any, batch: B, size_hw: tuple[int, int], across: Across) -> AnyLosses:
        """Of this process's part of a batch; those of all processes add up to the loss of the whole batch.

        output   what the network made of the batch's pictures
        size_hw  their height and width then, which multi-scale training changes
        across   sums a tensor over all processes
        """

    def judge(self, model: Trained, name: str, world: World) -> Judgment | None:
        """Evaluate a network, called `name`, on the val split, each process on its part; rank 0 gets the judgment."""

    def draw_batch(self, batch: B) -> np.ndarray:
        """What the network sees and should say of it, (H, W, 3) uint8 RGB."""

    def names_of(self, batch: B) -> list[str]:
        """How a user finds the pictures of a batch."""
