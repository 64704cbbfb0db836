"""Readers for video files: RGB frames with timestamps, read with PyAV or, if it is not installed, with OpenCV."""

from __future__ import annotations

import importlib.util
import math
import os
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np

from cspdet.datasets.image_io import IMAGE_SUFFIXES
from cspdet.datasets.pillow_io import MAX_PIXELS
from cspdet.errors import SourceError
from cspdet.inference.pipeline import RELEASE_TIMEOUT_S
from cspdet.inference.sources import Video
from cspdet.inference.video.animation import AnimationReader
from cspdet.inference.video.frame import DEFAULT_FPS, MAX_FPS, Frame, FrameClock, VideoInfo, VideoReader
from cspdet.io.text import opencv_path

# FFmpeg's names of formats that contain a video themselves; its playlists, such as hls and concat, name others
CONTAINER_FORMATS = (
    "mov,mp4,matroska,webm,avi,mpeg,mpegts,mpegvideo,asf,flv,live_flv,h264,hevc,vvc,av1,obu,ivf,m4v,mjpeg,ogg,mxf,nut,"
    "rm,dv,h261,h263,vc1,cavsvideo,yuv4mpegpipe,wtv,3gp,gif,apng,rawvideo,dirac,swf,nsv"
)

# Formats without timestamps; the frame rate is in the coded data
RAW_FORMATS = {"h264", "hevc", "vvc", "obu", "m4v", "mjpeg", "mpegvideo", "h261", "h263", "vc1", "cavsvideo", "dirac"}

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


def open_container(path: Path) -> av.container.InputContainer:
    """Open a file with PyAV, even if its tags are not UTF-8. Raises FFmpegError.

    The absolute path is a file for FFmpeg, whatever its name; a relative one may be an address, such as `http:a.mp4`. A
    playlist that is named like a video is refused, because it makes FFmpeg open other files and addresses.
    """
    import av

    options = {"protocol_whitelist": "file", "format_whitelist": CONTAINER_FORMATS}
    try:
        return av.open(os.path.abspath(path), options=options)
    except UnicodeDecodeError:
        return av.open(os.path.abspath(path), options=options, metadata_errors="replace")


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
        """Return whether there is a next frame, and its image, (H, W, 3) BGR, unless the stride skips it."""
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
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > MAX_PIXELS:
            raise SourceError(f"{self.video}: {width}x{height} pixels are more than the limit of {MAX_PIXELS}")
        stream.thread_type = self._thread_type
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        return stream

    @staticmethod
    def _read_info(stream: VideoStream) -> VideoInfo:
        is_raw = stream.container.format.name in RAW_FORMATS
        mean = _to_fraction(stream.guessed_rate if is_raw else stream.average_rate)
        fps = mean if mean is not None and 0 < mean <= MAX_FPS else None
        time_base = _to_fraction(stream.time_base) or 1 / (fps or DEFAULT_FPS)
        return VideoInfo(fps, time_base, stream.frames or None, _to_fraction(stream.sample_aspect_ratio) or Fraction(1))

    def __enter__(self) -> PyAvReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def __iter__(self) -> Iterator[Frame]:
        clock = FrameClock(max(1, round(1 / ((self.info.fps or DEFAULT_FPS) * self.info.time_base))))
        for frame in self._decode_frames():
            ticks = clock.next(frame.pts)
            if self.decoded == 0:
                self.start_time_s = (frame.pts or 0) * self.info.time_base
            if self.decoded % self._stride == 0:
                yield Frame(_to_upright_rgb(frame), self.decoded, float(ticks * self.info.time_base), ticks)
            self.decoded += 1

    def _decode_frames(self) -> Iterator[VideoFrame]:
        """Yield all frames that can be decoded. Corrupt packets are skipped; a read error ends the iteration."""
        import av

        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except (StopIteration, av.error.EOFError, av.error.InvalidDataError):
                return
            except av.error.FFmpegError as error:  # a failing disk
                self.error = f"{self.video}: reading fails after frame {self.decoded}: {error.strerror}"
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
    """Convert to (H, W, 3) uint8 RGB, rotated and mirrored as declared in the file."""
    image = frame.to_ndarray(format="rgb24")
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return image
    # (x, y) is shown at (a x + c y, b x + d y); in 1/65536, and b and d belong to the second column
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5]
    if abs(int(b)) > abs(int(a)):
        image = image.swapaxes(0, 1)
        mirror_x, mirror_y = c < 0, b < 0
    else:
        mirror_x, mirror_y = a < 0, d < 0
    return np.ascontiguousarray(image[:: -1 if mirror_y else 1, :: -1 if mirror_x else 1])
