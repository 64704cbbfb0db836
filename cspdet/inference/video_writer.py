"""Frames to an .mp4 file that appears whole, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from cspdet.atomic import temporary
from cspdet.errors import SourceError, UserError

CODEC = cv2.VideoWriter.fourcc(*"mp4v")  # the one mp4 codec that every OpenCV wheel can write
MOST_TICKS = 65535  # MPEG-4 divides a second into at most so many; a rate like 119.881 has to lose digits


class VideoWriter:
    """Takes RGB frames of one size, that of the first. The rate is kept to a thousandth of a frame a second.

    Of an odd width or height the codec leaves out the last column or row.
    """

    def __init__(self, path: Path, rate: float):
        self.path, self.rate = path, rate
        self.written = 0
        self.size_hw: tuple[int, int] | None = None
        self._writer: cv2.VideoWriter | None = None

    def write(self, image: np.ndarray) -> None:
        """Add an (H, W, 3) uint8 RGB frame; one of another size (streams may change) is made the first's.

        Raises:
            SourceError: frames of a size or rate that mp4 cannot hold.
        """
        if self._writer is None:
            self.size_hw = (image.shape[0], image.shape[1])
            self._writer = self._open(self.size_hw)
        assert self.size_hw is not None
        if image.shape[:2] != self.size_hw:
            image = cv2.resize(image, self.size_hw[::-1], interpolation=cv2.INTER_AREA)
        self._writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        self.written += 1

    def _open(self, size_hw: tuple[int, int]) -> cv2.VideoWriter:
        digits = next(d for d in (3, 2, 1, 0) if self.rate * 10**d <= MOST_TICKS or d == 0)
        rate = round(self.rate, digits)
        level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what goes wrong is said below, once
        try:
            writer = cv2.VideoWriter(str(self.path), cv2.CAP_FFMPEG, CODEC, rate, size_hw[::-1])
        finally:
            cv2.utils.logging.setLogLevel(level)
        if not writer.isOpened():
            raise SourceError(f"frames of {size_hw[1]}x{size_hw[0]} at {rate:g} a second cannot be written as mp4")
        return writer

    def release(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.release()

    def check(self) -> None:
        """Raise OSError unless the file holds what was written: OpenCV does not tell of a full disk."""
        capture = cv2.VideoCapture(str(self.path))
        held = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        capture.release()
        if held != self.written:
            raise OSError(None, f"the video holds {held} of its {self.written} frames (is the disk full?)")


@contextmanager
def video_writer(path: Path, rate: float) -> Iterator[VideoWriter]:
    """A writer to a temporary file beside `path`, which gets its name when the block ends.

    Ctrl-C in the block ends the video there: what is written is finished and named; the interrupt goes on.

    Raises:
        UserError: nothing was written, or the disk is full.
    """
    interrupted = False
    with temporary(path) as draft:
        writer = VideoWriter(draft, rate)
        try:
            yield writer
        except KeyboardInterrupt:
            if not writer.written:
                raise
            interrupted = True
        finally:
            writer.release()
        if not writer.written:
            raise UserError(f"{path}: there was no frame to write")
        writer.check()
    if interrupted:
        raise KeyboardInterrupt
