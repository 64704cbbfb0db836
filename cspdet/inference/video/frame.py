"""Frames and metadata of a video, and the interface of video readers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np

from cspdet.inference.sources import Video

DEFAULT_FPS = Fraction(25)  # frames per second of videos without a declared frame rate
MAX_EARLY = 2  # successive frames that are not after the previous one, before their timestamps stand still
MAX_FPS = 1000  # a higher declared rate is treated as unknown


@dataclass(frozen=True)
class Frame:
    """A frame of a video.

    Attributes:
        image: (H, W, 3) uint8 RGB, upright.
        index: Index from 0: for a file, among all frames; for a live source, among the processed frames.
        time_s: Seconds since the first frame.
        ticks: Time since the first frame, in units of the reader's `time_base`.
    """

    image: np.ndarray
    index: int
    time_s: float
    ticks: int


@dataclass(frozen=True)
class VideoInfo:
    """Metadata of a video as stated by the file or by the driver.

    Attributes:
        fps: Frames per second, the mean if the rate varies; None: unknown.
        time_base: Seconds per tick.
        num_frames: Number of frames, which is not always correct; None: unknown.
        pixel_aspect: Width of a displayed pixel divided by its height.
    """

    fps: Fraction | None
    time_base: Fraction
    num_frames: int | None = None
    pixel_aspect: Fraction = Fraction(1)


class FrameClock:
    """Converts the timestamps of a file, which may be missing or go back, to ticks that start at 0 and increase.

    A frame is early if its timestamp is not after the previous frame.

    - A frame without a timestamp is one period after the previous frame.
    - A frame more than two periods before the previous frame begins another recording in the same file. It is one
      period after the previous frame, and later timestamps count from it. The same applies to a frame that follows
      MAX_EARLY early frames.
    - Any other early frame is half a period after the previous frame.

    Args:
        period: Ticks per frame.
    """

    def __init__(self, period: int):
        self._period = period
        self._last: int | None = None  # ticks of the previous frame
        self._base: int | None = None  # the timestamp at 0 ticks
        self._num_early = 0  # number of successive frames that were not after the previous one

    def next(self, timestamp: int | None) -> int:
        """Return the ticks of the next frame."""
        if self._last is None:
            self._last, self._base = 0, timestamp
            return 0
        if self._base is None and timestamp is not None:
            self._base = timestamp - self._last - self._period
        ticks = self._last + self._period if timestamp is None or self._base is None else timestamp - self._base
        self._num_early = 0 if ticks > self._last else self._num_early + 1
        if timestamp is not None and (self._num_early > MAX_EARLY or ticks < self._last - 2 * self._period):
            ticks = self._last + self._period
            self._base = timestamp - ticks
        elif self._num_early:
            ticks = self._last + max(1, self._period // 2)
        self._last = ticks
        return ticks


class VideoReader(Protocol):
    """Interface of the readers, which iterate over the frames of a video.

    A reader is a context manager; leaving it releases the camera or file.

    Attributes:
        video: The source.
        info: Metadata, such as frame rate and number of frames.
        live: Whether the source is live, so that frames that are not read in time are dropped.
        decoded: Number of frames decoded so far.
        error: Reason why the frames ended before the end of the video; None: no error.
        dropped: Number of frames that were not read in time.
        start_time_s: Timestamp of the first frame in the file, in seconds.
    """

    video: Video
    info: VideoInfo
    live: bool
    decoded: int
    error: str | None
    dropped: int
    start_time_s: Fraction

    def __enter__(self) -> VideoReader: ...
    def __exit__(self, *_: object) -> None: ...
    def __iter__(self) -> Iterator[Frame]: ...
