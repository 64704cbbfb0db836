"""YAML files that nobody wrote by hand: every config is read, or refused in one line, in no time."""

from __future__ import annotations

import codecs
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cspdet.config.read import parse_yaml, read_yaml
from cspdet.errors import ConfigError

LAUGHS = "l0: &l0 [a, a]\n" + "".join(f"l{i}: &l{i} [*l{i - 1}, *l{i - 1}]\n" for i in range(1, 40))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "x: more than 100,000 values, with those that aliases repeat"),
        ("a: " + "[" * 20000 + "]" * 20000, "nested too deeply"),
        ("a: " + "9" * 1_000_000, "x: not valid YAML"),
        ("a: 0x" + "f" * 1_000_000, "x:1: a: a number of too many digits"),
        ("a: !!bool maybe", "x: not valid YAML"),
        ("a: !!timestamp x", "x:1: not valid YAML"),
        ("- " * 20000 + "a", "nested too deeply"),
        ("a: !!int x", "x: not valid YAML"),
        ("a: !nobody x", "is not a plain YAML value"),
        ("a: !!set {b}", "is not a plain YAML value"),
        ("a: \x07", "x: not valid YAML"),
    ],
)
def test_yaml_that_would_grow_or_is_no_plain_value_is_refused(text, message):
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "x")
    (problem,) = caught.value.problems
    assert message in problem
    assert len(problem) < 300


def test_an_alias_is_the_last_anchor_of_its_name():
    assert parse_yaml("a: &x [1]\nb: &x [2]\nc: *x", "f")[0] == {"a": [1], "b": [2], "c": [2]}


def test_a_config_may_have_a_byte_order_mark_and_is_no_other_encoding(tmp_path):
    path = tmp_path / "x.yaml"
    for mark, encoding in ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le")):
        path.write_bytes(mark + "name: café\r\n".encode(encoding))
        assert read_yaml(path)[0] == {"name": "café"}
    path.write_bytes("a: b\nname: café\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"x\.yaml:2: not UTF-8 text"):
        read_yaml(path)


tokens = st.sampled_from(
    ["a", ":", " ", "\n", "- ", "[", "]", "{", "}", "&a", "*a", "!!int", "!!x", "<<", "|", ">", "'", '"', "#", "?", "%",
     "---", "...", "1e999", "0x", "\t", ",", "é", "~"]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(text=st.lists(tokens, max_size=25).map("".join))
def test_any_text_is_plain_values_or_one_line(text):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.yaml")
        path.write_text(text, encoding="utf-8")
        try:
            values, _ = read_yaml(path)
        except ConfigError as error:
            (line,) = error.problems
            assert line.startswith(str(path))
            assert "\n" not in line
        else:
            assert values is not None
