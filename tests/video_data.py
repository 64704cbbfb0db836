"""Videos made for tests, and fake cameras."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from cspdet.inference.video_reader import VideoFacts
from cspdet.inference.video_writer import Codec, Output, video_writer


def write_video(path: Path, images: Iterable[np.ndarray], rate: float = 10.0, codec: Codec = "mp4v") -> Path:
    """A video of RGB pictures at a constant rate."""
    exact = Fraction(rate).limit_denominator(10_000)
    with video_writer(Path(path), Output(VideoFacts(exact, 1 / exact), codec)) as writer:
        for image in images:
            writer.write(image)
    return Path(path)


def grey_video(path: Path, frames: int, rate: float = 10.0, size_hw: tuple[int, int] = (48, 64)) -> Path:
    """A video whose n-th frame is grey of 10 n."""
    return write_video(path, (np.full((*size_hw, 3), 10 * i % 250, np.uint8) for i in range(frames)), rate)


def h264_video(
    path: Path,
    images: Sequence[np.ndarray],
    *,
    times_ms: Sequence[int] | None = None,
    rate: Fraction = Fraction(25),
    sound: bool = False,
) -> Path:
    """H.264 straight from PyAV, with frames at `times_ms` or at a constant rate, and a second of AAC silence."""
    import av

    height, width = images[0].shape[:2]
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=rate, options={"preset": "ultrafast", "crf": "10"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        time_base = Fraction(1, 1000) if times_ms else 1 / rate
        stream.codec_context.time_base = time_base
        track = container.add_stream("aac", rate=8000) if sound else None
        for i, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = times_ms[i] if times_ms else i, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        for i in range(8 if track is not None else 0):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            silence.sample_rate, silence.pts, silence.time_base = 8000, 1024 * i, Fraction(1, 8000)
            container.mux(track.encode(silence))
        if track is not None:
            container.mux(track.encode(None))
    return path


def turn(path: Path) -> Path:
    """Write into an mp4 that it is to be shown turned clockwise by a quarter, as phones do for upright pictures.

    The matrix of the track header (ISO/IEC 14496-12, 8.3.2) takes (x, y) to (-y, x).
    """
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 4 + 20 + 16
    height = struct.unpack(">I", data[matrix + 40 : matrix + 44])[0]
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, height, 0, 1 << 30)
    path.write_bytes(data)
    return path


def frames_of(path: Path) -> list[np.ndarray]:
    """The frames of a video as OpenCV decodes them, RGB."""
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        ok, image = capture.read()
        if not ok:
            return frames
        frames.append(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))


class FakeCapture:
    """Stands in for cv2.VideoCapture: gives `images` (BGR) one after the other, then nothing more.

    before_read  called with the number of the read, from 0; waits there for whatever the test wants
    """

    def __init__(self, images: Sequence[np.ndarray], before_read: Callable[[int], None] = lambda _: None):
        self.images, self.before_read = images, before_read
        self.reads = 0
        self.released = False

    def isOpened(self) -> bool:
        return True

    def get(self, _: int) -> float:
        return -1.0

    def read(self) -> tuple[bool, np.ndarray | None]:
        number, self.reads = self.reads, self.reads + 1
        self.before_read(number)
        return (True, self.images[number]) if number < len(self.images) else (False, None)

    def release(self) -> None:
        self.released = True
