"""Text in figures: `$`, control characters, and characters that matplotlib's own font does not have."""

from __future__ import annotations

import warnings
from xml.etree import ElementTree

import pytest
from matplotlib import font_manager, rcParams, rcParamsDefault
from matplotlib.figure import Figure

from cspdet.reports.figure_text import fonts_for, plain_text


@pytest.mark.parametrize("text", ["$x_{$", "a$b", "_hidden", "a\x1b[2J\x00b", "line\nbreak", r"\frac"])
def test_any_text_is_drawn_as_it_is(text, tmp_path):
    figure = Figure()
    panel = figure.subplots()
    panel.set_title(plain_text(text))
    panel.plot([1], label=plain_text(text))
    assert len(panel.legend().get_texts()) == 1
    for name in ("figure.png", "figure.svg"):
        figure.savefig(tmp_path / name)
    ElementTree.parse(tmp_path / "figure.svg")  # well-formed: no control characters


def test_a_character_without_a_font_is_one_line_of_the_log(caplog, monkeypatch, tmp_path):
    fonts = [font for font in font_manager.fontManager.ttflist if font.name.startswith(("DejaVu", "Last"))]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", fonts)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with fonts_for(["猫 and plain", "猫"]):
            figure = Figure()
            figure.subplots().set_title("猫")
            figure.savefig(tmp_path / "figure.png")
    (record,) = caplog.records
    assert record.getMessage() == "no installed font has the characters 猫; the figure shows boxes instead"


def test_an_installed_font_with_the_characters_is_used(caplog, monkeypatch):
    serif = next(font for font in font_manager.fontManager.ttflist if font.name == "STIXGeneral")
    default = font_manager.get_font(font_manager.findfont(font_manager.FontProperties())).get_charmap()
    letter = next(
        chr(code)
        for code in font_manager.get_font(serif.fname).get_charmap()
        if code not in default and chr(code).isprintable()
    )
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [*font_manager.fontManager.ttflist, serif])
    with fonts_for([f"a{letter}"]):
        assert rcParams["font.family"] == [*rcParamsDefault["font.family"], "STIXGeneral"]
    assert rcParams["font.family"] == rcParamsDefault["font.family"]
    assert caplog.records == []
