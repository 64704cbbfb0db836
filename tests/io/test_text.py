"""Text files in any encoding: read exactly, or refused in one line with the place; special files never block."""

from __future__ import annotations

import codecs
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cspdet.errors import ConfigError, DataError
from cspdet.io.atomic import write_text
from cspdet.io.text import decode_text, is_text, open_file, read_lines, read_text

MARKS = {"utf-8": codecs.BOM_UTF8, "utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE,
         "utf-32-le": codecs.BOM_UTF32_LE, "utf-32-be": codecs.BOM_UTF32_BE}  # fmt: skip
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\ufeff"))


@settings(max_examples=300, deadline=None)
@given(text=texts, encoding=st.sampled_from(sorted(MARKS)), line_end=st.sampled_from(["\n", "\r\n", "\r"]))
def test_text_with_a_byte_order_mark_is_read_in_its_encoding(text, encoding, line_end):
    assert decode_text(MARKS[encoding] + text.replace("\n", line_end).encode(encoding), "x") == text


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=60))
def test_any_bytes_are_read_or_refused_with_their_line(data):
    try:
        text = decode_text(data, "labels.txt")
    except DataError as error:
        (line,) = error.problems
        assert line.startswith("labels.txt:")
        assert line.split(":")[1].isdecimal()
        assert "UTF-8" in line
    else:
        assert is_text(text)


@settings(max_examples=300, deadline=None)
@given(name=st.binary(min_size=1, max_size=30).filter(lambda name: not set(name) & set(b"\0\r\n")))
def test_a_list_of_paths_keeps_the_bytes_of_a_name(name):
    if any(name.startswith(mark) for mark in MARKS.values()):
        return
    assert os.fsencode(decode_text(name, "list.txt", lists_paths=True)) == name


def test_each_code_page_is_refused_with_the_line_and_the_way_out():
    for encoding, name in (("cp1252", "café"), ("gbk", "猫狗"), ("shift_jis", "猫"), ("latin-1", "straße")):
        with pytest.raises(ConfigError, match=r"^classes.txt:2: not UTF-8 text: found the byte 0x..; .*convert"):
            decode_text(f"dog\n{name}\n".encode(encoding), "classes.txt", error=ConfigError)
    with pytest.raises(DataError, match=r"^classes.txt:1: not text: found a NUL byte"):
        decode_text("dog\n".encode("utf-16-le"), "classes.txt")
    with pytest.raises(DataError, match=r"^classes.txt:2: not UTF-16-LE text"):
        decode_text(codecs.BOM_UTF16_LE + "a\n".encode("utf-16-le") + b"x", "classes.txt")


def test_lines_end_only_where_lines_end(tmp_path):
    (tmp_path / "names").write_bytes("\ufeffa\u2028b\x0bc\r\nd e \r\n\n".encode())
    assert read_lines(tmp_path / "names") == ["a\u2028b\x0bc", "d e "]


def test_files_that_are_not_regular_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, reason in (
        (tmp_path / "pipe", "named pipe"), (Path("/dev/zero"), "device"), (tmp_path, "is a folder"),
        (tmp_path / "none", "no such file"), (tmp_path / "a\0b", "no such file"), (tmp_path / ("n" * 300), "too long"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=reason):
            read_text(path)
        with pytest.raises(OSError):
            open_file(path)


def test_a_file_above_the_limit_is_refused(tmp_path):
    (tmp_path / "x").write_bytes(b"a" * 11)
    assert read_text(tmp_path / "x", max_bytes=11) == "a" * 11
    with pytest.raises(DataError, match="expected at most 10 bytes, found more"):
        read_text(tmp_path / "x", max_bytes=10)


def test_a_written_lone_surrogate_is_its_escape():
    with tempfile.TemporaryDirectory() as folder:
        write_text(Path(folder, "x.json"), '"stra\udcdfe"')
        assert Path(folder, "x.json").read_bytes() == b'"stra\\udcdfe"'
