"""Axes of charts: map values to coordinates, and choose tick values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

TICK_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)  # times powers of ten


@dataclass(frozen=True)
class Scale:
    """Map values from [low, high] to coordinates from `start` to `end`, linearly or logarithmically."""

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
    """Return at most `max_ticks` round, evenly spaced values within [low, high], with the finest possible spacing."""
    if not high > low:
        return [low]
    exponent = math.floor(math.log10((high - low) / max_ticks))
    for power in (exponent, exponent + 1):
        for step in TICK_STEPS:
            width = step * 10.0**power
            first, last = math.ceil(low / width - 1e-9), math.floor(high / width + 1e-9)
            if last - first + 1 <= max_ticks:
                return [round(i * width, 12) for i in range(first, last + 1)]
    raise AssertionError("a step of ten times the span leaves a single tick")


def log2_ticks(low: float, high: float, max_ticks: int = 8) -> list[float]:
    """Return at most `max_ticks` powers of two within [low, high], evenly spaced on a logarithmic axis."""
    first, last = math.ceil(math.log2(low) - 1e-9), math.floor(math.log2(high) + 1e-9)
    step = max(1, math.ceil((last - first + 1) / max_ticks))
    return [2.0**power for power in range(first, last + 1) if (power - first) % step == 0]


def round_up_to_tick(value: float, max_ticks: int = 6) -> float:
    """Return the upper end of an axis from 0 that contains `value` and is a tick."""
    if value <= 0:
        return 1.0
    marks = ticks(0.0, value, max_ticks)
    width = marks[1] - marks[0] if len(marks) > 1 else value
    return width * math.ceil(value / width - 1e-9)


def format_tick(value: float) -> str:
    """Format a tick: 0.05, 12, 1500, 20k, 3M; inverse powers of two as 1/8."""
    if value and abs(value) < 1 and (1 / value).is_integer() and math.log2(abs(1 / value)).is_integer():
        return f"{value:g}" if abs(value) >= 0.25 else f"1/{round(1 / value)}"
    for limit, unit in ((1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e6 if unit == 'M' else 1e3):g}{unit}"
    return f"{value:g}"


def format_coord(value: float) -> str:
    """Format a coordinate with one decimal."""
    return f"{value:.1f}".removesuffix(".0").replace("-0", "0" if abs(value) < 0.05 else "-0")


def downsample(values: Sequence[float], max_points: int = 101) -> list[int]:
    """Indices of at most `most` of them, evenly spaced, with the first and the last."""
    count = len(values)
    if count <= max_points:
        return list(range(count))
    return sorted({round(i * (count - 1) / (max_points - 1)) for i in range(max_points)})
