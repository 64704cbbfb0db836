"""What a user may point a detector at: pictures, folders, globs, videos, cameras, streams."""

from __future__ import annotations

import glob
import math
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from cspdet.datasets.pictures import PICTURE_SUFFIXES
from cspdet.errors import SourceError, nearest

VIDEO_SUFFIXES = frozenset((".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".ts"))
USUAL_RATE = 25.0  # frames a second where a video does not say
FASTEST_RATE = 1000.0  # a container that says more than this is wrong


@dataclass(frozen=True)
class PictureFile:
    """A picture, and its path relative to the folder or glob that it was found through."""

    path: Path
    name: Path

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class Video:
    """A video file, a camera (its index) or a stream (its URL), with the name for its output."""

    address: Path | int | str
    name: Path

    def __str__(self) -> str:
        return f"camera {self.address}" if isinstance(self.address, int) else str(self.address)


Source = PictureFile | Video


@dataclass(frozen=True)
class Frame:
    """One picture of a video."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    number: int  # from 0
    time_s: float  # in a file by its frame rate; live since the start


def find_sources(text: str) -> list[Source]:
    """The sources that `text` names, in the order of their paths; folders are searched with their subfolders.

    Raises:
        SourceError: nothing there, or nothing that could be a picture or video.
    """
    path = Path(text).expanduser()
    if path.is_dir():
        return _in_folder(path)
    if path.is_file():
        return [_file(path, Path(path.name))]
    if re.fullmatch(r"\d+", text):
        return [Video(int(text), Path(f"camera-{text}.mp4"))]
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text):
        return [Video(text, Path("stream.mp4"))]
    if glob.has_magic(text):
        return _in_glob(text)
    beside = sorted(entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else []
    raise SourceError(f"{text}: no such picture, video or folder{nearest(path.name, beside)}")


def _in_folder(folder: Path) -> list[Source]:
    found = [
        _file(Path(at) / name, (Path(at) / name).relative_to(folder))
        for at, names in _walk(folder)
        for name in sorted(names)
        if not name.startswith(".") and Path(name).suffix.lower() in PICTURE_SUFFIXES | VIDEO_SUFFIXES
    ]
    if not found:
        raise SourceError(f"{folder}: no picture or video in this folder; known are {_known()}")
    return found


def _walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    for at, folders, names in os.walk(folder):
        folders.sort()  # in place: this is the order in which os.walk goes on
        yield at, names


def _in_glob(pattern: str) -> list[Source]:
    matches = [Path(match) for match in sorted(glob.glob(pattern, recursive=True))]
    files = [path for path in matches if path.suffix.lower() in PICTURE_SUFFIXES | VIDEO_SUFFIXES and path.is_file()]
    if not files:
        others = f"; of its {len(matches)} matches none is a picture or video ({_known()})" if matches else ""
        raise SourceError(f"{pattern}: no file matches this pattern{others}")
    shared = Path(os.path.commonpath([path.parent.absolute() for path in files]))
    return [_file(path, path.absolute().relative_to(shared)) for path in files]


def _file(path: Path, name: Path) -> Source:
    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return Video(path, name)
    if suffix in PICTURE_SUFFIXES:
        return PictureFile(path, name)
    raise SourceError(f"{path}: expected a picture or video, found the suffix {suffix!r}; known are {_known()}")


def _known() -> str:
    return " ".join(sorted(PICTURE_SUFFIXES)) + " " + " ".join(sorted(VIDEO_SUFFIXES))


class VideoReader:
    """The frames of a video as RGB. A context manager: the camera or file is let go at its end."""

    def __init__(self, video: Video):
        """Raises SourceError: a missing or broken file, no such camera, a stream that does not answer."""
        self.video = video
        address = video.address if isinstance(video.address, int) else str(video.address)
        level = cv2.utils.logging.setLogLevel(
            cv2.utils.logging.LOG_LEVEL_SILENT
        )  # what OpenCV and FFmpeg say about broken files is said below, once
        try:
            self._capture = cv2.VideoCapture(address)
        finally:
            cv2.utils.logging.setLogLevel(level)
        if not self._capture.isOpened():
            self._capture.release()
            raise SourceError(f"{video}: {self._why_not()}")
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.declared = int(count) if isinstance(address, str) and math.isfinite(count) and count > 0 else None
        self.live = self.declared is None and not isinstance(video.address, Path)
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if math.isfinite(rate) and 0 < rate <= FASTEST_RATE else None  # frames a second, if known
        self.decoded = 0

    def _why_not(self) -> str:
        if isinstance(self.video.address, int):
            return "cannot be opened; is it connected, and not in use?"
        if isinstance(self.video.address, str):
            return "this stream cannot be opened"
        size = self.video.address.stat().st_size
        return "not a video that can be decoded" + (" (the file is empty)" if size == 0 else f" ({size} bytes)")

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._capture.release()

    def __iter__(self) -> Iterator[Frame]:
        start = time.monotonic()
        rate = self.rate or USUAL_RATE
        while True:
            ok, image = self._capture.read()
            if not ok:
                return
            time_s = time.monotonic() - start if self.live else self.decoded / rate
            yield Frame(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), self.decoded, time_s)
            self.decoded += 1
