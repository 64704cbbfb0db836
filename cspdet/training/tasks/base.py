"""The task interface of the training loop: data, batches, loss, evaluation, visualization."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
from torch import Tensor

from cspdet.config.input import InputConfig
from cspdet.models.bundle import Network
from cspdet.structures import Categories
from cspdet.training.distributed.context import DistributedContext
from cspdet.training.losses.base import AllReduce, AnyLosses


class AnyBatch(Protocol):
    """What the loop itself reads of a batch."""

    @property
    def images(self) -> Tensor:
        """(B, 3, H, W) uint8 RGB."""


BatchT = TypeVar("BatchT", bound=AnyBatch)
BatchT_co = TypeVar("BatchT_co", bound=AnyBatch, covariant=True)
ModelT = TypeVar("ModelT", bound=Network)
DatasetT = TypeVar("DatasetT")


class Loader(Protocol[BatchT_co]):
    """Batches, epoch by epoch: functions of (seed, epoch, index of the batch)."""

    skipped: dict[str, str]  # images that could not be read so far, and why

    def __len__(self) -> int: ...
    def images_in_batch(self, batch_index: int) -> int:
        """Number of images in a batch of an epoch, over all processes."""

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[BatchT_co]:
        """The batches of epoch `epoch` (0-based) from index `start_batch` on."""


@dataclass(frozen=True, eq=False)
class TrainingData(Generic[DatasetT]):
    """The splits of a data set, checked.

    Attributes:
        train: The train split.
        val: The val split, where there is one.
        categories: Those of the train split.
        source: The file or folder that an error about the classes names.
        summary: The data in a few words, for the log.
    """

    train: DatasetT
    val: DatasetT | None
    categories: Categories
    source: Path
    summary: str


@dataclass(frozen=True, eq=False)
class EvalResult:
    """The result of an evaluation."""

    primary_metric: float  # decides which weights are the best: more is better
    metrics: dict[str, float | None]  # for the epoch's line of metrics.jsonl
    full_metrics: dict[str, Any]  # for metrics.json, should these weights be the best so far
    results: list[dict[str, Any]] | None  # for detections.json likewise
    visualization: np.ndarray  # (H, W, 3) uint8 RGB, some images with the predictions


class Task(ABC, Generic[ModelT, BatchT, DatasetT]):
    """What is learned, from what, and how it is evaluated.

    Attributes:
        command: The command that trains it.
        loss_names: Of what `losses` returns; `class` becomes `loss_class` in metrics.jsonl.
        log_metrics: Metrics of an evaluation that an epoch's line in the log shows.
        val_image_name: The file of an evaluation's image.
        image_list_label: What `describe_images` gives: "image ids".
        input: Input size and resize mode.
        data: The splits.
        loader: The training batches.
    """

    command: ClassVar[str]
    log_metrics: ClassVar[tuple[str, ...]]
    val_image_name: ClassVar[str]
    image_list_label: ClassVar[str]

    loss_names: tuple[str, ...]
    input: InputConfig
    data: TrainingData[DatasetT]
    loader: Loader[BatchT]

    @staticmethod
    @abstractmethod
    def load_data(data: Path | None, on_bad_image: str) -> TrainingData[Any]:
        """Read and check the splits.

        Args:
            data: `data` of the recipe.
            on_bad_image: `train.on_bad_image`: whether unreadable train images are an error or skipped.

        Raises:
            ConfigError, DataError: missing or invalid data.
        """

    @staticmethod
    def check_network(train: Any, network: Any) -> None:
        """Check that the network can be trained with these settings; called once, before training.

        Raises:
            ConfigError: it cannot.
        """

    @property
    def has_val_set(self) -> bool:
        """Whether there is a val split."""
        return self.data.val is not None

    @abstractmethod
    def losses(
        self, model: ModelT, output: Any, batch: BatchT, size_hw: tuple[int, int], all_reduce_sum: AllReduce
    ) -> AnyLosses:
        """Compute the losses of this process's part of a batch; summed over processes, they are the batch's loss.

        Args:
            model: The network.
            output: What it made of the batch's images.
            batch: The batch.
            size_hw: Height and width of the images then, which multi-scale training changes.
            all_reduce_sum: Sums a tensor over all processes.
        """

    @abstractmethod
    def evaluate(self, model: ModelT, name: str, context: DistributedContext) -> EvalResult | None:
        """Evaluate a network on the val split, each process on its part; the result for rank 0, else None.

        Args:
            model: The network.
            name: Its name in messages.
            context: The processes of the run.
        """

    @abstractmethod
    def draw_batch(self, batch: BatchT) -> np.ndarray:
        """What the network sees, with the targets, as one (H, W, 3) uint8 RGB image."""

    @abstractmethod
    def describe_images(self, batch: BatchT) -> list[str]:
        """How a user finds the images of a batch."""
