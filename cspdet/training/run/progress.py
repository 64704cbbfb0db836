"""How fast an epoch goes: images a second, the share of time spent waiting for data, a bar or a line now and then."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from tqdm import tqdm

from cspdet.io.progress import shows_bars
from cspdet.training.tasks.base import AnyBatch

B = TypeVar("B", bound=AnyBatch)
SECONDS_BETWEEN_LINES = 30.0

log = logging.getLogger("cspdet")


class EpochMeter:
    """Counts and shows one epoch of `batches` batches, of which `done` were done before this process.

    pictures  how many a batch of this number has, over all processes
    """

    def __init__(self, epoch: int, epochs: int, batches: int, done: int, pictures: Callable[[int], int]):
        self.title, self.pictures = f"epoch {epoch + 1}/{epochs}", pictures
        self.batches, self.before, self.done, self.images = batches, done, done, 0
        self.waited, self.started = 0.0, time.perf_counter()
        self.told = self.started
        self.bar = (
            tqdm(total=batches, initial=done, desc=self.title, unit="batch", leave=False, file=sys.stderr)
            if shows_bars()
            else None
        )

    def watch(self, batches: Iterator[B]) -> Iterator[B]:
        """Hand on the batches, timing how long each was waited for."""
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - asked
            if batch is None:
                return
            yield batch
            self.images += self.pictures(self.done)
            self.done += 1

    def show(self, sums: dict[str, float]) -> None:
        """The running means: in the bar, or in a line of the log every half minute."""
        count = max(1.0, sums["batches"])
        loss = sum(total for name, total in sums.items() if name != "batches") / count
        rates = self.rates()
        text = f"loss {loss:.3f}, {rates['images_per_second']:.1f} images/s, waiting {rates['data_wait_fraction']:.0%}"
        if self.bar is not None:
            self.bar.update(self.done + 1 - self.bar.n)
            self.bar.set_postfix_str(text, refresh=False)
        elif time.perf_counter() - self.told > SECONDS_BETWEEN_LINES:
            self.told = time.perf_counter()
            pace = (self.told - self.started) / (self.done + 1 - self.before)
            left = pace * (self.batches - self.done - 1)
            log.info("%s: batch %d of %d, %s, %d s left", self.title, self.done + 1, self.batches, text, left)

    def rates(self) -> dict[str, float]:
        """images_per_second and data_wait_fraction so far."""
        seconds = max(1e-9, time.perf_counter() - self.started)
        return {"images_per_second": self.images / seconds, "data_wait_fraction": min(1.0, self.waited / seconds)}

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
