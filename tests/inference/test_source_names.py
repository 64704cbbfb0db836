"""Sources with unusual names: home folders, file URLs, several at once, and files that are called like an address."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from video_data import write_video

from cspdet.errors import SourceError
from cspdet.inference.sources import ImageFile, Video, find_all_sources, find_sources
from cspdet.inference.video.reader import OpenCvReader, has_pyav, open_capture, open_video_file


def test_home_folders_and_file_urls(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    image = tmp_path / "a b.png"
    image.touch()
    for text in ("~/a b.png", "~/*.png", image.as_uri(), f"FILE://{tmp_path}/a%20b.png"):
        assert find_sources(text) == [ImageFile(image, Path("a b.png"))], text
    for text in ("~nosuchuser/a.png", "file:///nosuchfolder/a.png"):
        with pytest.raises(SourceError, match="no such image"):
            find_sources(text)


def test_several_sources_keep_their_order_and_are_taken_once(tmp_path):
    for name in ("b.png", "a.png", "c.mp4"):
        (tmp_path / name).touch()
    texts = [str(tmp_path / "b.png"), str(tmp_path), f"{tmp_path}/./a.png"]
    assert [source.name.name for source in find_all_sources(texts)] == ["b.png", "a.png", "c.mp4"]
    with pytest.raises(SourceError, match="camera 0: expected a camera as the only source, found 4 sources"):
        find_all_sources(["0", *texts])


@pytest.mark.parametrize("name", ["http:x.mp4", "pipe:0.mp4", "concat:y.mp4", "subfile,,start,0,end,9,,:y.mp4"])
def test_a_file_that_is_called_like_an_address_is_read_as_a_file(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video(Path("y.mp4"), (np.full((64, 96, 3), i, np.uint8) for i in range(3)), 12.5)
    video = Video(Path(name), Path(name))
    Path(name).write_text("no video", encoding="ascii")
    for open_ in (open_video_file, open_capture) if has_pyav() else (open_capture,):
        with pytest.raises(SourceError, match="not a video"):
            open_(video)
    Path("y.mp4").rename(name)
    with open_video_file(video) as reader, OpenCvReader(video, open_capture(video)) as other:
        assert [frame.index for frame in reader] == [frame.index for frame in other] == [0, 1, 2]
