"""The hooks of the documentation site."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from docs_site import hooks

ROOT = Path(__file__).parents[2]
FORMULAS = ROOT / "tools/docs_site/formulas.py"
# What a browser loads with a page, as opposed to links that a reader may follow.
LOADED = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"([^\"]+)|<link\b(?![^>]*canonical)[^>]*\bhref=\"([^\"]+)"
)


def to_html(markdown: str) -> str:
    pytest.importorskip("latex2mathml")
    spec = importlib.util.spec_from_file_location("formulas", FORMULAS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.on_page_markdown(markdown, page=None, config=None, files=None)


def test_formulas_become_mathml():
    inline = to_html("the map $x_0'$ and more")
    assert inline.startswith("the map <span><math")
    assert inline.endswith("</math></span> and more")
    assert "<msubsup><mi>x</mi><mn>0</mn>" in inline
    assert 'display="block"' in to_html("$$a = b$$")


def test_dollar_signs_of_code_and_prices_stay():
    for text in ("`$first` and `$second`", "```sh\necho $HOME $PATH\n```\n", "from 5 $ to 10 $"):
        assert to_html(text) == text


def test_links_to_files_outside_docs_become_links_to_the_repository():
    page = SimpleNamespace(file=SimpleNamespace(src_uri="how-to/training.md"))
    config = SimpleNamespace(repo_url="https://example.org/r")
    text = "[a](../reports/results.md#x) [b](../../cspdet/api.py) [c](video.md) [d](../../data/README.md#coco-2017)"
    assert hooks.on_page_markdown(text, page=page, config=config, files=None) == (
        "[a](../reports/results.md#x) [b](https://example.org/r/blob/main/cspdet/api.py) [c](video.md) "
        "[d](https://example.org/r/blob/main/data/README.md#coco-2017)"
    )


@pytest.mark.e2e
def test_the_site_builds_without_a_warning_and_loads_nothing_from_other_hosts(tmp_path):
    for name in ("material", "mkdocstrings", "latex2mathml"):
        pytest.importorskip(name)
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environ = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(words, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    pages = {
        path.relative_to(tmp_path).as_posix(): path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.html")
    }
    assert "cspdet.load_detector" in pages["reference/python/functions.html"]
    assert "https://github.com/cspdet/cspdet/blob/main/cspdet/models/csp.py" in pages["explanation/csp.html"]
    loaded = {target for text in pages.values() for pair in LOADED.findall(text) for target in pair if target}
    assert len(loaded) > 5
    assert {target for target in loaded if re.match(r"(https?:)?//", target)} == set()
    assert not any('data-md-component="source"' in text for text in pages.values())
