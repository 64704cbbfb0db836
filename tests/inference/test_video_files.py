"""Video files in and out: frames, sizes, rates, times, rotation and sound are kept, and what is broken is named."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from video_data import frames_of, grey_video, h264_video, raw_video, turn, write_video

from cspdet.errors import ConfigError, SourceError, UserError
from cspdet.inference.sources import Video
from cspdet.inference.video import reader as video_reader
from cspdet.inference.video.animation import is_animated_image
from cspdet.inference.video.encoding import EncoderSettings
from cspdet.inference.video.frame import FrameClock, VideoInfo, VideoReader
from cspdet.inference.video.reader import OpenCvReader, open_video_file
from cspdet.inference.video.writer import open_video_writer, select_codec

READERS = ("opencv", "pyav")
CODECS = ("mp4v", "h264")


@pytest.fixture(params=READERS)
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which of the two ways to read is taken."""
    if request.param == "pyav":
        pytest.importorskip("av")
    monkeypatch.setattr(video_reader, "has_pyav", lambda: request.param == "pyav")
    return request.param


@pytest.fixture(params=CODECS)
def codec(request: pytest.FixtureRequest) -> str:
    """Which of the two ways to write is taken."""
    if request.param == "h264":
        pytest.importorskip("av")
    return request.param


def opened(path: Path, stride: int = 1) -> VideoReader:
    return open_video_file(Video(path, Path(path.name)), stride)


def output(rate: Fraction | float = 25, codec: str = "mp4v") -> EncoderSettings:
    exact = Fraction(rate).limit_denominator(10_000)
    return EncoderSettings(VideoInfo(exact, 1 / exact), codec)  # type: ignore[arg-type]


def greys(images: list[np.ndarray]) -> list[int]:
    return [round(float(image.mean()) / 10) for image in images]


# --- reading -------------------------------------------------------------------------------------


def test_a_video_is_read_frame_by_frame_as_it_was_written(tmp_path, reader):
    path = grey_video(tmp_path / "v.mp4", 7, rate=12.5)
    with opened(path) as video:
        frames = list(video)
    assert (video.info.num_frames, video.info.fps, video.live, video.decoded) == (7, Fraction(25, 2), False, 7)
    assert [frame.index for frame in frames] == list(range(7))
    assert [frame.time_s for frame in frames] == pytest.approx([i / 12.5 for i in range(7)])
    assert greys([frame.image for frame in frames]) == list(range(7))
    assert frames[0].image.shape == (48, 64, 3)


def test_a_stride_leaves_out_and_keeps_numbers_and_times(tmp_path, reader):
    with opened(grey_video(tmp_path / "v.mp4", 7, rate=10), stride=3) as video:
        frames = list(video)
    assert [(frame.index, round(frame.time_s, 6)) for frame in frames] == [(0, 0.0), (3, 0.3), (6, 0.6)]
    assert greys([frame.image for frame in frames]) == [0, 3, 6]
    assert video.decoded == 7


def test_a_turned_video_comes_upright(tmp_path, reader):
    pytest.importorskip("av")
    image = np.full((64, 96, 3), 30, np.uint8)
    image[:24, :24] = 240  # top left, which a quarter clockwise brings to the top right
    path = turn(h264_video(tmp_path / "v.mp4", [image] * 3))
    with opened(path) as video:
        (first, *_) = list(video)
    assert first.image.shape == (96, 64, 3)
    corners = [int(first.image[y, x].mean()) > 128 for y in (5, 90) for x in (5, 58)]
    assert corners == [False, True, False, False]


# a, b, c, d of the matrix in the file, and what is shown of a image
DISPLAYED: dict[tuple[int, int, int, int], Callable[[np.ndarray], np.ndarray]] = {
    (1, 0, 0, 1): lambda image: image,
    (-1, 0, 0, 1): lambda image: image[:, ::-1],
    (1, 0, 0, -1): lambda image: image[::-1],
    (-1, 0, 0, -1): lambda image: image[::-1, ::-1],
    (0, 1, 1, 0): lambda image: image.swapaxes(0, 1),
    (0, 1, -1, 0): lambda image: np.rot90(image, -1),
    (0, -1, 1, 0): lambda image: np.rot90(image),
    (0, -1, -1, 0): lambda image: np.rot90(image, 2).swapaxes(0, 1),
}


@pytest.mark.parametrize("matrix", DISPLAYED, ids=str)
def test_turned_and_mirrored_videos_come_as_players_show_them(tmp_path, matrix):
    pytest.importorskip("av")
    image = np.full((64, 96, 3), 30, np.uint8)
    image[:24, :24] = 240
    image[:24, 72:] = (200, 30, 30)
    path = turn(h264_video(tmp_path / "v.mp4", [image] * 2), matrix)
    with opened(path) as video:
        first = next(iter(video)).image
    expected = DISPLAYED[matrix](image)
    assert first.shape == expected.shape
    assert np.abs(first.astype(int) - expected).mean() < 12


@pytest.mark.parametrize(("container", "codec"), [("h264", "libx264"), ("hevc", "libx265")])
def test_a_stream_without_times_plays_at_its_rate(tmp_path, container, codec):
    pytest.importorskip("av")
    images = [np.full((64, 64, 3), 10 * i, np.uint8) for i in range(12)]
    path = raw_video(tmp_path / "v.mp4", images, 10, container, codec)
    with opened(path) as video:
        times = [frame.time_s for frame in video]
    assert len(times) == 12
    assert np.diff(times) == pytest.approx([0.1] * 11)


def test_times_of_recordings_that_were_joined_go_on(tmp_path):
    pytest.importorskip("av")
    images = [np.full((48, 64, 3), 20 * i, np.uint8) for i in range(8)]
    parts = [raw_video(tmp_path / f"{name}.ts", images, 10, "mpegts").read_bytes() for name in "ab"]
    (tmp_path / "v.ts").write_bytes(parts[0] + parts[1])
    with opened(tmp_path / "v.ts") as video:
        times = [frame.time_s for frame in video]
    assert len(times) >= 15
    assert np.diff(times) == pytest.approx([0.1] * (len(times) - 1), abs=0.11)
    assert min(np.diff(times)) > 0.05


@pytest.mark.parametrize(
    ("timestamps", "ticks"),
    [
        ([None] * 4, [0, 100, 200, 300]),
        ([700, 800, 950, 0, 90, 200], [0, 100, 250, 350, 440, 550]),  # another recording
        ([700, 800, 800, 900, 1000], [0, 100, 150, 200, 300]),
        ([0, 100, 300, 200, 400], [0, 100, 300, 350, 400]),
        ([7] * 6, [0, 50, 100, 200, 300, 400]),  # they stand still
        ([None, 5000, 5100], [0, 100, 200]),
    ],
)
def test_missing_and_wrong_timestamps_are_replaced(timestamps, ticks):
    clock = FrameClock(100)
    assert [clock.next(timestamp) for timestamp in timestamps] == ticks


@given(st.lists(st.one_of(st.none(), st.integers(-500, 500)), max_size=30), st.integers(1, 40))
def test_ticks_begin_at_0_and_increase(timestamps, period):
    clock = FrameClock(period)
    ticks = [clock.next(timestamp) for timestamp in timestamps]
    assert ticks[:1] in ([], [0])
    assert all(b > a for a, b in itertools.pairwise(ticks))
    if None not in timestamps and timestamps == sorted(set(timestamps)):
        assert ticks == [timestamp - timestamps[0] for timestamp in timestamps]


@pytest.mark.parametrize("name", ["http:x.mp4", "pipe:0.mp4", "concat:y.mp4", "-i.mp4", "a%02d.mp4"])
def test_a_file_named_like_an_address_is_that_file(tmp_path, monkeypatch, reader, name):
    monkeypatch.chdir(tmp_path)
    grey_video(Path("y.mp4"), 3).rename(name)
    with opened(Path(name)) as video:
        assert len(list(video)) == 3
    for codec in CODECS if reader == "pyav" else ("mp4v",):
        with open_video_writer(Path(f"out-{codec}:{name}"), output(codec=codec)) as writer:
            writer.write(np.zeros((32, 32, 3), np.uint8))
        assert Path(f"out-{codec}:{name}").is_file()


@pytest.mark.parametrize(
    "text", ["ffconcat version 1.0\nfile other.mp4\n", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nother.mp4\n"]
)
def test_a_playlist_named_like_a_video_opens_no_other_file(tmp_path, text):
    pytest.importorskip("av")
    grey_video(tmp_path / "other.mp4", 3)
    (tmp_path / "v.mp4").write_text(text)
    with pytest.raises(SourceError, match=r"v\.mp4: not a video that can be decoded"):
        opened(tmp_path / "v.mp4")


def test_a_disk_that_fails_while_a_video_is_read_is_an_error(tmp_path):
    av = pytest.importorskip("av")
    with opened(grey_video(tmp_path / "v.mp4", 9)) as video:
        packets = video._container.demux(video._stream)  # type: ignore[attr-defined]

        def failing(_: object) -> Iterator[object]:
            for _ in range(4):
                yield next(packets)
            raise av.error.OSError(5, "Input/output error")

        video._container = SimpleNamespace(demux=failing, close=video._container.close)  # type: ignore[attr-defined]
        count = len(list(video))
        assert video.error == f"{tmp_path / 'v.mp4'}: frame {count} cannot be read: Input/output error"


def test_damaged_videos_are_errors_or_frames(tmp_path, reader):
    noise = np.random.default_rng(0).integers(0, 255, (6, 48, 64, 3), dtype=np.uint8)
    whole = write_video(tmp_path / "whole.mp4", list(noise)).read_bytes()
    for seed in range(150):
        random = np.random.default_rng(seed)
        data = bytearray(whole)
        header = data.index(b"moov") if seed % 2 else 0  # sizes, counts and offsets stand there
        for _ in range(random.integers(1, 6)):
            at = int(random.integers(header, len(data)))
            data[at : at + 4] = bytes([data[at] ^ 1 << random.integers(8)]) if seed % 3 else random.bytes(4)
        path = tmp_path / "fuzz.mp4"
        path.write_bytes(data[: random.integers(8, len(data))] if seed % 7 == 0 else data)
        with contextlib.suppress(SourceError), opened(path) as video:
            assert all(b.ticks > a.ticks for a, b in itertools.pairwise(video))


# --- animated images -----------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_an_animated_image_is_read_as_a_video_of_all_its_frames(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    images = [Image.new("RGB", (64, 48), (50 * i, 40, 200 - 40 * i)) for i in range(4)]
    options = {"lossless": True} if suffix == ".webp" else {}
    images[0].save(path, save_all=True, append_images=images[1:], duration=[100, 40, 200, 100], **options)
    assert is_animated_image(path)
    with opened(path) as video:
        frames = list(video)
    assert (video.info.num_frames, video.decoded, video.error) == (4, 4, None)
    assert [frame.time_s for frame in frames] == pytest.approx([0, 0.1, 0.14, 0.34])
    for frame, image in zip(frames, images, strict=True):
        np.testing.assert_array_equal(frame.image, np.asarray(image))
    with opened(path, stride=3) as video:
        assert [(frame.index, round(frame.time_s, 3)) for frame in video] == [(0, 0.0), (3, 0.34)]
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    if is_animated_image(path):
        with opened(path) as video:
            assert len(list(video)) < 4


def test_images_of_one_frame_and_other_files_are_not_animated(tmp_path, log_capture):
    for suffix in (".gif", ".webp", ".png", ".jpg"):
        Image.new("RGB", (9, 9)).save(tmp_path / f"a{suffix}")
        assert not is_animated_image(tmp_path / f"a{suffix}")
    Image.new("RGB", (9, 9)).save(tmp_path / "p.tif", save_all=True, append_images=[Image.new("RGB", (9, 9))] * 2)
    assert not is_animated_image(tmp_path / "p.tif")
    assert "p.tif: the first of 3 pages is used" in log_capture.text
    (tmp_path / "b.gif").write_bytes(b"GIF89a")
    assert not is_animated_image(tmp_path / "b.gif")
    assert not is_animated_image(tmp_path / "missing.gif")
    with pytest.raises(SourceError, match=r"b\.gif: "):
        opened(tmp_path / "b.gif")


def test_varying_times_are_those_of_the_file(tmp_path):
    pytest.importorskip("av")
    times = [0, 40, 200, 210, 500, 540]
    path = h264_video(tmp_path / "v.mp4", [np.zeros((32, 32, 3), np.uint8)] * 6, times_ms=times)
    with opened(path) as video:
        assert [round(1000 * frame.time_s) for frame in video] == times


@pytest.mark.parametrize(("content", "message"), [(b"", "the file is empty"), (b"no video" * 99, "792 bytes")])
def test_a_broken_video_is_named(tmp_path, reader, content, message):
    path = tmp_path / "broken.mp4"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=message):
        opened(path)


def test_an_unknown_codec_is_named(tmp_path, reader):
    pytest.importorskip("av")
    path = h264_video(tmp_path / "v.mp4", [np.zeros((32, 32, 3), np.uint8)] * 3)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(SourceError, match=r"v\.mp4: (unknown codec|not a video that can be decoded)"):
        opened(path)


def test_sound_without_images_is_no_video(tmp_path):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "v.mp4"), "w") as container:
        track = container.add_stream("aac", rate=8000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 8000
        container.mux(track.encode(silence))
        container.mux(track.encode(None))
    with pytest.raises(SourceError, match="found a file with audio only"):
        opened(tmp_path / "v.mp4")


def test_a_file_cut_short_gives_what_it_still_holds(tmp_path, reader):
    pytest.importorskip("av")
    noise = np.random.default_rng(0).integers(0, 255, (20, 64, 64, 3), dtype=np.uint8)
    path = h264_video(tmp_path / "v.mp4", list(noise))  # its index is at the beginning
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with opened(path) as video:
        count = len(list(video))
    assert video.info.num_frames == 20
    assert 5 < count < 15


def test_tags_in_another_encoding_are_no_reason_to_refuse_a_video(tmp_path):
    av = pytest.importorskip("av")
    path = tmp_path / "v.mp4"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "XXXXXXXX"
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    assert b"XXXXXXXX" in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(b"XXXXXXXX", b"\xff\xfe" * 4))
    with opened(path) as video:
        assert len(list(video)) == 1


# --- writing -------------------------------------------------------------------------------------


def test_colors_survive_writing_and_reading(tmp_path, codec, reader):
    color = (220, 30, 40)
    path = write_video(tmp_path / "red.mp4", [np.full((64, 64, 3), color, np.uint8)], codec=codec)
    with opened(path) as video:
        (frame,) = list(video)
    assert np.abs(frame.image.astype(int) - color).max() < 16


def test_large_images_say_which_colors_they_are_in(tmp_path):
    # Unsaid, a player takes 720 rows for BT.709, and this green (BT.601: Y 145) for one with another red and blue.
    pytest.importorskip("av")
    color = (30, 180, 60)
    path = write_video(tmp_path / "v.mp4", [np.full((720, 1280, 3), color, np.uint8)], codec="h264")
    with opened(path) as video:
        assert np.abs(next(iter(video)).image.astype(int) - color).max() < 6


@pytest.mark.parametrize("rate", [25.0, 29.833333, 30000 / 1001, 59.94, 119.881, 0.5])
def test_rates_are_kept_to_a_thousandth(tmp_path, codec, rate):
    path = write_video(tmp_path / "v.mp4", [np.zeros((32, 32, 3), np.uint8)] * 3, rate, codec)
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FPS) == pytest.approx(rate, abs=1.1e-3)


@pytest.mark.parametrize("rate", [Fraction(25), Fraction(30000, 1001), Fraction(179, 6)])
def test_h264_keeps_rates_exactly(tmp_path, rate):
    pytest.importorskip("av")
    with open_video_writer(tmp_path / "v.mp4", output(rate, "h264")) as writer:
        for _ in range(12):
            writer.write(np.zeros((32, 32, 3), np.uint8))
    with opened(tmp_path / "v.mp4") as video:
        assert video.info.fps == rate
        assert [frame.time_s for frame in video] == pytest.approx([float(i / rate) for i in range(12)])


def test_h264_keeps_the_times_of_frames(tmp_path):
    pytest.importorskip("av")
    facts = VideoInfo(Fraction(10), Fraction(1, 1000))
    times = [0, 33, 34, 500, 900, 2000]
    with open_video_writer(tmp_path / "v.mp4", EncoderSettings(facts, "h264")) as writer:
        for time_ms in times:
            writer.write(np.zeros((32, 32, 3), np.uint8), time_ms)
    with opened(tmp_path / "v.mp4") as video:
        assert [round(1000 * frame.time_s) for frame in video] == times


def test_h264_puts_times_that_stand_still_one_tick_apart(tmp_path):
    pytest.importorskip("av")
    with open_video_writer(
        tmp_path / "v.mp4", EncoderSettings(VideoInfo(Fraction(10), Fraction(1, 1000)), "h264")
    ) as writer:
        for time_ms in (0, 100, 100, 50):
            writer.write(np.zeros((32, 32, 3), np.uint8), time_ms)
    with opened(tmp_path / "v.mp4") as video:
        assert [round(1000 * frame.time_s) for frame in video] == [0, 100, 101, 102]


def test_h264_is_what_browsers_play(tmp_path):
    av = pytest.importorskip("av")
    path = write_video(tmp_path / "v.mp4", [np.zeros((32, 48, 3), np.uint8)] * 3, codec="h264")
    with av.open(str(path)) as container:
        (stream,) = container.streams
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat"), "the index comes first, so that it plays while it loads"


@pytest.mark.parametrize(("codec_name", "expected"), [("mp4v", (32, 46, 3)), ("h264", (33, 47, 3))])
def test_odd_sizes_are_exact_as_h264_and_cut_as_mp4v(tmp_path, codec_name, expected):
    if codec_name == "h264":
        pytest.importorskip("av")
    image = np.full((33, 47, 3), (200, 60, 60), np.uint8)
    path = write_video(tmp_path / "v.mp4", [image] * 2, codec=codec_name)
    for frame in frames_of(path):
        assert frame.shape == expected
        assert np.abs(frame.astype(int) - image[0, 0]).max() < 20


def test_frames_of_another_size_keep_their_shape_in_the_first_ones(tmp_path, codec):
    sizes = [(32, 64), (64, 32), (20, 40), (128, 32)]
    path = write_video(tmp_path / "v.mp4", [np.full((*size, 3), 200, np.uint8) for size in sizes], codec=codec)
    frames = frames_of(path)
    assert [frame.shape for frame in frames] == [(32, 64, 3)] * 4
    widths = [int((frame[16].mean(axis=1) > 100).sum()) for frame in frames]
    assert widths == pytest.approx([64, 16, 64, 8], abs=2), "the rest is black"


def test_pixels_that_are_not_square_stay_so(tmp_path):
    pytest.importorskip("av")
    facts = VideoInfo(Fraction(25), Fraction(1, 25), pixel_aspect=Fraction(16, 15))
    with open_video_writer(tmp_path / "v.mp4", EncoderSettings(facts, "h264")) as writer:
        writer.write(np.zeros((32, 32, 3), np.uint8))
    with opened(tmp_path / "v.mp4") as video:
        assert video.info.pixel_aspect == Fraction(16, 15)


def test_sound_is_copied_up_to_the_last_frame(tmp_path):
    av = pytest.importorskip("av")
    images = [np.zeros((32, 32, 3), np.uint8)] * 10  # 0.4 s, and 1.024 s of sound
    source = h264_video(tmp_path / "source.mp4", images, sound=True)
    with opened(source) as video:
        frames = list(video)
        encoder_settings = EncoderSettings(video.info, "h264", audio=source, start_time_s=video.start_time_s)  # type: ignore[attr-defined]
        with open_video_writer(tmp_path / "v.mp4", encoder_settings) as writer:
            for frame in frames:
                writer.write(frame.image, frame.ticks)

    def packets(path: Path) -> list[tuple[float, bytes]]:
        with av.open(str(path)) as container:
            track = container.streams.audio[0]
            assert track.codec_context.name == "aac"
            return [(float(p.pts * p.time_base), bytes(p)) for p in container.demux(track) if p.pts is not None]

    copied, original = packets(tmp_path / "v.mp4"), packets(source)
    expected = [packet for packet in original if 0 <= packet[0] < 0.4]
    assert len(copied) == len(expected) >= 3
    assert [data for _, data in copied] == [data for _, data in expected]
    assert [time for time, _ in copied] == pytest.approx([time for time, _ in expected], abs=2e-3)
    assert len(frames_of(tmp_path / "v.mp4")) == 10


def test_a_killed_recording_leaves_a_video_that_plays(tmp_path):
    pytest.importorskip("av")
    info = VideoInfo(Fraction(10), Fraction(1, 1000))
    with open_video_writer(tmp_path / "v.mp4", EncoderSettings(info, "h264", live=True)) as writer:
        for i in range(50):
            writer.write(np.full((48, 64, 3), 4 * i, np.uint8), 100 * i)
        (part,) = tmp_path.iterdir()
        assert not part.name.startswith("."), "people see it"
        (tmp_path / "killed.mp4").write_bytes(part.read_bytes())
    killed, whole = frames_of(tmp_path / "killed.mp4"), frames_of(tmp_path / "v.mp4")
    assert 20 <= len(killed) < 50
    assert len(whole) == 50
    assert greys(killed) == greys(whole)[: len(killed)]


def test_ctrl_c_leaves_a_video_of_what_was_written(tmp_path, codec):
    def write_three_and_stop() -> None:
        with open_video_writer(tmp_path / "v.mp4", output(codec=codec)) as writer:
            for _ in range(3):
                writer.write(np.zeros((32, 32, 3), np.uint8))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_three_and_stop()
    assert len(frames_of(tmp_path / "v.mp4")) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["v.mp4"], "no temporary file is left"


def test_a_failure_keeps_the_video_that_was_there(tmp_path, codec):
    grey_video(tmp_path / "v.mp4", 2)
    before = (tmp_path / "v.mp4").read_bytes()

    def write_one_and_fail() -> None:
        with open_video_writer(tmp_path / "v.mp4", output(codec=codec)) as writer:
            writer.write(np.zeros((32, 32, 3), np.uint8))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_one_and_fail()
    assert (tmp_path / "v.mp4").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["v.mp4"]


def test_a_video_that_holds_fewer_frames_than_were_written_is_an_error(tmp_path, codec):
    def cut_short(count: int) -> None:
        with open_video_writer(tmp_path / "v.mp4", output(codec=codec)) as writer:
            for _ in range(count):
                writer.write(np.zeros((32, 32, 3), np.uint8))
            writer.written += 1  # what a full disk swallowed

    with pytest.raises(UserError, match="contains 4 of its 5 frames"):
        cut_short(4)
    assert not list(tmp_path.iterdir())


def test_a_video_without_a_frame_is_an_error(tmp_path, codec):
    with (
        pytest.raises(UserError, match="no frames to write"),
        open_video_writer(tmp_path / "v.mp4", output(codec=codec)),
    ):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_reported(tmp_path, monkeypatch):
    pytest.importorskip("av")
    (tmp_path / "full.mp4").symlink_to("/dev/full")
    from cspdet.inference.video.h264_writer import H264Writer

    writer = H264Writer(tmp_path / "full.mp4", output())

    def write_until_the_end() -> None:
        writer.write(np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype=np.uint8))
        writer.finish()

    with pytest.raises(OSError, match="cannot be written"):
        write_until_the_end()


def test_codecs_are_picked_by_what_is_installed(monkeypatch):
    assert select_codec("mp4v") == "mp4v"
    monkeypatch.setattr("cspdet.inference.video.writer.has_pyav", lambda: False)
    assert select_codec("auto") == "mp4v"
    with pytest.raises(ConfigError, match=r"pip install 'cspdet\[video\]'"):
        select_codec("h264")
    monkeypatch.undo()
    pytest.importorskip("av")
    assert select_codec("auto") == select_codec("h264") == "h264"


def test_opencv_reads_where_pyav_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(video_reader, "has_pyav", lambda: False)
    with opened(grey_video(tmp_path / "v.mp4", 2)) as video:
        assert isinstance(video, OpenCvReader)
