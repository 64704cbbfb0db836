"""What a source may be, the errors for what is none, and the folder that a run gets."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cspdet.errors import SourceError, UserError
from cspdet.inference.sources import ImageFile, Video, find_sources
from cspdet.io.folders import increment_path


def names(text: str | Path) -> list[str]:
    return [source.name.as_posix() for source in find_sources(str(text))]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b.JPG", "a.png", "sub/c.webp", "sub/clip.mp4", "notes.txt", ".hidden.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def test_a_folder_gives_its_images_and_videos_with_their_subfolders(tree):
    assert names(tree) == ["a.png", "b.JPG", "sub/c.webp", "sub/clip.mp4"]


def test_a_glob_gives_names_below_the_common_folder_of_its_matches(tree):
    assert names(f"{tree}/*") == ["a.png", "b.JPG"]
    assert names(f"{tree}/sub/c*") == ["c.webp", "clip.mp4"]
    assert names(f"{tree}/**/*.[wp]*") == ["a.png", "sub/c.webp"]


def test_single_files_cameras_and_streams(tree, monkeypatch):
    assert find_sources(str(tree / "a.png")) == [ImageFile(tree / "a.png", Path("a.png"))]
    assert find_sources(str(tree / "sub/clip.mp4")) == [Video(tree / "sub/clip.mp4", Path("clip.mp4"))]
    monkeypatch.chdir(tree)
    assert find_sources("0") == [Video(0, Path("camera-0.mp4"))]
    assert find_sources("rtsp://host/1?a=b") == [Video("rtsp://host/1?a=b", Path("stream.mp4"))]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tmp_path):
    (tmp_path / "x[1].png").write_bytes(b"x")
    assert names(tmp_path / "x[1].png") == ["x[1].png"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("notes.tx", "no such image, video or folder (did you mean 'notes.txt'?)"),
        ("notes.txt", "found the suffix '.txt'"),
        ("*.tif", "no file matches"),
        ("*.txt", "of its 1 matches none is an image"),
        ("empty", "no image or video in this folder"),
    ],
)
def test_what_is_no_source_is_named_with_the_reason(tree, text, message):
    (tree / "empty").mkdir()
    with pytest.raises(SourceError) as caught:
        find_sources(str(tree / text))
    assert str(tree / text) in str(caught.value)
    assert message in str(caught.value)


def test_links_are_followed_once_in_folders_and_globs(tree, tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    (store / "far.png").write_bytes(b"x")
    (tree / "pics").symlink_to(store)
    for name in ("sub/up", "sub/again", "loop"):
        (tree / name).symlink_to(tree)
    expected = ["a.png", "b.JPG", "sub/c.webp", "sub/clip.mp4", "pics/far.png"]
    assert sorted(names(tree)) == sorted(expected)
    assert sorted(names(f"{tree}/**")) == sorted(expected)
    assert names(f"{tree}/**/*.png") == ["a.png", "pics/far.png"]
    assert names(f"{tree}/**/sub/c*") == ["c.webp", "clip.mp4"]
    assert names(f"{tree}/*/far.png") == ["far.png"]


def test_what_a_folder_has_beside_images_and_videos_is_counted(tree, caplog):
    os.mkfifo(tree / "pipe.jpg")
    (tree / "a.heic").write_bytes(b"x")
    assert len(names(tree)) == 4
    assert [record.getMessage().removeprefix(f"{tree}: ") for record in caplog.records] == [
        "files with other suffixes skipped: .heic 1, .txt 1",
        "hidden files and folders skipped: 1: .hidden.jpg",
        "named pipes, sockets and devices skipped: 1: pipe.jpg",
    ]


def test_a_name_that_is_not_utf_8_is_found(tmp_path):
    raw = os.fsencode(tmp_path) + b"/stra\xdfe.jpg"
    with open(raw, "wb"):
        pass
    for text in (str(tmp_path), f"{tmp_path}/*.jpg", f"{tmp_path}/**/s*", os.fsdecode(raw)):
        (source,) = find_sources(text)
        assert os.fsencode(str(source)) == raw


def test_a_pipe_is_named_as_what_it_is(tmp_path):
    os.mkfifo(tmp_path / "v.mp4")
    with pytest.raises(SourceError, match=r"v\.mp4: expected a file, found a named pipe"):
        find_sources(str(tmp_path / "v.mp4"))


def test_free_folders_count_up_and_take_empty_ones(tmp_path):
    base = tmp_path / "runs" / "detect"
    first = increment_path(base)
    assert first == base
    assert increment_path(base) == base, "nothing was written into it"
    (first / "x").touch()
    (tmp_path / "runs" / "detect-2").touch()
    assert increment_path(base).name == "detect-3"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot be made"):
        increment_path(tmp_path / "x")
