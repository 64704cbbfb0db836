"""Settings of a written video, and resizing of frames to the size of the video."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from cspdet.inference.video.frame import DEFAULT_FPS, VideoInfo

Codec = Literal["h264", "mp4v"]


@dataclass(frozen=True)
class EncoderSettings:
    """Settings of a written video.

    Attributes:
        info: Frame rate, time base and pixel aspect of the source.
        codec: h264 or mp4v.
        preset: Preset of x264.
        live: Frames arrive at irregular times; a codec with a constant rate repeats each frame until the next one.
            H.264 is written so that the file can be played at any time, also if the process is killed.
        stride: Every n-th frame of the source is written.
        audio: Source file whose audio is copied; H.264 only.
        start_time_s: Timestamp of the first video frame in the source file, in seconds.
    """

    info: VideoInfo
    codec: Codec = "mp4v"
    preset: str = "ultrafast"
    live: bool = False
    stride: int = 1
    audio: Path | None = None
    start_time_s: Fraction = Fraction(0)

    @property
    def fps(self) -> Fraction:
        """Written frames per second."""
        return (self.info.fps or DEFAULT_FPS) / (1 if self.live else self.stride)


def fit_into(image: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Scale an image to fit into `size_hw`, with its aspect ratio kept, and center it on black.

    Args:
        image: (H, W, 3) uint8.
        size_hw: Height and width of the result.
    """
    if image.shape[:2] == size_hw:
        return image
    scale = min(size_hw[0] / image.shape[0], size_hw[1] / image.shape[1])
    height, width = (
        max(1, min(limit, round(side * scale))) for side, limit in zip(image.shape[:2], size_hw, strict=True)
    )
    top, left = (size_hw[0] - height) // 2, (size_hw[1] - width) // 2
    fitted = np.zeros((*size_hw, 3), np.uint8)
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    fitted[top : top + height, left : left + width] = resized
    return fitted
