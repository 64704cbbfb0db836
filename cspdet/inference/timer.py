"""Measurement of the time per frame in each stage of a run."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

ItemT = TypeVar("ItemT")

FPS_WINDOW = 30  # number of frames over which the displayed rate is averaged


class StageTimer:
    """Thread-safe timer that adds up the time and counts the frames of each stage.

    Args:
        stages: Names of the stages.
        clock: Function that returns the time in seconds.
    """

    def __init__(self, stages: Iterable[str], clock: Callable[[], float] = time.perf_counter):
        self.seconds: dict[str, float] = dict.fromkeys(stages, 0.0)
        self.frames: dict[str, int] = dict.fromkeys(self.seconds, 0)
        self._clock = clock
        self._lock = threading.Lock()
        self._recent: deque[float] = deque(maxlen=FPS_WINDOW + 1)

    @contextmanager
    def measure(self, stage: str, frames: int = 1, num_workers: int = 1) -> Iterator[None]:
        """Measure the time of the `with` block and add it to a stage.

        Args:
            stage: Name of the stage.
            frames: Number of frames that the block processes.
            num_workers: Number of blocks that run in parallel. The time is divided by this number, because only this
                fraction adds to the duration of the run.
        """
        start = self._clock()
        try:
            yield
        finally:
            seconds = (self._clock() - start) / num_workers
            with self._lock:
                self.seconds[stage] += seconds
                self.frames[stage] += frames

    def time_iter(self, items: Iterable[ItemT], stage: str) -> Iterator[ItemT]:
        """Iterate over items, and add the time spent waiting for each item to `stage`."""
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
        """Record the time at which a frame has completed the last stage."""
        self._recent.append(self._clock())

    def recent_fps(self) -> float | None:
        """Return the frame rate over the last frames, or None if there are fewer than two frames."""
        times = list(self._recent)
        if len(times) < 2 or times[-1] <= times[0]:
            return None
        return (len(times) - 1) / (times[-1] - times[0])

    def milliseconds(self) -> dict[str, float]:
        """Return the mean time per frame of each stage in ms; 0 for a stage without frames."""
        return {stage: 1000 * seconds / max(1, self.frames[stage]) for stage, seconds in self.seconds.items()}

    def format_line(self) -> str:
        """Format frame rate and stage times as one line of text, for drawing on frames.

        The frame rate is omitted until two frames are complete.
        """
        fps = self.recent_fps()
        stages = "  ".join(f"{stage} {value:.1f}" for stage, value in self.milliseconds().items())
        return f"{'' if fps is None else f'{fps:.1f} fps   '}ms: {stages}"
