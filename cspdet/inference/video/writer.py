"""Writers of .mp4 files, which are written atomically: H.264 with PyAV, or MPEG-4 with OpenCV."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from cspdet.errors import ConfigError, SourceError, UserError
from cspdet.inference.marks import mark_video
from cspdet.inference.video.encoding import Codec, EncoderSettings, fit_into
from cspdet.inference.video.h264_writer import H264Writer
from cspdet.inference.video.reader import has_pyav
from cspdet.io.atomic import atomic_write
from cspdet.io.text import opencv_path

MP4V_FOURCC = cv2.VideoWriter.fourcc(*"mp4v")  # the only mp4 codec that every OpenCV wheel can write
MAX_TICKS_PER_SECOND = 65535  # limit of MPEG-4; rates such as 119.881 are rounded


class VideoWriter(Protocol):
    """Interface of the writers, which write RGB frames; all frames get the size of the first frame.

    Attributes:
        written: Number of frames so far.
        size_hw: Height and width of the first frame.
    """

    written: int
    size_hw: tuple[int, int]

    def write(self, image: np.ndarray, ticks: int | None = None) -> None:
        """Write a frame.

        Args:
            image: (H, W, 3) uint8 RGB; scaled to fit, with black borders, if its size is not that of the first frame.
            ticks: Time in units of the source's time base; None: one frame period after the previous frame.

        Raises:
            SourceError: The codec does not support the size or frame rate.
            OSError: The disk is full.
        """

    def finish(self) -> None:
        """Complete the file. Call this once, even after an error."""


def select_codec(name: str) -> Codec:
    """Select an available codec. H.264, which browsers can play, needs PyAV; without PyAV, `auto` selects mp4v.

    Args:
        name: auto, h264 or mp4v.

    Raises:
        ConfigError: H.264 is requested but not available.
    """
    if name == "mp4v":
        return "mp4v"
    if has_pyav():
        import av

        with suppress(ValueError):  # this build of FFmpeg has no x264
            if av.codec.Codec("libx264", "w").is_encoder:
                return "h264"
    if name == "h264":
        raise ConfigError("--codec h264: needs PyAV with libx264; install it with: pip install 'cspdet[video]'")
    return "mp4v"


class Mpeg4Writer:
    """Writer of MPEG-4 part 2 video at a constant frame rate.

    The rate is rounded to three decimals, or to fewer decimals above 65 frames per second. Many browsers cannot play
    this codec. The codec crops the last column or row if the width or height is odd.
    """

    def __init__(self, path: Path, settings: EncoderSettings):
        self.path, self.written = path, 0
        self._settings = settings
        self.size_hw = (0, 0)
        self._writer: cv2.VideoWriter | None = None

    def write(self, image: np.ndarray, ticks: int | None = None) -> None:
        """Write a frame (H, W, 3) uint8 RGB; for live sources, repeat frames to keep the timestamps."""
        if self._writer is None:
            self.size_hw = (image.shape[0], image.shape[1])
            self._writer = self._open(self.size_hw)
        bgr = cv2.cvtColor(fit_into(image, self.size_hw), cv2.COLOR_RGB2BGR)
        due = 1
        if self._settings.live and ticks is not None:
            due = round(ticks * self._settings.info.time_base * self._settings.fps) + 1 - self.written
        for _ in range(max(1, due)):
            self._writer.write(bgr)
            self.written += 1

    def _open(self, size_hw: tuple[int, int]) -> cv2.VideoWriter:
        requested_fps = float(self._settings.fps)
        digits = next(d for d in (3, 2, 1, 0) if requested_fps * 10**d <= MAX_TICKS_PER_SECOND or d == 0)
        fps = round(requested_fps, digits)
        level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # the error is reported below
        try:
            writer = cv2.VideoWriter(opencv_path(self.path), cv2.CAP_FFMPEG, MP4V_FOURCC, fps, size_hw[::-1])
        finally:
            cv2.utils.logging.setLogLevel(level)
        if not writer.isOpened():
            raise SourceError(f"frames of {size_hw[1]}x{size_hw[0]} at {fps:g} per second cannot be written as mp4")
        return writer

    def finish(self) -> None:
        """Close the file; do nothing if there are no frames."""
        if self._writer is not None:
            self._writer.release()


def check_frame_count(path: Path, written: int) -> None:
    """Raise OSError if the file does not contain all frames, because OpenCV does not report a full disk."""
    capture = cv2.VideoCapture(opencv_path(path))
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
    capture.release()
    if count != written:
        raise OSError(None, f"the video contains {count} of its {written} frames (is the disk full?)")


@contextmanager
def open_video_writer(path: Path, settings: EncoderSettings) -> Iterator[VideoWriter]:
    """Open a writer for a temporary file, which is renamed to `path` at the end of the `with` block.

    On Ctrl-C or SIGTERM in the block, the file is completed and renamed with the frames so far; then the interruption
    is raised again. The temporary file of a live source has a visible name, because it can be played after the process
    was killed.

    Raises:
        UserError: No frame was written, or the disk is full.
    """
    interruption: KeyboardInterrupt | None = None
    with atomic_write(path, visible=settings.live) as tmp_path:
        writer: VideoWriter = (H264Writer if settings.codec == "h264" else Mpeg4Writer)(tmp_path, settings)
        try:
            yield writer
        except KeyboardInterrupt as error:
            if not writer.written:
                raise
            interruption = error
        finally:
            writer.finish()
        if not writer.written:
            raise UserError(f"{path}: there are no frames to write")
        check_frame_count(tmp_path, writer.written)
        mark_video(tmp_path)
    if interruption is not None:
        raise interruption
