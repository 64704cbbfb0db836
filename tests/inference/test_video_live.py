"""Cameras and streams: the newest frame, new connections, and an end in time; with fake captures, without sleeping."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from video_data import FakeCapture

from cspdet.inference.pipeline import Prefetcher
from cspdet.inference.sources import Video
from cspdet.inference.video.live import LiveReader, open_live
from cspdet.inference.video.reader import OpenCvReader

CAMERA = Video(0, Path("camera-0.mp4"))


def grey_frames(*values: int) -> list[np.ndarray]:
    return [np.full((8, 8, 3), value, np.uint8) for value in values]


def reader(capture: FakeCapture, **options: object) -> LiveReader:
    return LiveReader(CAMERA, capture, **{"reconnect": 0, **options})  # type: ignore[arg-type]


def test_the_newest_frame_is_given_and_older_ones_are_counted_as_dropped():
    taken, came = threading.Event(), threading.Event()

    def before_read(number: int) -> None:
        if number == 1:
            taken.wait(60)  # frame 0 is being worked on; then 1, 2 and 3 come
        if number == 4:
            came.set()

    with reader(FakeCapture(grey_frames(10, 20, 30, 40), before_read)) as live:
        frames = iter(live)
        assert next(frames).image[0, 0, 0] == 10
        taken.set()
        came.wait(60)
        newest = next(frames)
        assert (newest.image[0, 0, 0], newest.index) == (40, 1)
        assert live.dropped == 2
        assert next(frames, None) is None
    assert live.error == "camera 0: lost after 4 frames"


def after_each(taken: threading.Semaphore) -> Callable[[int], None]:
    """Lets a frame come only after the one before was taken: nothing is dropped."""

    def before_read(_: int) -> None:
        taken.acquire(timeout=60)

    return before_read


def test_a_stride_offers_every_nth_frame():
    taken = threading.Semaphore(3)  # the first, and the two after it that are not offered
    with reader(FakeCapture(grey_frames(*range(8)), after_each(taken)), stride=3) as live:
        got = []
        for frame in live:
            got.append(int(frame.image[0, 0, 0]))
            taken.release(3)
    assert got == [0, 3, 6]
    assert (live.received, live.decoded, live.dropped) == (8, 3, 0)


def test_times_count_from_the_first_frame():
    now = [100.0]
    taken = threading.Semaphore(1)
    with reader(FakeCapture(grey_frames(1, 2, 3), after_each(taken)), clock=lambda: now[0]) as live:
        times = []
        for frame in live:
            times.append((frame.time_s, frame.ticks))
            now[0] += 0.25
            taken.release()
    assert times == [(0.0, 0), (0.25, 250), (0.5, 500)]


def test_max_seconds_ends_even_a_camera_that_gives_no_more_frames():
    now = [0.0]
    hang = threading.Event()

    def before_read(number: int) -> None:
        if number == 1:
            hang.wait(60)

    with reader(FakeCapture(grey_frames(1, 2), before_read), clock=lambda: now[0], max_seconds=2.0) as live:
        frames = iter(live)
        next(frames)
        now[0] = 2.5
        assert next(frames, None) is None
        hang.set()
    assert live.error is None


def connecting(monkeypatch: pytest.MonkeyPatch, captures: list[FakeCapture | None]) -> list[float]:
    """Let the next connections give `captures`, None for a refusal; the list that is returned gets the pauses."""
    from cspdet.errors import SourceError

    def connect(video: Video) -> FakeCapture:
        capture = captures.pop(0)
        if capture is None:
            raise SourceError("refused")
        return capture

    monkeypatch.setattr("cspdet.inference.video.live.open_capture", connect)
    return []


def test_a_lost_camera_is_connected_again_with_longer_and_longer_pauses(monkeypatch, caplog):
    pauses = connecting(monkeypatch, [None, None, FakeCapture(grey_frames(50))] + [None] * 6)

    def wait(stopped: threading.Event, seconds: float) -> bool:
        pauses.append(seconds)
        return False

    first = FakeCapture(grey_frames(10))
    with caplog.at_level(logging.INFO, "cspdet"), reader(first, reconnect=6, wait=wait) as live:
        got = [int(frame.image[0, 0, 0]) for frame in live]
    assert first.released
    assert got[-1] == 50
    assert pauses == [0.5, 1.0, 2.0] + [0.5, 1.0, 2.0, 4.0, 8.0, 10.0]
    assert live.error == "camera 0: lost after 2 frames, and 6 attempts to reconnect failed"
    assert "reconnected" in caplog.text


def test_the_end_of_the_block_ends_the_pause_before_a_new_connection(monkeypatch):
    connecting(monkeypatch, [])
    with reader(FakeCapture(grey_frames(10)), reconnect=3, wait=lambda stopped, _: stopped.wait(60)) as live:
        assert next(iter(live)).image[0, 0, 0] == 10
    assert not live._thread.is_alive()
    assert live.error is None


def test_an_image_on_a_web_server_is_read_once(monkeypatch):
    connecting(monkeypatch, [FakeCapture(grey_frames(50))] * 9)
    image = Video("http://host/a.jpg", Path("stream.mp4"))
    with LiveReader(image, FakeCapture(grey_frames(10)), reconnect=9) as live:  # type: ignore[arg-type]
        assert len(list(live)) == 1
    assert live.error is None


def test_ctrl_c_ends_the_opening_of_a_stream_that_does_not_answer(monkeypatch):
    answers = threading.Event()
    monkeypatch.setattr("cspdet.inference.video.live.open_capture", lambda _: answers.wait(60))
    threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        open_live(Video("rtsp://host/1", Path("stream.mp4")))
    assert time.monotonic() - start < 10
    answers.set()


def test_a_read_that_does_not_return_ends_with_its_block_and_is_not_released(monkeypatch):
    monkeypatch.setattr("cspdet.inference.video.reader.RELEASE_TIMEOUT_S", 0.2)
    monkeypatch.setattr("cspdet.inference.pipeline.RELEASE_TIMEOUT_S", 0.2)
    stalls, answers = threading.Event(), threading.Event()

    class Stalling(FakeCapture):
        def grab(self) -> bool:
            stalls.set()
            answers.wait(60)
            return False

    capture = Stalling([])
    with OpenCvReader(CAMERA, capture) as stalling, Prefetcher(stalling, 2):  # type: ignore[arg-type]
        stalls.wait(60)
    assert not capture.released
    answers.set()


def test_a_stream_that_counts_its_frames_is_read_like_a_file(monkeypatch):
    class Served(FakeCapture):
        def get(self, what: int) -> float:
            return {cv2.CAP_PROP_FRAME_COUNT: 2.0, cv2.CAP_PROP_FPS: 10.0}.get(what, 0.0)

        def grab(self) -> bool:
            return self.reads < 2

        def retrieve(self) -> tuple[bool, np.ndarray | None]:
            return self.read()

    monkeypatch.setattr(cv2, "VideoCapture", lambda _: Served(grey_frames(1, 2)))
    served = open_live(Video("http://host/v.mp4", Path("stream.mp4")))
    assert isinstance(served, OpenCvReader)
    assert [frame.time_s for frame in served] == [0.0, 0.1]
    monkeypatch.setattr(cv2, "VideoCapture", lambda _: FakeCapture([]))
    assert open_live(Video("rtsp://host/1", Path("stream.mp4"))).live
