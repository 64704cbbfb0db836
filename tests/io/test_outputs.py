"""Which files a command may write, and what stays of the earlier ones."""

from __future__ import annotations

import os
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from cspdet.datasets.image_io import read_image
from cspdet.errors import UnwritableFileError, UserError
from cspdet.inference.marks import mark_image
from cspdet.io.atomic import fit_name, temp_path, write_bytes
from cspdet.io.line_file import LineFile
from cspdet.io.lock_file import open_lock_file
from cspdet.io.outputs import ANNOTATED, EXPORTED, IMPORTED, PLOT, OutputFile, check_outputs, has_mark

OWN = re.compile(rb"\Aown")


def problems(*outputs: OutputFile, inputs: tuple[str | Path | None, ...] = ()) -> tuple[str, ...]:
    try:
        check_outputs(outputs, inputs)
    except UserError as error:
        return error.problems
    return ()


def test_a_file_is_replaced_only_if_cspdet_wrote_it(tmp_path):
    for name, text in {"own": "own result", "empty": "", "user": "not own"}.items():
        (tmp_path / name).write_text(text)
    names = ("new", "deep/er/new", "own", "empty", "user")
    assert problems(*(OutputFile(tmp_path / name, OWN) for name in names)) == (
        f"{tmp_path}/user: exists, and cspdet did not write it; it is kept: expected another output",
    )
    assert not (tmp_path / "deep").exists()
    assert problems(OutputFile(tmp_path / "user", None)) == ()


def test_files_written_together_are_replaced_together(tmp_path):
    first, second = tmp_path / "x.xml", tmp_path / "x.bin"
    output = OutputFile(first, OWN, (second,))
    second.write_text("the user's")
    assert problems(output)[0].startswith(f"{second}: exists")
    first.write_text("own")
    assert problems(output) == ()


@pytest.mark.parametrize(
    "name", ["result", "./result", "sub/../result", "link", "hard", "folder/result", "sub/up/result"]
)
def test_an_input_is_recognized_by_every_name(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("result").write_text("own")
    Path("sub").mkdir()
    Path("link").symlink_to("result")
    os.link("result", "hard")
    Path("folder").symlink_to(".")
    Path("sub/up").symlink_to(tmp_path)
    (problem,) = problems(OutputFile(Path(name), OWN), inputs=(None, "missing", tmp_path / "result"))
    assert problem == f"{Path(name)}: is an input of this command; it is kept: expected another output"


def test_two_outputs_need_two_files(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    (problem,) = problems(OutputFile(tmp_path / "x", OWN), OutputFile(tmp_path / "link/x", OWN))
    assert "link/x: is named for two outputs" in problem


def test_what_cannot_be_written_is_found_before(tmp_path):
    (tmp_path / "file").write_text("own")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    paths = [tmp_path / name for name in ("file/x", "file/deep/x", "folder", "pipe", "n" * 256)]
    found = problems(*(OutputFile(path, OWN) for path in paths))
    assert len(found) == len(paths)
    assert all("cannot be written: " in problem for problem in found)
    assert problems(*(OutputFile(path, OWN, is_one_of_many=True) for path in paths)) == ()


def test_lines_replace_an_earlier_file_at_the_end(tmp_path):
    path = tmp_path / "lines"
    writer = LineFile(path)
    assert not path.exists(), "nothing is opened before `open` or the first line"
    writer.write(["a", "b"])
    assert path.read_text() == "a\nb\n", "a new file can be read while it grows"
    writer.close()

    writer = LineFile(path)
    writer.write(["c"])
    assert (path.read_text(), writer.current_path.read_text()) == ("a\nb\n", "c\n")
    writer.close(failed=True)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("lines", "a\nb\n")]

    writer = LineFile(path)
    for open_first in (False, True):
        if open_first:
            writer.open()
        writer.close()
        assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("lines", "a\nb\n")], "no lines"
    writer.write(["d"])
    writer.close()
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("lines", "d\n")]


def test_a_new_file_without_lines_is_kept_if_the_run_succeeds(tmp_path):
    for failed, names in ((True, []), (False, ["lines"])):
        writer = LineFile(tmp_path / "lines")
        writer.open()
        writer.close(failed=failed)
        assert [file.name for file in tmp_path.iterdir()] == names


def test_nothing_is_written_through_a_link(tmp_path):
    victim, link = tmp_path / "victim", tmp_path / "link"
    victim.write_text("the user's")
    for write in (lambda: write_bytes(link, b"new"), lambda: _write_line(link), lambda: _write_through_temp(link)):
        link.unlink(missing_ok=True)
        link.symlink_to(victim)
        write()
        assert victim.read_text() == "the user's"
        assert link.read_text().strip() == "new"
    link.unlink()
    link.symlink_to(victim)
    with pytest.raises(OSError, match="symbolic link"):
        open_lock_file(link)
    with pytest.raises(OSError, match="another file"):
        open_lock_file(victim)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").touch()
    os.link(tmp_path / "empty", tmp_path / "second-name")
    for name in ("pipe", "second-name"):
        with pytest.raises(OSError, match="another file"):
            open_lock_file(tmp_path / name)
    with open_lock_file(tmp_path / "lock", re.compile(b"(mine)?")) as file:
        file.write(b"mine")
    with open_lock_file(tmp_path / "lock", re.compile(b"(mine)?")) as file:
        assert file.read() == b"mine"
    assert victim.read_text() == "the user's"


def _write_line(path: Path) -> None:
    writer = LineFile(path)
    writer.write(["new"])
    writer.close()


def _write_through_temp(path: Path) -> None:
    """The temporary name is a link to a file of the user."""
    temp_path(path).symlink_to(path.with_name("victim"))
    write_bytes(path, b"new")


def test_the_longest_names_are_written(tmp_path):
    for name in ("n" * 251 + ".jpg", "n" * 255, "ä" * 125 + ".jpeg", "a." + "s" * 253):
        write_bytes(tmp_path / name, b"x")
        assert (tmp_path / name).read_bytes() == b"x"
    with pytest.raises(UnwritableFileError, match="File name too long"):
        write_bytes(tmp_path / ("n" * 256), b"x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UnwritableFileError, match="Is a directory"):
        write_bytes(tmp_path / "folder", b"x")
    assert len(list(tmp_path.iterdir())) == 5
    assert fit_name("ä" * 200, "-2.jpg") == "ä" * 124 + "-2.jpg"
    assert fit_name("short", ".jpg") == "short.jpg"


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tif"])
def test_marked_images_hold_the_same_pixels(suffix, tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)
    data = cv2.imencode(suffix, image)[1].tobytes()
    for name, content in {"plain": data, "marked": mark_image(data)}.items():
        (tmp_path / f"{name}{suffix}").write_bytes(content)
    plain, marked = tmp_path / f"plain{suffix}", tmp_path / f"marked{suffix}"
    assert np.array_equal(read_image(plain), read_image(marked))
    assert (has_mark(plain, ANNOTATED), has_mark(marked, ANNOTATED)) == (False, True)


@pytest.mark.parametrize("exists", [False, True])
def test_a_second_run_cannot_write_the_lines_of_the_first(tmp_path, exists):
    path = tmp_path / "detections.jsonl"
    if exists:
        path.write_text("earlier\n")
    first, second = LineFile(path), LineFile(path)
    first.write(["first"])
    with pytest.raises(UserError, match="another run writes this file"):
        second.open()
    second.close(failed=True)
    first.close()
    assert path.read_text() == "first\n"
    third = LineFile(path)
    third.write(["third"])
    third.close()
    assert path.read_text() == "third\n"


@pytest.mark.parametrize("mark", [EXPORTED, IMPORTED, PLOT])
@pytest.mark.parametrize("text", ["/home/me/cspdet/models/head.py", "data: import-darknet/coco.yaml", "cspdet 2"])
def test_a_path_or_word_in_a_file_of_the_user_is_no_mark(tmp_path, mark, text):
    path = tmp_path / "file"
    path.write_text(f"<x>{text}</x> made with cspdet")
    assert not has_mark(path, mark)
