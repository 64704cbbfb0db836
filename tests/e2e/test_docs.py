"""What README.md, CONTRIBUTING.md and docs/ promise is there: files, links, commands, flags, make targets."""

from __future__ import annotations

import argparse
import ast
import functools
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from doc_pages import FENCE, GENERATORS, INDENTED, PAGES, ROOT, SCRIPT, SPAN, WORDS_BEFORE

import cspdet
from cspdet.cli.main import COMMAND_SYNONYMS
from cspdet.cli.parser import build_parser

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)|<(?:img|a|source) [^>]*(?:src|href|srcset)=\"([^\"]+)")
HEADING = re.compile(r"^#+\s+(.*?)\s*$", re.MULTILINE)
# Files of the repository as text names them: `configs/csppelee_efm_sam.yaml`, but not `runs/x/best.pt`.
REPOSITORY_FILE = re.compile(
    r"(?<![\w/.<{-])("
    r"(?:cspdet|configs|tools|tests|docs|benchmarks|\.github|\.ci)/[\w./-]*\w"
    r"|data/[\w-]+\.(?:yaml|md))"
)
COMMAND = re.compile(WORDS_BEFORE + r"cspdet ([a-z][a-z-]*)(.*)")
MAKE = re.compile(WORDS_BEFORE + r"make ((?:[a-z][a-z-]*\s*)+)")
FLAG = re.compile(r"(?<=[\s\[(|])--[a-z][a-z-]*")


class Page(NamedTuple):
    """A page as code and prose."""

    path: Path
    prose: str  # without the fenced blocks
    code: list[str]  # lines of code blocks, long ones joined, and inline spans
    python: list[str]  # whole blocks


def read(path: Path) -> Page:
    text = path.read_text(encoding="utf-8")
    blocks = FENCE.findall(text)
    prose = FENCE.sub("", text)
    shell = "\n".join(body.replace("\\\n", " ") for language, body in blocks if language != "python")
    code = [*shell.splitlines(), *INDENTED.findall(prose), *SPAN.findall(prose)]
    return Page(path, prose, code, [body for language, body in blocks if language == "python"])


def commands(page: Page) -> Iterator[tuple[str, str]]:
    """(verb with underscores, rest of the line) of every command line on the page."""
    for line in page.code:
        script = SCRIPT.match(line)
        if script and script.group(1) in GENERATORS:
            continue
        if match := script or COMMAND.match(line):
            yield match.group(1).replace("-", "_"), match.group(2).split(" #")[0]


def anchor(heading: str) -> str:
    """The fragment that a heading gets: lower case, punctuation dropped, hyphens for spaces."""
    return re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-")


def broken_links(page: Page) -> list[str]:
    broken = []
    for target in map("".join, LINK.findall(page.prose)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, fragment = target.partition("#")
        path = (page.path.parent / name) if name else page.path
        if not path.exists():
            broken.append(target)
        elif fragment and path.suffix == ".md":
            headings = HEADING.findall(FENCE.sub("", path.read_text(encoding="utf-8")))
            if fragment not in map(anchor, headings):
                broken.append(target)
    return broken


def missing_files(page: Page) -> list[str]:
    named = {name for line in page.code for name in REPOSITORY_FILE.findall(line)}
    return sorted(name for name in named if not (ROOT / name).exists())


def unknown_verbs(page: Page) -> list[str]:
    other_names = {"help", *COMMAND_SYNONYMS}
    return [
        verb for verb, _ in commands(page) if verb not in other_names and not (ROOT / f"cspdet/cli/{verb}.py").exists()
    ]


@functools.cache
def flags_of(verb: str) -> frozenset[str]:
    """What the command takes, subcommands included, as its own parser says; empty for a verb that is not there."""
    if not (ROOT / f"cspdet/cli/{verb}.py").exists():
        return frozenset()
    parser = build_parser(verb.replace("_", "-"), importlib.import_module(f"cspdet.cli.{verb}"))
    parsers: list[argparse.ArgumentParser] = [parser]
    for action in parser._actions:
        if isinstance(action.choices, dict):  # of subcommands
            parsers += action.choices.values()
    return frozenset(flag for each in parsers for action in each._actions for flag in action.option_strings)


def unknown_flags(page: Page) -> list[str]:
    return [
        f"{verb} {flag}"
        for verb, rest in commands(page)
        for flag in FLAG.findall(rest)
        if flags_of(verb) and flag not in flags_of(verb)
    ]


def unknown_targets(page: Page) -> list[str]:
    phony = re.search(r"^\.PHONY:(.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert phony is not None
    named = {word for line in page.code if (found := MAKE.match(line)) for word in found.group(1).split()}
    return sorted(named - set(phony.group(1).split()))


def unknown_names(page: Page) -> list[str]:
    taken = [
        alias.name
        for block in page.python
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.ImportFrom) and node.module == "cspdet"
        for alias in node.names
    ]
    return [name for name in taken if name not in cspdet.__all__]


CHECKS = [broken_links, missing_files, unknown_verbs, unknown_flags, unknown_targets, unknown_names]


@pytest.mark.parametrize("page", [read(path) for path in PAGES], ids=lambda page: str(page.path.relative_to(ROOT)))
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_pages_keep_their_promises(page, check):
    assert check(page) == []


def test_the_pages_are_there():
    pages = {path.relative_to(ROOT).as_posix(): path for path in PAGES}
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md"} <= pages.keys()
    assert list(commands(read(pages["README.md"]))), "README.md shows commands"


def test_the_checks_object(tmp_path):
    text = """
# One heading, `coded`

[gone](gone.md) [gone too](#another-heading) [fine](#one-heading-coded) [elsewhere](https://example.org/x)
<a href="https://example.org"><img alt="x" src="gone.png"></a>
`configs/no_such_model.yaml` is not there; `configs/<name>.yaml` is a pattern, `runs/x/best.pt` is yours.

```sh
$ .venv/bin/cspdet trian configs/x.yaml
cspdet eval MODEL --min-score 0.1 \\
    [--no-such-flag 3]   # --not-a-flag
make tset
```

    python tools/prepare_data.py shapes --ouput DIR

```python
from cspdet import load_detector, load_detektor
```
"""
    (tmp_path / "page.md").write_text(text, encoding="utf-8")
    page = read(tmp_path / "page.md")
    assert broken_links(page) == ["gone.md", "#another-heading", "gone.png"]
    assert missing_files(page) == ["configs/no_such_model.yaml", "configs/x.yaml"]
    assert unknown_verbs(page) == ["trian"]
    assert unknown_flags(page) == ["eval --no-such-flag", "prepare_data --ouput"]
    assert unknown_targets(page) == ["tset"]
    assert unknown_names(page) == ["load_detektor"]
