"""Writer of H.264 video in mp4 with PyAV: playable in browsers, with the timestamps and the audio of the source."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from cspdet.errors import SourceError
from cspdet.inference.video.encoding import EncoderSettings, fit_into
from cspdet.inference.video.pyav_reader import open_container

if TYPE_CHECKING:
    import av
    from av.audio.stream import AudioStream
    from av.packet import Packet
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

log = logging.getLogger("cspdet")

CRF = "23"  # constant rate factor: the default of x264, visually close to the source
# Fragments of a second, each flushed to the disk (hybrid: FFmpeg 7.1, as in PyAV 14.2)
LIVE_OPTIONS = {"movflags": "+hybrid_fragmented", "frag_duration": "1000000", "flush_packets": "1"}
MAX_STEP_BACK_S = Fraction(1, 10)  # larger steps back of audio times are the start of another recording
MP4_AUDIO_CODECS = frozenset(
    ("aac", "mp3", "ac3", "eac3", "alac", "opus")
)  # copied without re-encoding; audio in other codecs is omitted

# Codes of ITU-T H.273. OpenCV converts to the luma and chroma of BT.601 with limited range, so the file declares that;
# otherwise players assume BT.709 for large images and show other greens.
BT601_MATRIX, SRGB_PRIMARIES, BT709_TRANSFER, LIMITED_RANGE = 6, 1, 1, 1


class H264Writer:
    """Writer of H.264 video; all frames get the size of the first frame. Implements VideoWriter.

    Frames of even size are written as 4:2:0, which all players support. 4:2:0 has one color per 2x2 pixels and cannot
    have odd sizes; odd sizes are written as 4:4:4, which FFmpeg, VLC and Chromium support, but some devices do not. The
    index is at the beginning of the file (fast start), so that playback can begin during the download.

    A live source is written in fragments of a second, so that the file can be played even if the process is killed. At
    the end of the recording, the file becomes an ordinary mp4.

    Args:
        path: The file.
        settings: Frame rate, time base, preset and audio.
    """

    def __init__(self, path: Path, settings: EncoderSettings):
        self.path, self.written = path, 0
        self._settings, self._time_base = settings, settings.info.time_base
        self._ticks_per_frame = max(1, round(1 / (settings.fps * self._time_base)))
        self._last_pts = -self._ticks_per_frame
        self.size_hw = (0, 0)
        self._container: av.container.OutputContainer | None = None
        self._stream: VideoStream
        self._audio_passthrough: AudioPassthrough | None = None

    def write(self, image: np.ndarray, ticks: int | None = None) -> None:
        """Write a frame (H, W, 3) uint8 RGB; if it has another size than the first, fit it between black borders."""
        import av

        if self._container is None:
            self._open((image.shape[0], image.shape[1]))
        assert self._container is not None
        frame = self._to_yuv_frame(fit_into(image, self.size_hw))
        frame.pts = max(self._last_pts + (self._ticks_per_frame if ticks is None else 1), ticks or 0)
        frame.time_base, frame.duration = self._time_base, self._ticks_per_frame
        try:
            self._container.mux(self._stream.encode(frame))
            if self._audio_passthrough is not None:
                self._container.mux(
                    list(self._audio_passthrough.packets_until((frame.pts + self._ticks_per_frame) * self._time_base))
                )
        except av.error.FFmpegError as error:
            raise OSError(error.errno, f"the video cannot be written: {error.strerror}") from None
        self._last_pts = frame.pts
        self.written += 1

    def _open(self, size_hw: tuple[int, int]) -> None:
        import av

        self.size_hw = size_hw
        height, width = size_hw
        settings = self._settings
        options = LIVE_OPTIONS if settings.live else {"movflags": "+faststart"}
        self._container = av.open(os.path.abspath(self.path), "w", format="mp4", options=options)
        codec_options = {"preset": settings.preset, "crf": CRF}
        stream = self._container.add_stream("libx264", rate=settings.fps, options=codec_options)
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv444p" if height % 2 or width % 2 else "yuv420p"
        context = stream.codec_context
        context.time_base = self._time_base
        _set_color_description(context)
        if settings.info.pixel_aspect != 1:
            context.sample_aspect_ratio = settings.info.pixel_aspect
        if settings.audio is not None:  # opened with the first frame, in parallel with the network
            self._audio_passthrough = AudioPassthrough(settings.audio, settings.start_time_s)
            self._audio_passthrough.add_stream_to(self._container)
        self._stream = stream
        try:
            context.open()
        except av.error.FFmpegError:
            raise SourceError(
                f"frames of {width}x{height} at {float(settings.fps):g} per second cannot be written as H.264"
            ) from None

    def _to_yuv_frame(self, image: np.ndarray) -> VideoFrame:
        import av

        if self._stream.pix_fmt == "yuv420p":  # OpenCV converts twice as fast as FFmpeg
            planes = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2YUV_I420), np.uint8)
            return av.VideoFrame.from_ndarray(planes, format="yuv420p")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        return frame.reformat(format="yuv444p", dst_colorspace="ITU601")

    def finish(self) -> None:
        """Write the delayed frames and close the file; do nothing if there are no frames."""
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
            if self._audio_passthrough is not None:
                self._audio_passthrough.close()


class AudioPassthrough:
    """Copies the first audio track of a file without re-encoding it.

    Args:
        path: The file.
        start_time_s: Timestamp of the first video frame in the file, in seconds; the written video begins at this time.
    """

    def __init__(self, path: Path, start_time_s: Fraction = Fraction(0)):
        self._start_time_s = start_time_s
        self._shift_s = self._end_s = Fraction(0)  # added to the times of the file; end of the last packet
        self._last_s: Fraction | None = None  # begin of the last packet
        self._container = open_container(path)
        tracks = [track for track in self._container.streams.audio if track.codec_context is not None]
        self._input_stream = tracks[0] if tracks and tracks[0].codec_context.name in MP4_AUDIO_CODECS else None
        if tracks and self._input_stream is None:
            log.warning("%s: mp4 cannot contain %s audio; the audio is omitted", path, tracks[0].codec_context.name)
        self._packets = self._container.demux(self._input_stream) if self._input_stream is not None else iter(())
        self._pending_packet: Packet | None = None
        self._output_stream: AudioStream | None = None

    def add_stream_to(self, container: av.container.OutputContainer) -> None:
        """Add the audio track to the written file; call this before writing the first frame."""
        if self._input_stream is not None:
            self._output_stream = container.add_stream_from_template(self._input_stream)

    def packets_until(self, seconds: Fraction) -> Iterator[Packet]:
        """Yield the next audio packets that begin before `seconds`, a time of the written video."""
        while self._output_stream is not None:
            packet = self._pending_packet if self._pending_packet is not None else next(self._packets, None)
            self._pending_packet = None
            if packet is None:
                return
            if packet.pts is None or packet.dts is None:  # the end marker
                continue
            time_base = Fraction(packet.time_base.numerator, packet.time_base.denominator)
            begins = packet.pts * time_base - self._start_time_s + self._shift_s
            if self._last_s is not None and begins < self._last_s - MAX_STEP_BACK_S:  # two recordings were joined
                self._shift_s += self._end_s - begins
                begins = self._end_s
            if begins >= seconds:
                self._pending_packet = packet
                return
            if begins >= 0 and (self._last_s is None or begins > self._last_s):
                self._last_s, self._end_s = begins, begins + (packet.duration or 0) * time_base
                packet.pts = packet.dts = round(begins / time_base)
                packet.stream = self._output_stream
                yield packet

    def close(self) -> None:
        """Close the source file."""
        self._container.close()


def _set_color_description(context: VideoCodecContext) -> None:
    context.colorspace, context.color_range = BT601_MATRIX, LIMITED_RANGE
    context.color_primaries, context.color_trc = SRGB_PRIMARIES, BT709_TRANSFER
