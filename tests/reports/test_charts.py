"""Charts of the pages: round ticks, axes that reach, curves and bars of the right length."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cspdet.reports.charts import HistogramSeries, LineSeries, bar_chart, histogram, line_chart
from cspdet.reports.heatmaps import heatmap
from cspdet.reports.scales import Scale, downsample, format_coord, format_tick, log2_ticks, round_up_to_tick, ticks


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 12))
def test_ticks_are_few_even_and_inside(low, span, max_ticks):
    marks = ticks(low, low + span, max_ticks)
    assert 1 <= len(marks) <= max_ticks
    assert all(low - 1e-6 * span <= mark <= low + span * (1 + 1e-6) for mark in marks)
    gaps = np.diff(marks)
    assert np.allclose(gaps, gaps[0] if len(gaps) else 0, rtol=1e-6)


def test_ticks_are_round():
    assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert ticks(0, 30, 4) == [0, 10, 20, 30]
    assert log2_ticks(10, 300) == [16, 32, 64, 128, 256]
    assert log2_ticks(1, 2**20, 4) == [1, 2**6, 2**12, 2**18]
    assert [format_tick(value) for value in (0, 0.05, 1 / 8, 0.5, 1500, 20000, 3e6)] == [
        *("0", "0.05", "1/8", "0.5", "1500", "20k", "3M"),
    ]


@given(st.floats(1e-300, 1e300))
def test_axes_reach_the_highest_value(value):
    assert value <= round_up_to_tick(value) * (1 + 1e-9)
    assert round_up_to_tick(value) <= 2 * value


def test_scales_map_their_ends():
    linear, logarithmic = Scale(0, 10, 100, 200), Scale(1, 100, 0, 10, logarithmic=True)
    assert [linear(value) for value in (0, 5, 10)] == [100, 150, 200]
    assert logarithmic(10) == pytest.approx(5)
    assert [format_coord(value) for value in (1.0, 2.25, -0.01, -3.5)] == ["1", "2.2", "0", "-3.5"]


@given(st.integers(1, 5000))
def test_long_curves_are_thinned_but_keep_their_ends(count):
    kept = downsample(range(count))
    assert len(kept) == min(count, 101)
    assert (kept[0], kept[-1]) == (0, count - 1)


def test_a_curve_runs_from_corner_to_corner():
    svg = line_chart(
        [LineSeries("up & away", [(0, 0), (1, 1)], "line0"), LineSeries("one", [(0, 0)], "line1", choice=0)], "x", "y"
    )
    assert 'points="50,226 408,12"' in svg  # the margins are 50 left, 12 right and above, 44 below, of 420x270
    assert "<title>up &amp; away</title>" in svg
    assert svg.count("data-choice") == 1


def test_bars_have_the_lengths_of_their_values():
    svg = bar_chart([("half", 0.5, "cells"), ("whole", 1.0, "cells")], "share")
    half, whole = (float(width) for width in re.findall(r'class="fill0" [^>]*width="([\d.]+)"', svg))
    assert whole == pytest.approx(2 * half, abs=0.2)
    assert "<svg" in bar_chart([("worse", -0.5, "cells")], "difference")


def test_histograms_draw_what_there_is():
    filled = HistogramSeries("train", [0, 1, 2, 3], [5, 0, 10], 0)
    svg = histogram(
        [filled, HistogramSeries("val", [0, 1], [10], 1), HistogramSeries("none", [], [], 2)],
        "boxes",
        "images",
        integer_bins=True,
    )
    low, high = (float(height) for height in re.findall(r'class="fill0" [^>]*height="([\d.]+)"', svg))
    assert high == pytest.approx(2 * low, abs=0.2)
    assert "<title>train: 2: 10</title>" in svg
    assert svg.count('<path class="line1"') == 1
    assert histogram([], "x", "y") == ""


def test_maps_are_darkest_where_there_is_most():
    svg = heatmap([[0, 1], [2, 4]], "x", "y", "boxes")
    cells, scale = svg.split('<g class="cells scale">')
    assert re.findall(r'fill-opacity="([\d.]+)"', cells) == ["0.29", "0.53", "1.00"]  # 0.06 + 0.94 times the share
    shades = [float(shade) for shade in re.findall(r'fill-opacity="([\d.]+)"', scale)]
    assert shades == sorted(shades)
    assert len(shades) > 10
    marks = re.findall(r'y="([\d.]+)">([\d.]+)</text>', scale)
    assert [text for _, text in marks] == ["0", "1", "2", "3", "4"]
    heights = [float(y) for y, _ in marks]
    assert [round(low - high, 1) for low, high in pairwise(heights)] == [60.0] * 4
    assert ">boxes</text>" in scale
