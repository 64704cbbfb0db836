"""Cameras and streams: the newest frame for whoever is free, and a new connection when one breaks."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import NamedTuple

import cv2
import numpy as np

from cspdet.errors import SourceError
from cspdet.inference.sources import Video
from cspdet.inference.video.reader import Frame, OpenCvReader, VideoFacts, VideoReader, capture_facts, open_capture

log = logging.getLogger("cspdet")

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 10.0  # before trying to connect again: doubled each time, up to this
TIME_BASE = Fraction(1, 1000)  # of live frames, in seconds
POLL_S = 0.2  # so often the waiting reader looks at the clock, and lets Ctrl-C through
LETTING_GO_S = 2.0  # a driver that hangs for longer is left alone at the end


class _Newest(NamedTuple):
    """The last frame that came, which nobody has taken yet."""

    image: np.ndarray  # BGR
    time: float  # of the monotonic clock


def open_live(video: Video, stride: int = 1, reconnect: int = 5, max_seconds: float | None = None) -> VideoReader:
    """The reader of a camera or URL. A URL with a frame count is a file somewhere else, and read as one.

    Raises:
        SourceError: no such camera, a stream that does not answer.
    """
    capture = open_capture(video)
    if isinstance(video.address, str) and capture_facts(capture).declared:
        return OpenCvReader(video, capture, stride)
    return LiveReader(video, capture, stride=stride, reconnect=reconnect, max_seconds=max_seconds)


class LiveReader:
    """Frames as they come. A thread reads without a pause, so that no driver or network queue grows old; who
    iterates gets the newest frame and misses those before it, which `dropped` counts.

    stride       of the frames that come, every so-manieth is offered
    reconnect    how often in a row a new connection is tried; 0 for never. When all failed, `lost` says so
    max_seconds  the iteration ends this long after the first frame, even when no frame comes any more
    """

    live = True
    origin = Fraction(0)

    def __init__(
        self,
        video: Video,
        capture: cv2.VideoCapture,
        *,
        stride: int = 1,
        reconnect: int = 5,
        max_seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[threading.Event, float], bool] = threading.Event.wait,
    ):
        self.video, self._capture = video, capture
        said = capture_facts(capture)
        self.facts = VideoFacts(said.rate, TIME_BASE)
        self.decoded = self.dropped = self.received = 0
        self.lost: str | None = None
        self._stride, self._reconnect, self._max_seconds = stride, reconnect, max_seconds
        self._clock, self._wait = clock, wait
        self._newest: _Newest | None = None
        self._ended = False
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="cspdet-live", daemon=True)

    def __enter__(self) -> LiveReader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(LETTING_GO_S)
        if not self._thread.is_alive():
            self._capture.release()

    def __iter__(self) -> Iterator[Frame]:
        start: float | None = None
        while (newest := self._take(start)) is not None:
            start = newest.time if start is None else start
            seconds = newest.time - start
            if self._max_seconds is not None and seconds >= self._max_seconds and self.decoded:
                return
            image = cv2.cvtColor(newest.image, cv2.COLOR_BGR2RGB)
            yield Frame(image, self.decoded, seconds, round(seconds / TIME_BASE))
            self.decoded += 1

    def _take(self, start: float | None) -> _Newest | None:
        """The newest frame as soon as there is one; None when no more will come, or the time is up."""
        with self._changed:
            while self._newest is None:
                late = start is not None and self._max_seconds is not None
                if self._ended or (late and self._clock() - start >= self._max_seconds):  # type: ignore[operator]
                    return None
                self._changed.wait(POLL_S)
            newest, self._newest = self._newest, None
            return newest

    def _watch(self) -> None:
        while not self._stopped.is_set():
            ok, image = self._capture.read()
            if ok:
                self._offer(image)
            elif not self._connect_again():
                break
        with self._changed:
            self._ended = True
            self._changed.notify()

    def _offer(self, image: np.ndarray) -> None:
        number, self.received = self.received, self.received + 1
        if number % self._stride:
            return
        with self._changed:
            self.dropped += self._newest is not None
            self._newest = _Newest(image, self._clock())
            self._changed.notify()

    def _connect_again(self) -> bool:
        """Whether there is a connection that gives frames; tries with longer and longer pauses."""
        self._capture.release()
        for attempt in range(1, self._reconnect + 1):
            pause = min(FIRST_WAIT_S * 2 ** (attempt - 1), LONGEST_WAIT_S)
            told = (self.video, pause, attempt, self._reconnect)
            log.warning("%s: no more frames; connecting again in %g s (%d of %d)", *told)
            if self._wait(self._stopped, pause) or self._stopped.is_set():
                return False
            try:
                self._capture = open_capture(self.video)
            except SourceError:
                continue
            ok, image = self._capture.read()
            if ok:
                log.info("%s: connected again", self.video)
                self._offer(image)
                return True
            self._capture.release()
        tried = f", and {self._reconnect} tries to connect again failed" if self._reconnect else ""
        self.lost = f"{self.video}: lost after {self.received} frames{tried}"
        return False
