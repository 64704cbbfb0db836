"""Readers for live sources (cameras and streams): they keep only the latest frame, and reconnect after a failure."""

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
from cspdet.inference.pipeline import RELEASE_TIMEOUT_S, call_interruptibly
from cspdet.inference.sources import Video
from cspdet.inference.video.frame import Frame, VideoInfo, VideoReader
from cspdet.inference.video.reader import OpenCvReader, open_capture, read_capture_info

log = logging.getLogger("cspdet")

INITIAL_BACKOFF_S, MAX_BACKOFF_S = 0.5, 10.0  # pause before reconnecting: doubled each time, up to the maximum
TIME_BASE = Fraction(1, 1000)  # time base of live frames, in seconds
POLL_INTERVAL_S = 0.2  # how often the waiting reader checks the time limit and Ctrl-C


class _LatestFrame(NamedTuple):
    """The last captured frame that has not been consumed yet."""

    image: np.ndarray  # BGR
    time: float  # time of the monotonic clock, in seconds


def open_live(video: Video, stride: int = 1, reconnect: int = 5, max_seconds: float | None = None) -> VideoReader:
    """Open a camera or a URL.

    A URL that states a number of frames is a remote file; its frames are never dropped.

    Args:
        video: The camera or URL.
        stride: Process every n-th frame.
        reconnect: Maximum number of consecutive attempts to reconnect.
        max_seconds: Time limit in seconds; None: no limit.

    Raises:
        SourceError: The camera does not exist, or the stream does not respond.
    """
    capture = call_interruptibly(lambda: open_capture(video))
    if isinstance(video.address, str) and read_capture_info(capture).num_frames:
        return OpenCvReader(video, capture, stride)
    return LiveReader(video, capture, stride=stride, reconnect=reconnect, max_seconds=max_seconds)


class LiveReader:
    """Reader that iterates over the latest frames of a live source.

    A thread reads continuously, so that no old frames remain in driver or network queues. The iterator returns the
    latest frame; `dropped` counts the frames that were skipped.

    Args:
        video: The camera or URL.
        capture: The open capture of `video`.
        stride: Return every n-th frame.
        reconnect: Maximum number of consecutive attempts to reconnect. If all of them fail, `error` is set.
        max_seconds: Time after the first frame at which the iteration ends, even if no frame arrives; None: no limit.
        clock: Function that returns the time in seconds.
        wait: Function that waits for an event with a timeout in seconds.
    """

    live = True
    start_time_s = Fraction(0)

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
        info = read_capture_info(capture)
        self.info = VideoInfo(info.fps, TIME_BASE)
        self.decoded = self.dropped = self.received = 0
        self.error: str | None = None
        self._stride, self._reconnect, self._max_seconds = stride, reconnect, max_seconds
        self._clock, self._wait = clock, wait
        self._latest: _LatestFrame | None = None
        self._ended = False
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._capture_loop, name="cspdet-live", daemon=True)

    def __enter__(self) -> LiveReader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(RELEASE_TIMEOUT_S)
        if not self._thread.is_alive():
            self._capture.release()

    def __iter__(self) -> Iterator[Frame]:
        start: float | None = None
        while (latest := self._wait_for_frame(start)) is not None:
            start = latest.time if start is None else start
            seconds = latest.time - start
            if self._max_seconds is not None and seconds >= self._max_seconds and self.decoded:
                return
            image = cv2.cvtColor(latest.image, cv2.COLOR_BGR2RGB)
            yield Frame(image, self.decoded, seconds, round(seconds / TIME_BASE))
            self.decoded += 1

    def _wait_for_frame(self, start: float | None) -> _LatestFrame | None:
        """Wait for the latest frame and return it; return None if the source has ended or the time limit is reached."""
        with self._changed:
            while self._latest is None:
                late = start is not None and self._max_seconds is not None
                if self._ended or (late and self._clock() - start >= self._max_seconds):  # type: ignore[operator]
                    return None
                self._changed.wait(POLL_INTERVAL_S)
            latest, self._latest = self._latest, None
            return latest

    def _capture_loop(self) -> None:
        while not self._stopped.is_set():
            ok, image = self._capture.read()
            if ok:
                self._publish(image)
            elif self._is_still_image() or not self._try_reconnect():
                break
        with self._changed:
            self._ended = True
            self._changed.notify()

    def _publish(self, image: np.ndarray) -> None:
        frame_index, self.received = self.received, self.received + 1
        if frame_index % self._stride:
            return
        with self._changed:
            self.dropped += self._latest is not None
            self._latest = _LatestFrame(image, self._clock())
            self._changed.notify()

    def _is_still_image(self) -> bool:
        """Return whether the source is probably a single image on a web server: one frame of an http or file URL."""
        address = self.video.address
        return isinstance(address, str) and address.lower().startswith(("http", "file")) and self.received == 1

    def _try_reconnect(self) -> bool:
        """Try to reconnect, with increasing pauses; return whether frames arrive again. If not, `error` is set."""
        self._capture.release()
        for attempt in range(1, self._reconnect + 1):
            pause = min(INITIAL_BACKOFF_S * 2 ** (attempt - 1), MAX_BACKOFF_S)
            log_args = (self.video, pause, attempt, self._reconnect)
            log.warning("%s: no more frames; reconnecting in %g s (%d of %d)", *log_args)
            if self._wait(self._stopped, pause) or self._stopped.is_set():
                return False
            try:
                self._capture = open_capture(self.video)
            except SourceError:
                continue
            ok, image = self._capture.read()
            if ok:
                log.info("%s: reconnected", self.video)
                self._publish(image)
                return True
            self._capture.release()
        tried = f", and {self._reconnect} attempts to reconnect failed" if self._reconnect else ""
        self.error = f"{self.video}: lost after {self.received} frames{tried}"
        return False
