"""The search for files: every folder once, whatever the links; everything else is counted."""

from __future__ import annotations

import os
import socket
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cspdet.io.walk import find_files

SUFFIXES = {".jpg", ".png"}


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_files_of_a_folder_come_before_those_of_its_subfolders(tmp_path):
    touch(tmp_path, "b.JPG", "a/z.png", "a/b/c.jpg", "z.jpg", "a.b/x.jpg", "notes.TXT", "a/x.txt", "README")
    found = find_files(tmp_path, SUFFIXES)
    assert found.names == ["b.JPG", "z.jpg", "a/z.png", "a/b/c.jpg", "a.b/x.jpg"]
    assert found.other_suffixes == ["README", "a/x.txt", "notes.TXT"]
    assert found.skipped() == ["files with other suffixes skipped: .txt 2, none 1"]
    assert found.skipped((".txt", "none")) == []


def test_links_are_followed_and_circles_end(tmp_path):
    touch(tmp_path / "store", "1.jpg", "deep/2.jpg")
    root = tmp_path / "set"
    touch(root, "real/3.jpg")
    for name, target in (
        ("again", "."), ("a_link", "real"), ("out", "../store"), ("out2", "../store"), ("real/up", ".."),
        ("self", "self"), ("gone.jpg", "nowhere"), ("4.jpg", "../store/1.jpg"),
    ):  # fmt: skip
        (root / name).symlink_to(target)
    found = find_files(root, SUFFIXES)
    assert found.names == ["4.jpg", "gone.jpg", "out/1.jpg", "out/deep/2.jpg", "real/3.jpg"]
    assert sorted(found.repeated) == ["a_link", "again", "out2", "real/up"]
    assert "links to folders that were already read skipped: 4: " in found.skipped()[-1]


def test_special_and_hidden_files_are_counted_and_not_opened(tmp_path):
    touch(tmp_path, ".git/1.jpg", "._a.jpg", ".DS_Store", "a.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.jpg"))
        found = find_files(tmp_path, SUFFIXES)
    assert found.names == ["a.jpg"]
    assert found.hidden == ["._a.jpg", ".git"]
    assert found.special == ["pipe.jpg", "socket.jpg"]
    assert found.other_suffixes == []


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        find_files(tmp_path / "none", SUFFIXES)


parts = st.binary(min_size=1, max_size=6).filter(lambda name: not set(name) & set(b"\0/") and not name.startswith(b"."))
trees = st.lists(
    st.tuples(st.integers(0, 9), parts, st.sampled_from(["folder", "file", "link"]), st.integers(0, 9)), max_size=14
)


@settings(max_examples=300, deadline=None)
@given(tree=trees)
def test_in_any_tree_of_folders_and_links_every_file_is_found_once(tree):
    """Links point to folders of the tree, and so make circles; files are counted by their real paths."""
    with tempfile.TemporaryDirectory() as name:
        folders, files = [os.fsencode(name)], set()
        for at, part, kind, target in tree:
            parent = folders[at % len(folders)]
            path = os.path.join(parent, part + (b".jpg" if kind == "file" else b""))
            if os.path.lexists(path):
                continue
            if kind == "folder":
                os.mkdir(path)
                folders.append(path)
            elif kind == "file":
                with open(path, "wb"):
                    files.add(os.path.realpath(path))
            else:
                os.symlink(folders[target % len(folders)], path)
        found = find_files(name, SUFFIXES)
        places = Counter(os.path.realpath(os.path.join(os.fsencode(name), os.fsencode(file))) for file in found.names)
        assert places == Counter(dict.fromkeys(files, 1))
