"""Read animated GIF, WebP and PNG files as videos."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from cspdet.datasets.image_header import open_image, parse_header
from cspdet.datasets.pillow_io import (
    ANIMATED_FORMATS,
    CorruptImageError,
    animation_frames,
    count_frames,
    count_pages,
    is_animated,
)
from cspdet.errors import SourceError
from cspdet.inference.sources import Video
from cspdet.inference.video.frame import Frame, VideoInfo

log = logging.getLogger("cspdet")

TIME_BASE = Fraction(1, 1000)  # the durations in these files are milliseconds


def is_animated_image(path: Path) -> bool:
    """Return whether a file is an image of several frames; False for a file that cannot be read.

    A TIFF of several pages is not animated; the log says that its first page is used.
    """
    try:
        with open_image(path) as file:
            file_format = parse_header(file).file_format
            if file_format == "TIFF" and (pages := count_pages(file)) > 1:
                log.warning("%s: the first of %d pages is used", path, pages)
            return file_format in ANIMATED_FORMATS and is_animated(file)
    except (OSError, CorruptImageError):
        return False  # reading it reports the reason


class AnimationReader:
    """Reads an animated image: complete frames, with the durations of the file.

    Args:
        video: The file.
        stride: Yield every n-th frame.

    Raises:
        SourceError: The file cannot be read, or is not an image.
    """

    live = False
    dropped = 0
    start_time_s = Fraction(0)

    def __init__(self, video: Video, stride: int = 1):
        self.video, self._stride = video, stride
        self.decoded = 0
        self.error: str | None = None
        try:
            self._file = open_image(Path(str(video.address)))
        except (OSError, CorruptImageError) as error:
            raise SourceError(f"{video}: {error}") from None
        try:
            parse_header(self._file)
            _, duration_ms = next(animation_frames(self._file))
            self.info = VideoInfo(Fraction(1000, duration_ms), TIME_BASE, count_frames(self._file))
        except (OSError, CorruptImageError) as error:
            self._file.close()
            raise SourceError(f"{video}: {error}") from None

    def __enter__(self) -> AnimationReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[Frame]:
        ticks = 0
        try:
            for image, duration_ms in animation_frames(self._file):
                if self.decoded % self._stride == 0:
                    yield Frame(image, self.decoded, float(ticks * TIME_BASE), ticks)
                ticks += duration_ms
                self.decoded += 1
        except CorruptImageError as error:
            self.error = f"{self.video}: frame {self.decoded} cannot be decoded: {error}"
