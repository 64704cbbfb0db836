"""Style of all matplotlib figures: palette, fonts, tick labels, and dark colors in SVG files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cspdet.inference.palette import (
    CLASS_COLORS,
    DARK_PAGE,
    LIGHT_PAGE,
    SERIES_ON_DARK,
    SERIES_ON_LIGHT,
    contrast,
    to_rgb,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

INK, MUTED, GRID = "#1b1f24", "#59636e", "#d5dae0"  # texts, secondary lines, grid lines
INK_ON_DARK, MUTED_ON_DARK, GRID_ON_DARK = "#e6e9ec", "#9aa5b0", "#363d45"
MIN_CONTRAST = 3  # of a line with the page
LOG_TICKS = (1.0, 2.0, 5.0)  # multiples of a power of ten with a tick


@contextmanager
def plot_style() -> Iterator[None]:
    """Context manager in which figures are created with the style of cspdet."""
    from matplotlib import rc_context  # slow import

    style: Any = {
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.formatter.useoffset": False,
        "legend.frameon": False,
        "grid.color": GRID,
        "grid.linewidth": 0.6,
        **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), LIGHT_PAGE),
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    }
    with rc_context(style):
        yield


def line_colors(count: int) -> list[str]:
    """Return colors for `count` lines, visible on light and dark pages. Up to 32 colors differ, then they repeat.

    Color-blind readers can distinguish the colors of up to 6 lines.
    """
    if count <= len(SERIES_ON_LIGHT):
        return list(SERIES_ON_LIGHT[:count])
    pages = to_rgb(LIGHT_PAGE), to_rgb(DARK_PAGE)
    visible = [c for c in CLASS_COLORS if min(contrast(to_rgb(c), page) for page in pages) >= MIN_CONTRAST]
    return [visible[i % len(visible)] for i in range(count)]


def format_value(value: float) -> str:
    """Format the label of a tick without exponent or formula: 0.0005, 0.02, 1500, 20k, 3M."""
    for limit, unit, size in ((1e6, "M", 1e6), (1e4, "k", 1e3)):
        if abs(value) >= limit:
            return f"{value / size:g}{unit}"
    if 0 < abs(value) < 5e-8:
        return f"{value:g}"
    text = f"{value:.7f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def format_ticks(panel: Axes, *, integer_x: bool = False) -> None:
    """Give both axes of a panel legible tick labels; call this after the data and the scales are set.

    Args:
        panel: The panel.
        integer_x: Place ticks of the horizontal axis at integers only, for example at epochs.
    """
    from matplotlib.ticker import MaxNLocator

    for axis in (panel.xaxis, panel.yaxis):
        _format_axis(axis)
    if integer_x:
        panel.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))


def _format_axis(axis: Axis) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    if axis.get_scale() == "log":
        low, high = sorted(axis.get_view_interval())
        wide = high >= 10 * low
        axis.set_major_locator(LogLocator(10, subs=LOG_TICKS) if wide else MaxNLocator(5, steps=[1, 2, 5, 10]))
        axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: format_value(value)))


def dark_style_sheet() -> str:
    """Return the style sheet of SVG files: readers with a dark color scheme get the dark colors of the palette."""
    pairs = dict(zip(SERIES_ON_LIGHT, SERIES_ON_DARK, strict=True))
    pairs |= {LIGHT_PAGE: DARK_PAGE, INK: INK_ON_DARK, MUTED: MUTED_ON_DARK, GRID: GRID_ON_DARK}
    rules = "".join(
        f'[style*="{name}: {light}"]{{{name}:{dark}!important}}'
        for light, dark in pairs.items()
        for name in ("fill", "stroke")
    )
    return f"<style>@media (prefers-color-scheme: dark){{{rules}}}</style>"
