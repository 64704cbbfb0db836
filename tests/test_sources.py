"""What a source may be, the errors for what is none, and videos read and written frame by frame."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from cspdet.errors import SourceError, UserError
from cspdet.folders import free_folder
from cspdet.inference.sources import PictureFile, Video, VideoReader, find_sources
from cspdet.inference.video_writer import video_writer


def make_video(path: Path, frames: int, rate: float = 10.0, size_hw: tuple[int, int] = (48, 64)) -> Path:
    """A video whose n-th frame is grey of 10 n."""
    with video_writer(path, rate) as writer:
        for i in range(frames):
            writer.write(np.full((*size_hw, 3), 10 * i % 250, np.uint8))
    return path


def names(text: str | Path) -> list[str]:
    return [source.name.as_posix() for source in find_sources(str(text))]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b.JPG", "a.png", "sub/c.webp", "sub/clip.mp4", "notes.txt", ".hidden.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def test_a_folder_gives_its_pictures_and_videos_with_their_subfolders(tree):
    assert names(tree) == ["a.png", "b.JPG", "sub/c.webp", "sub/clip.mp4"]


def test_a_glob_gives_names_below_the_folder_that_its_matches_share(tree):
    assert names(f"{tree}/*") == ["a.png", "b.JPG"]
    assert names(f"{tree}/sub/c*") == ["c.webp", "clip.mp4"]
    assert names(f"{tree}/**/*.[wp]*") == ["a.png", "sub/c.webp"]


def test_single_files_cameras_and_streams(tree, monkeypatch):
    assert find_sources(str(tree / "a.png")) == [PictureFile(tree / "a.png", Path("a.png"))]
    assert find_sources(str(tree / "sub/clip.mp4")) == [Video(tree / "sub/clip.mp4", Path("clip.mp4"))]
    monkeypatch.chdir(tree)
    assert find_sources("0") == [Video(0, Path("camera-0.mp4"))]
    assert find_sources("rtsp://host/1?a=b") == [Video("rtsp://host/1?a=b", Path("stream.mp4"))]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tmp_path):
    (tmp_path / "x[1].png").write_bytes(b"x")
    assert names(tmp_path / "x[1].png") == ["x[1].png"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("notes.tx", "no such picture, video or folder (did you mean 'notes.txt'?)"),
        ("notes.txt", "found the suffix '.txt'"),
        ("*.tif", "no file matches"),
        ("*.txt", "of its 1 matches none is a picture"),
        ("empty", "no picture or video in this folder"),
    ],
)
def test_what_is_no_source_is_named_with_the_reason(tree, text, told):
    (tree / "empty").mkdir()
    with pytest.raises(SourceError) as caught:
        find_sources(str(tree / text))
    assert str(tree / text) in str(caught.value)
    assert told in str(caught.value)


def test_a_video_is_read_frame_by_frame_as_it_was_written(tmp_path):
    path = make_video(tmp_path / "v.mp4", 7, rate=12.5)
    with VideoReader(Video(path, Path("v.mp4"))) as reader:
        frames = list(reader)
    assert (reader.declared, reader.rate, reader.live, reader.decoded) == (7, 12.5, False, 7)
    assert [frame.number for frame in frames] == list(range(7))
    assert frames[5].time_s == pytest.approx(5 / 12.5)
    assert [round(float(frame.image.mean()) / 10) for frame in frames] == list(range(7))
    assert frames[0].image.shape == (48, 64, 3)


def test_colors_survive_writing_and_reading(tmp_path):
    with video_writer(tmp_path / "red.mp4", 25) as writer:
        writer.write(np.full((64, 64, 3), (220, 30, 40), np.uint8))
    with VideoReader(Video(tmp_path / "red.mp4", Path("red.mp4"))) as reader:
        (frame,) = list(reader)
    assert np.abs(frame.image.astype(int) - (220, 30, 40)).max() < 16


@pytest.mark.parametrize("rate", [25.0, 29.833333, 30000 / 1001, 59.94, 119.881, 0.5])
def test_rates_are_kept_to_a_thousandth(tmp_path, rate):
    make_video(tmp_path / "v.mp4", 3, rate)
    capture = cv2.VideoCapture(str(tmp_path / "v.mp4"))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(rate, abs=1.1e-3)


def test_ctrl_c_leaves_a_video_of_what_was_written(tmp_path):
    def write_three_and_stop() -> None:
        with video_writer(tmp_path / "v.mp4", 25) as writer:
            for _ in range(3):
                writer.write(np.zeros((32, 32, 3), np.uint8))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_three_and_stop()
    with VideoReader(Video(tmp_path / "v.mp4", Path("v.mp4"))) as reader:
        assert len(list(reader)) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["v.mp4"], "no temporary file is left"


def test_a_failure_keeps_the_video_that_was_there(tmp_path):
    make_video(tmp_path / "v.mp4", 2)
    before = (tmp_path / "v.mp4").read_bytes()

    def write_one_and_fail() -> None:
        with video_writer(tmp_path / "v.mp4", 25) as writer:
            writer.write(np.zeros((32, 32, 3), np.uint8))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_one_and_fail()
    assert (tmp_path / "v.mp4").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["v.mp4"]


def test_a_video_that_holds_fewer_frames_than_were_written_is_an_error(tmp_path, monkeypatch):
    def cut_short(count: int) -> None:
        with video_writer(tmp_path / "v.mp4", 25) as writer:
            for _ in range(count):
                writer.write(np.zeros((32, 32, 3), np.uint8))
            writer.written += 1  # what a full disk swallowed

    with pytest.raises(UserError, match="holds 4 of its 5 frames"):
        cut_short(4)
    assert not list(tmp_path.iterdir())


def test_odd_sizes_lose_their_last_row_and_column(tmp_path):
    make_video(tmp_path / "v.mp4", 2, size_hw=(33, 47))
    with VideoReader(Video(tmp_path / "v.mp4", Path("v.mp4"))) as reader:
        assert next(iter(reader)).image.shape == (32, 46, 3)


@pytest.mark.parametrize(("content", "told"), [(b"", "the file is empty"), (b"no video" * 99, "792 bytes")])
def test_a_broken_video_is_named(tmp_path, content, told):
    path = tmp_path / "broken.mp4"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=told):
        VideoReader(Video(path, Path("broken.mp4")))


def test_free_folders_count_up_and_take_empty_ones(tmp_path):
    base = tmp_path / "runs" / "detect"
    first = free_folder(base)
    assert first == base
    assert free_folder(base) == base, "nothing was written into it"
    (first / "x").touch()
    (tmp_path / "runs" / "detect-2").touch()
    assert free_folder(base).name == "detect-3"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot be made"):
        free_folder(tmp_path / "x")
