"""docs/explanation/architecture.md: its drawing follows from the imports, and it names every file of the package."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from paper import architecture

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/explanation/architecture.md").read_text(encoding="utf-8")
FILE = re.compile(r"`(?!tests/)(?:cspdet/)?([\w/]+\.py)`")


def test_the_drawing_is_that_of_the_imports():
    drawing = (ROOT / "docs/packages.svg").read_text(encoding="utf-8")
    assert drawing == architecture.draw(architecture.package_graph()), "run python tools/paper/architecture.py"


def test_the_page_names_every_file():
    listed = architecture.with_file_list(PAGE)
    assert re.findall(r"^(?:### |- `\w+\.py`)", PAGE, re.MULTILINE) == re.findall(
        r"^(?:### |- `\w+\.py`)", listed, re.MULTILINE
    ), "run python tools/paper/architecture.py"


def test_files_in_the_text_exist():
    text = PAGE[: PAGE.index(architecture.FILES_HEADING)]
    names = {path.relative_to(ROOT / "cspdet").as_posix() for path in (ROOT / "cspdet").rglob("*.py")}
    named = set(FILE.findall(text))
    assert len(named) > 40
    assert [name for name in sorted(named) if not any(f"/{known}".endswith(f"/{name}") for known in names)] == []


def test_levels_and_direct_edges():
    graph = {"a": set(), "b": {"a"}, "c": {"a", "b"}, "d": {"a"}}
    assert architecture.levels(graph) == {"a": 0, "b": 1, "c": 2, "d": 1}
    assert architecture.direct_edges(graph) == [("b", "a"), ("c", "b"), ("d", "a")]  # c -> a follows from c -> b -> a


def test_a_circle_is_an_error():
    with pytest.raises(ValueError, match="circle among a, b"):
        architecture.levels({"a": {"b"}, "b": {"a"}, "c": set()})
