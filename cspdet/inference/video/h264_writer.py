"""H.264 in mp4 through PyAV: what browsers play, with the source's own times and sound."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from cspdet.errors import SourceError
from cspdet.inference.video.reader import open_container

if TYPE_CHECKING:
    import av
    from av.audio.stream import AudioStream
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

log = logging.getLogger("cspdet")

QUALITY = "23"  # x264's constant rate factor: its own default, hard to tell from the source
PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow")
SOUND_IN_MP4 = frozenset(("aac", "mp3", "ac3", "eac3", "alac", "opus"))  # copied as they are; others are left out

# The numbers of ITU-T H.273: OpenCV converts to the luma and chroma of BT.601 with limited range, so the file says
# so; without it players take large pictures for BT.709 and show other greens.
BT601_MATRIX, SRGB_PRIMARIES, BT709_TRANSFER, LIMITED_RANGE = 6, 1, 1, 1


class H264Writer:
    """Takes RGB frames of one size, that of the first; see VideoWriter.

    Even sizes are written as 4:2:0, which plays everywhere. 4:2:0 has one color for 2x2 pixels and so no odd size:
    those are written as 4:4:4 in exactly their size, which FFmpeg, VLC and Chromium play and some devices do not.
    The index stands at the beginning of the file, so that it plays before it is there as a whole.
    """

    def __init__(
        self,
        path: Path,
        *,
        rate: Fraction,
        time_base: Fraction,
        pixel_aspect: Fraction = Fraction(1),
        preset: str = "ultrafast",
        audio: Path | None = None,
        origin: Fraction = Fraction(0),
    ):
        self.path, self.written = path, 0
        self._rate, self._time_base, self._pixel_aspect, self._preset = rate, time_base, pixel_aspect, preset
        self._step = max(1, round(1 / (rate * time_base)))  # ticks that a frame lasts
        self._last = -self._step
        self._size_hw = (0, 0)
        self._container: av.container.OutputContainer | None = None
        self._stream: VideoStream
        self._audio, self._origin = audio, origin
        self._sound: Sound | None = None

    def write(self, image: np.ndarray, ticks: int | None = None) -> None:
        """See VideoWriter."""
        import av

        if self._container is None:
            self._open((image.shape[0], image.shape[1]))
        assert self._container is not None
        if image.shape[:2] != self._size_hw:
            image = cv2.resize(image, self._size_hw[::-1], interpolation=cv2.INTER_AREA)
        frame = self._as_yuv(image)
        frame.pts = max(self._last + (self._step if ticks is None else 1), ticks or 0)
        frame.time_base, frame.duration = self._time_base, self._step
        try:
            self._container.mux(self._stream.encode(frame))
            if self._sound is not None:
                self._container.mux(list(self._sound.until((frame.pts + self._step) * self._time_base)))
        except av.error.FFmpegError as error:
            raise OSError(error.errno, f"the video cannot be written: {error.strerror}") from None
        self._last = frame.pts
        self.written += 1

    def _open(self, size_hw: tuple[int, int]) -> None:
        import av

        self._size_hw = size_hw
        height, width = size_hw
        self._container = av.open(str(self.path), "w", format="mp4", options={"movflags": "+faststart"})
        stream = self._container.add_stream(
            "libx264", rate=self._rate, options={"preset": self._preset, "crf": QUALITY}
        )
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv444p" if height % 2 or width % 2 else "yuv420p"
        context = stream.codec_context
        context.time_base = self._time_base
        context.colorspace, context.color_range = BT601_MATRIX, LIMITED_RANGE
        context.color_primaries, context.color_trc = SRGB_PRIMARIES, BT709_TRANSFER
        if self._pixel_aspect != 1:
            context.sample_aspect_ratio = self._pixel_aspect
        if self._audio is not None:  # not before there is a picture: the network has something to do meanwhile
            self._sound = Sound(self._audio, self._origin)
            self._sound.add_to(self._container)
        self._stream = stream
        try:
            context.open()
        except av.error.FFmpegError:
            raise SourceError(
                f"frames of {width}x{height} at {float(self._rate):g} a second cannot be written as H.264"
            ) from None

    def _as_yuv(self, image: np.ndarray) -> VideoFrame:
        import av

        if self._stream.pix_fmt == "yuv420p":  # OpenCV converts twice as fast as FFmpeg
            planes = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2YUV_I420), np.uint8)
            return av.VideoFrame.from_ndarray(planes, format="yuv420p")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        return frame.reformat(format="yuv444p", dst_colorspace="ITU601")

    def finish(self) -> None:
        """See VideoWriter."""
        import av

        if self._container is None:
            return
        try:
            if self.written:
                self._container.mux(self._stream.encode(None))
            self._container.close()
        except av.error.FFmpegError as error:
            raise OSError(error.errno, f"the video cannot be written: {error.strerror}") from None
        finally:
            if self._sound is not None:
                self._sound.close()


class Sound:
    """The first sound track of a file, copied beside the pictures without decoding it.

    origin  seconds in the file's own time at which its first picture stands, the beginning of what is written
    """

    def __init__(self, path: Path, origin: Fraction = Fraction(0)):
        self._origin = origin
        self._container = open_container(path)
        tracks = [track for track in self._container.streams.audio if track.codec_context is not None]
        self._from = tracks[0] if tracks and tracks[0].codec_context.name in SOUND_IN_MP4 else None
        if tracks and self._from is None:
            log.warning("%s: mp4 cannot hold its %s sound, which is left out", path, tracks[0].codec_context.name)
        self._packets = self._container.demux(self._from) if self._from is not None else iter(())
        self._next: Packet | None = None
        self._to: AudioStream | None = None

    def add_to(self, container: av.container.OutputContainer) -> None:
        """Make the track of the written file; before its first frame."""
        if self._from is not None:
            self._to = container.add_stream_from_template(self._from)

    def until(self, seconds: Fraction) -> Iterator[Packet]:
        """The packets that begin before this time of the source."""
        while self._to is not None:
            packet = self._next if self._next is not None else next(self._packets, None)
            self._next = None
            if packet is None:
                return
            if packet.pts is None or packet.dts is None:  # the mark at the end
                continue
            time_base = Fraction(packet.time_base.numerator, packet.time_base.denominator)
            begins = packet.pts * time_base - self._origin
            if begins >= seconds:
                self._next = packet
                return
            if begins >= 0:
                shift = round(self._origin / time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, self._to
                yield packet

    def close(self) -> None:
        """Let the source go."""
        self._container.close()
