"""Axes of charts: map values to SVG coordinates, choose ticks, and draw grid lines and labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import escape

WIDTH, HEIGHT = 420, 270  # size of a chart in SVG units
LEFT, RIGHT, TOP, BOTTOM = 50, 12, 12, 44  # margins
TICK_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)  # times powers of ten


@dataclass(frozen=True)
class Scale:
    """Linear or logarithmic map from values in [low, high] to SVG coordinates from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(value)
        fraction = (value - low) / (high - low) if high > low else 0.5
        return self.start + fraction * (self.end - self.start)


def ticks(low: float, high: float, max_ticks: int = 6) -> list[float]:
    """Return round, evenly spaced values within [low, high]: as many as possible, but at most `max_ticks`."""
    if not high > low:
        return [low]
    exponent = math.floor(math.log10((high - low) / max_ticks))
    for power in (exponent, exponent + 1):
        for step in TICK_STEPS:
            width = step * 10.0**power
            first, last = math.ceil(low / width - 1e-9), math.floor(high / width + 1e-9)
            if last - first + 1 <= max_ticks:
                return [float(f"{i * width:.12g}") for i in range(first, last + 1)]
    raise AssertionError("a step of ten times the span leaves a single tick")


def log2_ticks(low: float, high: float, max_ticks: int = 8) -> list[float]:
    """Return at most `max_ticks` powers of two within [low, high], evenly spaced on a logarithmic axis."""
    first, last = math.ceil(math.log2(low) - 1e-9), math.floor(math.log2(high) + 1e-9)
    step = max(1, math.ceil((last - first + 1) / max_ticks))
    return [2.0**power for power in range(first, last + 1) if (power - first) % step == 0]


def round_up_to_tick(value: float, max_ticks: int = 6) -> float:
    """Round `value` up to the next tick; the result is the upper limit of an axis that starts at 0."""
    if value <= 0:
        return 1.0
    marks = ticks(0.0, value, max_ticks)
    width = marks[1] - marks[0] if len(marks) > 1 else value
    return width * math.ceil(value / width - 1e-9)


def format_tick(value: float) -> str:
    """Format the label of a tick: 0.05, 12, 1500, 20k, 3M. Inverses of powers of two below 1/4 become 1/8, 1/16, ..."""
    if value and abs(value) < 1 and (1 / value).is_integer() and math.log2(abs(1 / value)).is_integer():
        return f"{value:g}" if abs(value) >= 0.25 else f"1/{round(1 / value)}"
    for limit, unit in ((1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e6 if unit == 'M' else 1e3):g}{unit}"
    return f"{value:g}"


def format_coord(value: float) -> str:
    """Format an SVG coordinate with one decimal; a decimal of 0 is omitted."""
    return f"{value:.1f}".removesuffix(".0").replace("-0", "0" if abs(value) < 0.05 else "-0")


def downsample(values: Sequence[float], max_points: int = 101) -> list[int]:
    """Return at most `max_points` evenly spaced indices of `values`, including the first and the last index."""
    count = len(values)
    if count <= max_points:
        return list(range(count))
    return sorted({round(i * (count - 1) / (max_points - 1)) for i in range(max_points)})


def x_axis(x_scale: Scale, top: float, bottom: float) -> list[str]:
    """Draw vertical grid lines and tick labels of a horizontal axis; return a list of SVG elements."""
    parts = []
    for mark in ticks(x_scale.low, x_scale.high, 5):
        x = format_coord(x_scale(mark))
        parts.append(f'<path class="grid" d="M{x} {top}V{bottom}"/>')
        parts.append(f'<text class="tick" x="{x}" y="{bottom + 16}" text-anchor="middle">{format_tick(mark)}</text>')
    return parts


def x_axis_label(x_scale: Scale, height: float, text: str) -> str:
    """Return an SVG text element with the title of a horizontal axis, at the bottom of a chart of the given height."""
    x = format_coord((x_scale.start + x_scale.end) / 2)
    return f'<text class="axis" x="{x}" y="{height - 6}" text-anchor="middle">{escape(text)}</text>'


def chart_scales(x: tuple[float, float], y: tuple[float, float], *, logarithmic: bool = False) -> tuple[Scale, Scale]:
    """Create the horizontal and the vertical scale of a chart.

    Args:
        x: Lowest and highest value of the horizontal axis.
        y: Lowest and highest value of the vertical axis.
        logarithmic: Use a logarithmic horizontal scale.
    """
    x_scale = Scale(x[0], x[1], LEFT, WIDTH - RIGHT, logarithmic)
    return x_scale, Scale(y[0], y[1], HEIGHT - BOTTOM, TOP)


def axes(
    x_scale: Scale, y_scale: Scale, x_ticks: Sequence[float], y_ticks: Sequence[float], x_label: str, y_label: str
) -> list[str]:
    """Return the SVG elements of both axes of a chart: grid lines, ticks, tick labels and titles."""
    baseline, right = format_coord(y_scale.start), format_coord(x_scale.end)
    parts = []
    for mark in y_ticks:
        y, text_y = format_coord(y_scale(mark)), format_coord(y_scale(mark) + 4)
        parts.append(f'<path class="grid" d="M{LEFT} {y}H{right}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{text_y}" text-anchor="end">{format_tick(mark)}</text>')
    for mark in x_ticks:
        x, text_y = format_coord(x_scale(mark)), format_coord(y_scale.start + 17)
        parts.append(f'<path class="base" d="M{x} {baseline}v4"/>')
        parts.append(f'<text class="tick" x="{x}" y="{text_y}" text-anchor="middle">{format_tick(mark)}</text>')
    middle_x = format_coord((x_scale.start + x_scale.end) / 2)
    middle_y = format_coord((y_scale.start + y_scale.end) / 2)
    parts += [
        f'<path class="base" d="M{LEFT} {baseline}H{right}"/>',
        f'<text class="axis" x="{middle_x}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>',
        f'<text class="axis" transform="translate(12 {middle_y}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_label)}</text>",
    ]
    return parts
