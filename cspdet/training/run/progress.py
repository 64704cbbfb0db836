"""Progress of an epoch: throughput, fraction of time spent waiting for data, progress bar or log lines."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch

from cspdet.io.progress import ProgressBar, format_seconds, is_interactive
from cspdet.training.state import TrainProgress
from cspdet.training.tasks.base import AnyBatch

BatchT = TypeVar("BatchT", bound=AnyBatch)
LOG_INTERVAL_S = 30.0

log = logging.getLogger("cspdet")


class EpochMeter:
    """Counts the batches of one epoch and shows the progress.

    Args:
        epoch: The epoch, 0-based.
        epochs: Epochs of the run.
        num_batches: Batches of the epoch.
        done: Batches of this epoch that were trained before the run was resumed.
        images_in_batch: Function that returns the number of images in a batch, over all processes, by batch index.
    """

    def __init__(self, epoch: int, epochs: int, num_batches: int, done: int, images_in_batch: Callable[[int], int]):
        self.title, self.images_in_batch = f"epoch {epoch + 1}/{epochs}", images_in_batch
        self.num_batches, self.initial, self.done, self.images = num_batches, done, done, 0
        self.data_wait_s, self.started = 0.0, time.perf_counter()
        self.last_log_time = self.started
        self.bar = ProgressBar(self.title, num_batches) if is_interactive() else None

    def iterate(self, batches: Iterator[BatchT]) -> Iterator[BatchT]:
        """Yield the batches, and measure the time spent waiting for batches."""
        while True:
            wait_start = time.perf_counter()
            batch = next(batches, None)
            self.data_wait_s += time.perf_counter() - wait_start
            if batch is None:
                return
            yield batch
            self.images += self.images_in_batch(self.done)
            self.done += 1

    def show(self, loss_sums: dict[str, float]) -> None:
        """Show mean loss, time left and rates of the epoch in a progress bar, or log them every half minute."""
        if self.bar is not None:
            self.bar.show(self.done + 1, lambda: self._fields(loss_sums))
        elif time.perf_counter() - self.last_log_time > LOG_INTERVAL_S:
            self.last_log_time = time.perf_counter()
            fields = ", ".join(field for field in self._fields(loss_sums) if field)
            log.info("%s: batch %d of %d, %s", self.title, self.done + 1, self.num_batches, fields)

    def _fields(self, loss_sums: dict[str, float]) -> list[str]:
        """Return the values to show after the current batch as texts, the most important values first."""
        loss = sum(total for name, total in loss_sums.items() if name != "batches") / max(1.0, loss_sums["batches"])
        seconds, images = time.perf_counter() - self.started, self.images + self.images_in_batch(self.done)
        pace = seconds / (self.done + 1 - self.initial)
        return [
            f"loss {loss:.3f}",
            f"{format_seconds(pace * (self.num_batches - self.done - 1))} left",
            f"{images / max(seconds, 1e-9):.1f} images/s",
            _gpu_memory(),
            f"data wait {self.rates()['data_wait_fraction']:.0%}",
        ]

    def metrics(self, progress: TrainProgress, learning_rate: float) -> dict[str, Any]:
        """Return the training metrics of a finished epoch, and remove `batches` from `progress.loss_sums`.

        Args:
            progress: The progress of the run, at the end of the epoch.
            learning_rate: Learning rate of the last step.
        """
        batches = progress.loss_sums.pop("batches")
        # null, not 0, in an epoch without any finite loss
        means = {name: total / batches if batches else None for name, total in progress.loss_sums.items()}
        return {
            "epoch": progress.epoch + 1,
            "step": progress.step,
            "images_seen": progress.images_seen,
            "lr": learning_rate,
            "loss": sum(progress.loss_sums.values()) / batches if batches else None,
            **means,
            **self.rates(),
        }

    def rates(self) -> dict[str, float]:
        """Return `images_per_second` and `data_wait_fraction` of the epoch so far."""
        seconds = max(1e-9, time.perf_counter() - self.started)
        return {"images_per_second": self.images / seconds, "data_wait_fraction": min(1.0, self.data_wait_s / seconds)}

    def close(self) -> None:
        """Remove the progress bar."""
        if self.bar is not None:
            self.bar.close()


def _gpu_memory() -> str:
    """Return the largest amount of GPU memory that PyTorch has reserved in this process, as text; without a GPU, ""."""
    if not torch.cuda.is_initialized():
        return ""
    return f"{torch.cuda.max_memory_reserved() / 2**30:.1f} GiB"
