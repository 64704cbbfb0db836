"""Readers for video files: RGB frames with timestamps, read with PyAV or, if it is not installed, with OpenCV."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np

from cspdet.errors import SourceError
from cspdet.inference.sources import Video
from cspdet.inference.video.frame import DEFAULT_FPS, MAX_FPS, Frame, VideoInfo, VideoReader

if TYPE_CHECKING:
    import av
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream


def has_pyav() -> bool:
    """Return whether PyAV is installed, which the extra `video` installs."""
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
    if not video.address.stat().st_size:
        raise SourceError(f"{video}: not a video that can be decoded (the file is empty)")
    return (
        PyAvReader(video, stride, slice_threading=slice_threading)
        if has_pyav()
        else OpenCvReader(video, open_capture(video), stride)
    )


def open_capture(video: Video) -> cv2.VideoCapture:
    """Open a file, camera or stream with OpenCV; raise SourceError if this fails."""
    # As an absolute path, a file called http:x.mp4 or pipe:0.mp4 is not read as an address.
    address = os.path.abspath(video.address) if isinstance(video.address, Path) else video.address
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


def open_container(path: Path) -> av.container.InputContainer:
    """Open a file with PyAV, even if its tags are not UTF-8 or its name is like an address. Raises FFmpegError."""
    import av

    name = os.path.abspath(path)
    try:
        return av.open(name)
    except UnicodeDecodeError:
        return av.open(name, metadata_errors="replace")


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

    def __enter__(self) -> OpenCvReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._capture.release()

    def __iter__(self) -> Iterator[Frame]:
        while self._capture.grab():
            frame_index = self.decoded
            if frame_index % self._stride == 0:
                ok, image = self._capture.retrieve()
                if not ok:
                    return
                yield Frame(
                    cv2.cvtColor(image, cv2.COLOR_BGR2RGB),
                    frame_index,
                    float(frame_index * self.info.time_base),
                    frame_index,
                )
            self.decoded += 1


class PyAvReader:
    """Reader of a file with PyAV; frames are upright and have the timestamps of the file."""

    live = False
    dropped = 0

    def __init__(self, video: Video, stride: int = 1, *, slice_threading: bool = False):
        import av

        self.video, self._stride = video, stride
        self._thread_type: Literal["SLICE", "AUTO"] = "SLICE" if slice_threading else "AUTO"  # AUTO: also frames
        self.decoded = 0
        self.error: str | None = None
        self.start_time_s = Fraction(0)
        try:
            self._container = open_container(Path(str(video.address)))
        except av.error.FFmpegError:
            raise SourceError(f"{video}: {_open_error_reason(video)}") from None
        try:
            self._stream = self._select_video_stream(self._container)
        except SourceError:
            self._container.close()
            raise
        self.info = self._read_info(self._stream)

    def _select_video_stream(self, container: av.container.InputContainer) -> VideoStream:
        best = container.streams.best("video")  # excludes cover images
        stream = next((track for track in container.streams.video if best is None or track.index == best.index), None)
        if stream is None:
            types = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
            raise SourceError(f"{self.video}: expected a video, found a file with {types} only")
        if stream.codec_context is None:
            raise SourceError(f"{self.video}: unknown codec, or a damaged file; convert it to H.264")
        stream.thread_type = self._thread_type
        return stream

    @staticmethod
    def _read_info(stream: VideoStream) -> VideoInfo:
        mean = _to_fraction(stream.average_rate)
        fps = mean if mean is not None and 0 < mean <= MAX_FPS else None
        time_base = _to_fraction(stream.time_base) or 1 / (fps or DEFAULT_FPS)
        return VideoInfo(fps, time_base, stream.frames or None, _to_fraction(stream.sample_aspect_ratio) or Fraction(1))

    def __enter__(self) -> PyAvReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def __iter__(self) -> Iterator[Frame]:
        step = max(1, round(1 / ((self.info.fps or DEFAULT_FPS) * self.info.time_base)))
        first, last = None, -step
        for frame in self._decode_frames():
            # A missing timestamp becomes the previous one plus 1 / fps; a decreasing one, the previous one plus 1 tick.
            ticks = last + step if frame.pts is None else frame.pts - (first or 0)
            if first is None:
                first, ticks = frame.pts, 0
                self.start_time_s = (first or 0) * self.info.time_base
            ticks = max(ticks, last + 1)
            if self.decoded % self._stride == 0:
                yield Frame(_to_upright_rgb(frame), self.decoded, float(ticks * self.info.time_base), ticks)
            last = ticks
            self.decoded += 1

    def _decode_frames(self) -> Iterator[VideoFrame]:
        """Yield all frames that can be decoded. Corrupt packets are skipped; a read error ends the iteration."""
        import av

        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except (StopIteration, av.error.FFmpegError):
                return
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                continue
            except av.error.FFmpegError as error:
                self.error = f"{self.video}: frame {self.decoded} cannot be decoded: {error.strerror}"
                return
            yield from frames


def _to_fraction(value: Fraction | None) -> Fraction | None:
    """Convert PyAV's rational numbers, which have their own class since version 19; None and 0 become None."""
    return Fraction(value.numerator, value.denominator) if value else None


def _to_upright_rgb(frame: VideoFrame) -> np.ndarray:
    """Convert a frame to (H, W, 3) uint8 RGB, rotated counter-clockwise by the angle that the file states."""
    image = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image
