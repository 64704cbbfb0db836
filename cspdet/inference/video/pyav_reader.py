"""Reader of video files with PyAV: upright frames with the timestamps of the file."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cspdet.datasets.pillow_io import MAX_PIXELS
from cspdet.errors import SourceError
from cspdet.inference.pipeline import RELEASE_TIMEOUT_S
from cspdet.inference.sources import Video
from cspdet.inference.video.frame import DEFAULT_FPS, MAX_FPS, Frame, FrameClock, VideoInfo

if TYPE_CHECKING:
    import av
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

# FFmpeg's names of formats that contain a video themselves; its playlists, such as hls and concat, name others
CONTAINER_FORMATS = (
    "mov,mp4,matroska,webm,avi,mpeg,mpegts,mpegvideo,asf,flv,live_flv,h264,hevc,vvc,av1,obu,ivf,m4v,mjpeg,ogg,mxf,nut,"
    "rm,dv,h261,h263,vc1,cavsvideo,yuv4mpegpipe,wtv,3gp,gif,apng,rawvideo,dirac,swf,nsv"
)

# Formats without timestamps; the frame rate is in the coded data
RAW_FORMATS = {"h264", "hevc", "vvc", "obu", "m4v", "mjpeg", "mpegvideo", "h261", "h263", "vc1", "cavsvideo", "dirac"}


def open_container(path: Path) -> av.container.InputContainer:
    """Open a file with PyAV, even if its tags are not UTF-8; raise FFmpegError if this fails.

    The path is made absolute, because FFmpeg takes some relative paths, such as `http:a.mp4`, for URLs. Playlists are
    refused, because they make FFmpeg open other files and URLs.
    """
    import av

    options = {"protocol_whitelist": "file", "format_whitelist": CONTAINER_FORMATS}
    try:
        return av.open(os.path.abspath(path), options=options)
    except UnicodeDecodeError:
        return av.open(os.path.abspath(path), options=options, metadata_errors="replace")


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
        self._reading = threading.Lock()
        path = Path(str(video.address))
        try:
            self._container = open_container(path)
        except av.error.FFmpegError:
            raise SourceError(f"{video}: not a video that can be decoded ({path.stat().st_size} bytes)") from None
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
        if self._reading.acquire(timeout=RELEASE_TIMEOUT_S):  # else a thread still waits for a disk that stalls
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
                with self._reading:
                    frames = self._decode(next(packets))
            except (StopIteration, av.error.EOFError, av.error.InvalidDataError):
                return
            except av.error.FFmpegError as error:  # a failing disk, or a decoder that gives up
                self.error = f"{self.video}: frame {self.decoded} cannot be read: {error.strerror}"
                return
            yield from frames

    @staticmethod
    def _decode(packet: Packet) -> list[VideoFrame]:
        import av

        try:
            return packet.decode()
        except av.error.InvalidDataError:
            return []


def _to_fraction(value: Fraction | None) -> Fraction | None:
    """Convert a rational number of PyAV to Fraction (PyAV 19 has its own class); None and 0 become None."""
    return Fraction(value.numerator, value.denominator) if value else None


def _to_upright_rgb(frame: VideoFrame) -> np.ndarray:
    """Convert a frame to (H, W, 3) uint8 RGB, rotated and mirrored as declared in the file."""
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
