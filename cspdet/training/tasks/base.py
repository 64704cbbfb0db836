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
    """Interface of batches: the attributes that the training loop itself reads."""

    @property
    def images(self) -> Tensor:
        """Images of the batch, (B, 3, H, W) uint8 RGB."""


BatchT = TypeVar("BatchT", bound=AnyBatch)
BatchT_co = TypeVar("BatchT_co", bound=AnyBatch, covariant=True)
ModelT = TypeVar("ModelT", bound=Network)
DatasetT = TypeVar("DatasetT")


class Loader(Protocol[BatchT_co]):
    """Interface of training loaders; a batch is determined by (seed, epoch, batch index)."""

    skipped: dict[str, str]  # unreadable images so far -> reason

    def __len__(self) -> int: ...
    def require_images(self, min_per_rank: int) -> None:
        """Merge the last two batches if a process would have fewer than `min_per_rank` images in the last one."""

    def images_in_batch(self, batch_index: int) -> int:
        """Return the number of images in a batch of an epoch, over all processes."""

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[BatchT_co]:
        """Yield the batches of epoch `epoch` (0-based), starting with batch `start_batch`."""


@dataclass(frozen=True, eq=False)
class TrainingData(Generic[DatasetT]):
    """The validated splits of a dataset.

    Attributes:
        train: The train split.
        val: The val split; None if the dataset has no val split.
        categories: Classes of the train split.
        source: The file or folder that defines the classes, for error messages.
        summary: One-line description of the data, for the log.
    """

    train: DatasetT
    val: DatasetT | None
    categories: Categories
    source: Path
    summary: str


@dataclass(frozen=True, eq=False)
class EvalResult:
    """Result of an evaluation on the val split.

    Attributes:
        primary_metric: The metric that selects the best weights; higher is better. None: undefined.
        metrics: Scalar metrics for the epoch's entry in metrics.jsonl.
        full_metrics: All metrics, for metrics.json; written if these weights are the best so far.
        results: COCO results for detections.json; written if these weights are the best so far. None for a classifier.
        visualization: Some val images with the predictions, (H, W, 3) uint8 RGB.
    """

    primary_metric: float | None
    metrics: dict[str, float | None]
    full_metrics: dict[str, Any]
    results: list[dict[str, Any]] | None
    visualization: np.ndarray


class Task(ABC, Generic[ModelT, BatchT, DatasetT]):
    """Base class of the training tasks: data, loss and evaluation of one type of network.

    Attributes:
        command: Name of the command that trains this task.
        loss_names: Names of the loss terms that `losses` returns; `class` is logged as `loss_class`.
        log_metrics: Evaluation metrics that the log line of an epoch shows.
        val_image_name: File name of the visualization of an evaluation.
        image_list_label: Label of the result of `describe_images` in messages, such as "image ids".
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
        """Read and validate the splits.

        Args:
            data: `data` of the recipe.
            on_bad_image: `train.on_bad_image`: `error` or `skip` for unreadable train images.

        Raises:
            ConfigError: The data is not specified.
            DataError: The data is missing or invalid.
        """

    @staticmethod
    def check_network(train: Any, network: Any) -> None:
        """Check that the network can be trained with these settings; called once, before training.

        Args:
            train: The `train` section of the recipe.
            network: The network.

        Raises:
            ConfigError: The settings do not fit the network.
        """

    @property
    def has_val_set(self) -> bool:
        """True if there is a val split."""
        return self.data.val is not None

    @abstractmethod
    def losses(
        self, model: ModelT, output: Any, batch: BatchT, size_hw: tuple[int, int], all_reduce_sum: AllReduce
    ) -> AnyLosses:
        """Compute the loss terms of this process's part of a batch.

        The sum over all processes is the loss of the whole batch.

        Args:
            model: The network.
            output: Raw output of the network for the images of the batch.
            batch: The batch.
            size_hw: Height and width of the network input, to which multi-scale training resizes the images.
            all_reduce_sum: Sums a tensor over all processes.
        """

    @abstractmethod
    def evaluate(self, model: ModelT, name: str, context: DistributedContext) -> EvalResult | None:
        """Evaluate a network on the val split, which is divided among the processes.

        Args:
            model: The network.
            name: Name of the network in messages.
            context: Process group of the run.

        Returns:
            The result on rank 0; None on other ranks.
        """

    @abstractmethod
    def draw_batch(self, batch: BatchT) -> np.ndarray:
        """Draw the input images of a batch with their targets, as one (H, W, 3) uint8 RGB grid."""

    @abstractmethod
    def describe_images(self, batch: BatchT) -> list[str]:
        """Return an identifier of each image of a batch (image id or path), for messages."""
