"""Readers for video files: RGB frames with timestamps, read with PyAV or, if it is not installed, with OpenCV."""

from __future__ import annotations

import importlib.util
import math
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from cspdet.datasets.image_io import IMAGE_SUFFIXES
from cspdet.errors import SourceError
from cspdet.inference.pipeline import RELEASE_TIMEOUT_S
from cspdet.inference.sources import Video
from cspdet.inference.video.animation import AnimationReader
from cspdet.inference.video.frame import DEFAULT_FPS, MAX_FPS, Frame, VideoInfo, VideoReader
from cspdet.inference.video.pyav_reader import PyAvReader
from cspdet.io.text import opencv_path


def has_pyav() -> bool:
    """Return whether PyAV is installed; the extra `video` of cspdet installs PyAV."""
    return importlib.util.find_spec("av") is not None


def open_video_file(video: Video, stride: int = 1, *, slice_threading: bool = False) -> VideoReader:
    """Open a video file.

    Args:
        video: The file.
        stride: Read every n-th frame.
        slice_threading: Decode one frame at a time. Decoding several frames in parallel is not faster if the network
            runs on the same cores, and needs more CPU time.

    Raises:
        SourceError: The file is missing or corrupt, contains no video, or has an unknown codec.
    """
    assert isinstance(video.address, Path)
    if video.address.suffix.lower() in IMAGE_SUFFIXES:
        return AnimationReader(video, stride)
    if not video.address.stat().st_size:
        raise SourceError(f"{video}: not a video that can be decoded (the file is empty)")
    return (
        PyAvReader(video, stride, slice_threading=slice_threading)
        if has_pyav()
        else OpenCvReader(video, open_capture(video), stride)
    )


def open_capture(video: Video) -> cv2.VideoCapture:
    """Open a file, camera or stream with OpenCV; raise SourceError if this fails."""
    address = opencv_path(video.address) if isinstance(video.address, Path) else video.address
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # the error is reported below
    try:
        capture = cv2.VideoCapture(address)
    finally:
        cv2.utils.logging.setLogLevel(level)
    if not capture.isOpened():
        capture.release()
        raise SourceError(f"{video}: {_open_error_reason(video)}")
    return capture


def _open_error_reason(video: Video) -> str:
    if isinstance(video.address, int):
        return "cannot be opened; is it connected, and not in use?"
    if isinstance(video.address, str):
        return "this stream cannot be opened"
    return f"not a video that can be decoded ({video.address.stat().st_size} bytes)"


def read_capture_info(capture: cv2.VideoCapture) -> VideoInfo:
    """Read frame rate and frame count with OpenCV; implausible values are treated as unknown."""
    reported_fps = capture.get(cv2.CAP_PROP_FPS)
    is_valid = math.isfinite(reported_fps) and 0 < reported_fps <= MAX_FPS
    fps = Fraction(reported_fps).limit_denominator(10_000) if is_valid else None
    count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    num_frames = int(count) if math.isfinite(count) and count > 0 else None
    return VideoInfo(fps, 1 / (fps or DEFAULT_FPS), num_frames)


class OpenCvReader:
    """Reader of a local or remote file with OpenCV, which assumes a constant frame rate and rotates frames upright."""

    live = False
    error: str | None = None
    dropped = 0
    start_time_s = Fraction(0)

    def __init__(self, video: Video, capture: cv2.VideoCapture, stride: int = 1):
        self.video, self._capture, self._stride = video, capture, stride
        self.info = read_capture_info(capture)
        self.decoded = 0
        self._reading = threading.Lock()

    def __enter__(self) -> OpenCvReader:
        return self

    def __exit__(self, *_: object) -> None:
        if self._reading.acquire(timeout=RELEASE_TIMEOUT_S):  # else a thread still waits for a stream that stalls
            self._capture.release()

    def _read(self) -> tuple[bool, np.ndarray | None]:
        """Read the next frame.

        Returns:
            Whether there was a frame; and its image (H, W, 3) BGR, or None if there was none or `stride` skips it.
        """
        with self._reading:
            if not self._capture.grab():
                return False, None
            return self._capture.retrieve() if self.decoded % self._stride == 0 else (True, None)

    def __iter__(self) -> Iterator[Frame]:
        while (result := self._read())[0]:
            frame_index, image = self.decoded, result[1]
            if image is not None:
                yield Frame(
                    cv2.cvtColor(image, cv2.COLOR_BGR2RGB),
                    frame_index,
                    float(frame_index * self.info.time_base),
                    frame_index,
                )
            self.decoded += 1
