"""Style of plots: tick labels without exponents, and a dark color scheme in SVG files."""

from __future__ import annotations

import re

import pytest
from matplotlib.figure import Figure

from cspdet.benchmark.report import plot
from cspdet.benchmark.rows import BenchmarkRow, BenchmarkSpec, EngineInfo, Timing
from cspdet.inference.palette import DARK_PAGE, LIGHT_PAGE, SERIES_ON_DARK, SERIES_ON_LIGHT
from cspdet.reports.figures import save_figure
from cspdet.reports.plot_style import format_ticks, format_value, line_colors, plot_style


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (-0.0, "0"), (0.1 + 0.2, "0.3"), (2e-2, "0.02"), (5e-5, "0.00005"), (1500, "1500"), (-2.5, "-2.5"),
        (20_000, "20k"), (2.5e6, "2.5M"), (3e-9, "3e-09"), (-1e-7, "-0.0000001"),
    ],
)  # fmt: skip
def test_values_of_ticks(value, text):
    assert format_value(value) == text


@pytest.mark.parametrize(
    ("limits", "expected"),
    [((0.02, 0.9), ["0.02", "0.05", "0.1", "0.2", "0.5"]), ((3, 2e4), ["5", "50", "500", "5000"]), ((3, 8), ["5"])],
)
def test_logarithmic_axes_have_plain_numbers(limits, expected):
    panel = Figure().subplots()
    panel.plot(limits, limits)
    panel.set_xscale("log")
    panel.set_xlim(*limits)
    format_ticks(panel)
    panel.figure.draw_without_rendering()
    labels = [text.get_text() for text in panel.get_xticklabels(which="both")]
    assert set(expected) <= set(labels)
    assert not [label for label in labels if "$" in label]


def svg_of(tmp_path, color):
    with plot_style():
        figure = Figure()
        figure.subplots().plot([1, 2], color=color)
        save_figure(figure, tmp_path / "x.svg", 100)
    return (tmp_path / "x.svg").read_text()


def test_every_color_of_an_svg_file_has_a_dark_one(tmp_path):
    text = svg_of(tmp_path, SERIES_ON_LIGHT[1])
    style, drawing = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1], text.split("</style>")[-1]
    dark = dict(re.findall(r'\[style\*="((?:fill|stroke): #\w+)"\]\{(?:fill|stroke):(#\w+)!important\}', style))
    assert style.startswith("@media (prefers-color-scheme: dark)")
    assert dark[f"fill: {LIGHT_PAGE}"] == DARK_PAGE
    assert dark[f"stroke: {SERIES_ON_LIGHT[1]}"] == SERIES_ON_DARK[1]
    used = set(re.findall(r"(?:fill|stroke): #\w+", drawing))
    assert len(used) > 3
    assert used <= set(dark)


def test_up_to_six_lines_have_the_colors_of_the_palette():
    assert line_colors(6) == list(SERIES_ON_LIGHT)
    assert len(set(line_colors(32))) == 32
    assert len(line_colors(100)) == 100


def row(name: str, backend: str, bflops: float | None, ms: float) -> BenchmarkRow:
    info = EngineInfo(name, backend, "fp32", (416, 416), 2, "cpu", "detection", end_to_end=True)
    return BenchmarkRow(BenchmarkSpec(name, backend), info, Timing((ms,)), None, 800, 200, bflops, 198)


def test_the_plot_of_a_benchmark_has_no_formulas(tmp_path, monkeypatch):
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **keys: (figures.append(self), save(self, *args, **keys))
    )
    rows = [row("small", "torch", 3.1, 33), row("small", "openvino", 3.1, 24), row("large", "torch", 71, 548)]
    plot([*rows, row("exported", "onnxruntime", None, 50)], tmp_path / "x.png")
    (panel,) = figures[0].axes
    labels = [text.get_text() for axis in (panel.xaxis, panel.yaxis) for text in axis.get_ticklabels(which="both")]
    assert {"5", "10", "20", "50", "100", "200", "500"} <= set(labels)
    assert not [label for label in labels if "$" in label or "e" in label]
    assert [text.get_text() for text in panel.texts] == ["small", "large"]
    legend = [text.get_text() for text in panel.get_legend().get_texts()]
    assert legend == ["torch fp32", "openvino fp32", "matrix multiplication, fp32: 198 GFLOP/s on cpu"]
