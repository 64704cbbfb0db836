"""Frames of a video, what the video declares, and the interface of readers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np

from cspdet.inference.sources import Video

DEFAULT_FPS = Fraction(25)  # frames per second where a video declares none
MAX_FPS = 1000  # a higher declared rate is treated as unknown


@dataclass(frozen=True)
class Frame:
    """One frame of a video.

    Attributes:
        image: (H, W, 3) uint8 RGB, upright.
        index: From 0; in a file the index among all its frames, live among the processed ones.
        time_s: Seconds since the first frame.
        ticks: The same time in units of the reader's `time_base`.
    """

    image: np.ndarray
    index: int
    time_s: float
    ticks: int


@dataclass(frozen=True)
class VideoInfo:
    """What a video declares.

    Attributes:
        fps: Frames per second, the mean where they vary; None: unknown.
        time_base: Seconds per tick.
        num_frames: Number of frames, which may be wrong; None: unknown.
        pixel_aspect: Width of a displayed pixel divided by its height.
    """

    fps: Fraction | None
    time_base: Fraction
    num_frames: int | None = None
    pixel_aspect: Fraction = Fraction(1)


class VideoReader(Protocol):
    """Iterates over the frames of a video. A context manager: the camera or file is released at its end.

    Attributes:
        video: The source.
        info: What it declares.
        live: A live source: frames that are not read in time are dropped.
        decoded: Number of frames so far.
        error: Why the frames ended before the end of the video.
        dropped: Number of frames that were not read in time.
        start_time_s: Time of the first frame in the file's own time, in seconds.
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
