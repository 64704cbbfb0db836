"""The hooks of the documentation site."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

FORMULAS = Path(__file__).parents[2] / "tools/docs_site/formulas.py"


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
