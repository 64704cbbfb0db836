"""How long each stage of a run takes, a frame."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

ItemT = TypeVar("ItemT")

FPS_WINDOW = 30  # frames over which the shown rate is taken


class Stopwatch:
    """Seconds of each stage and the frames that went through it."""

    def __init__(self, stages: Iterable[str], clock: Callable[[], float] = time.perf_counter):
        self.seconds: dict[str, float] = dict.fromkeys(stages, 0.0)
        self.frames: dict[str, int] = dict.fromkeys(self.seconds, 0)
        self._clock = clock
        self._lock = threading.Lock()
        self._recent: deque[float] = deque(maxlen=FPS_WINDOW + 1)

    @contextmanager
    def measure(self, stage: str, frames: int = 1, num_workers: int = 1) -> Iterator[None]:
        """Count the time of the block to `stage`, through which so many frames went in it.

        Where `lanes` blocks of a stage run at once, each counts with its share, so that a frame's time is what it
        costs the run.
        """
        start = self._clock()
        try:
            yield
        finally:
            spent = (self._clock() - start) / num_workers
            with self._lock:
                self.seconds[stage] += spent
                self.frames[stage] += frames

    def time_iter(self, items: Iterable[ItemT], stage: str) -> Iterator[ItemT]:
        """Hand on `items`; the time that each takes to come counts to `stage`."""
        iterator = iter(items)
        while True:
            with self.measure(stage, 0):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            with self._lock:
                self.frames[stage] += 1
            yield item

    def frame_done(self) -> None:
        """A frame has passed the last stage."""
        self._recent.append(self._clock())

    def recent_fps(self) -> float | None:
        """Frames a second over the last ones; None before there are two."""
        times = list(self._recent)
        if len(times) < 2 or times[-1] <= times[0]:
            return None
        return (len(times) - 1) / (times[-1] - times[0])

    def milliseconds(self) -> dict[str, float]:
        """Each stage's mean time a frame, in ms; 0 before its first frame is done."""
        return {stage: 1000 * seconds / max(1, self.frames[stage]) for stage, seconds in self.seconds.items()}

    def format_line(self) -> str:
        """Rate and stages in a line, as it is drawn on pictures."""
        fps = self.recent_fps()
        stages = "  ".join(f"{stage} {value:.1f}" for stage, value in self.milliseconds().items())
        return f"{'-' if fps is None else f'{fps:.1f}'} fps   ms: {stages}"
