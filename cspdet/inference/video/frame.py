"""Frames and metadata of a video, and the interface of readers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np

from cspdet.inference.sources import Video

DEFAULT_FPS = Fraction(25)  # frames per second of videos without a declared frame rate
MAX_FPS = 1000  # a higher declared rate is treated as unknown


@dataclass(frozen=True)
class Frame:
    """One frame of a video.

    Attributes:
        image: (H, W, 3) uint8 RGB, upright.
        index: From 0: for a file, the index among all frames; for a live source, among the processed frames.
        time_s: Seconds since the first frame.
        ticks: The same time in units of the reader's `time_base`.
    """

    image: np.ndarray
    index: int
    time_s: float
    ticks: int


@dataclass(frozen=True)
class VideoInfo:
    """Metadata of a video, as declared by the container or driver.

    Attributes:
        fps: Frames per second, the mean if the rate varies; None: unknown.
        time_base: Seconds per tick.
        num_frames: Number of frames, not always correct; None: unknown.
        pixel_aspect: Width of a displayed pixel divided by its height.
    """

    fps: Fraction | None
    time_base: Fraction
    num_frames: int | None = None
    pixel_aspect: Fraction = Fraction(1)


class VideoReader(Protocol):
    """Iterates over the frames of a video. Use it as a context manager; leaving it releases the camera or file.

    Attributes:
        video: The source.
        info: Declared metadata, such as frame rate and number of frames.
        live: Whether this is a live source: frames that are not read in time are dropped.
        decoded: Number of frames so far.
        error: Why the frames ended before the end of the video.
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
