"""How fast an epoch goes: images a second, the share of time spent waiting for data, a bar or a line now and then."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from tqdm import tqdm

from cspdet.io.progress import is_interactive
from cspdet.training.tasks.base import AnyBatch

BatchT = TypeVar("BatchT", bound=AnyBatch)
LOG_INTERVAL_S = 30.0

log = logging.getLogger("cspdet")


class EpochMeter:
    """Counts and shows one epoch of `batches` batches, of which `done` were done before this process.

    pictures  how many a batch of this number has, over all processes
    """

    def __init__(self, epoch: int, epochs: int, num_batches: int, done: int, images_in_batch: Callable[[int], int]):
        self.title, self.images_in_batch = f"epoch {epoch + 1}/{epochs}", images_in_batch
        self.num_batches, self.initial, self.done, self.images = num_batches, done, done, 0
        self.data_wait_s, self.started = 0.0, time.perf_counter()
        self.last_log_time = self.started
        self.bar = (
            tqdm(total=num_batches, initial=done, desc=self.title, unit="batch", leave=False, file=sys.stderr)
            if is_interactive()
            else None
        )

    def iterate(self, batches: Iterator[BatchT]) -> Iterator[BatchT]:
        """Hand on the batches, timing how long each was waited for."""
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
        """The running means: in the bar, or in a line of the log every half minute."""
        count = max(1.0, loss_sums["batches"])
        loss = sum(total for name, total in loss_sums.items() if name != "batches") / count
        rates = self.rates()
        text = f"loss {loss:.3f}, {rates['images_per_second']:.1f} images/s, waiting {rates['data_wait_fraction']:.0%}"
        if self.bar is not None:
            self.bar.update(self.done + 1 - self.bar.n)
            self.bar.set_postfix_str(text, refresh=False)
        elif time.perf_counter() - self.last_log_time > LOG_INTERVAL_S:
            self.last_log_time = time.perf_counter()
            pace = (self.last_log_time - self.started) / (self.done + 1 - self.initial)
            left = pace * (self.num_batches - self.done - 1)
            log.info("%s: batch %d of %d, %s, %d s left", self.title, self.done + 1, self.num_batches, text, left)

    def rates(self) -> dict[str, float]:
        """images_per_second and data_wait_fraction so far."""
        seconds = max(1e-9, time.perf_counter() - self.started)
        return {"images_per_second": self.images / seconds, "data_wait_fraction": min(1.0, self.data_wait_s / seconds)}

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
