"""Plot the layers of networks: BFLOPs, and number of elements read and written (CSPNet paper, figures 7 and 8).

Each network has one row of two panels; all rows have the same scales.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cspdet.errors import ConfigError
from cspdet.inference.palette import SERIES_ON_LIGHT
from cspdet.reports.figure_text import fonts_for, plain_text
from cspdet.reports.figures import check_plot, save_figure
from cspdet.reports.plot_style import format_ticks, plot_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from cspdet.models.profile import ModelCost

FORMATS = (".png", ".svg")
BLUE, VERMILION, GREEN, PURPLE = SERIES_ON_LIGHT[:4]
PART_COLORS = {"backbone": BLUE, "neck": VERMILION, "head": GREEN, "fc": GREEN}
OTHER_COLOR = PURPLE
INPUT_COLOR, OUTPUT_COLOR = BLUE, VERMILION
PANEL_INCHES = (7.5, 2.6)
HEADROOM = 1.25  # height of the axis relative to the highest bar, which has a label above it


def validate_output_path(path: Path) -> None:
    """Check the path of a plot.

    Raises:
        ConfigError: The suffix is not .png or .svg, or the folder does not exist.
        UserError: `path` is a file, but not a plot.
    """
    if path.suffix not in FORMATS:
        raise ConfigError(f"--plot: expected a file ending in {' or '.join(FORMATS)}, found {str(path)!r}")
    if not path.parent.is_dir():
        raise ConfigError(f"--plot {path}: there is no folder {str(path.parent)!r}")
    check_plot(path)


def plot_layers(models: Sequence[tuple[str, ModelCost]], path: Path) -> None:
    """Plot the layers of networks, given as (name, cost), to a PNG or SVG file.

    Raises:
        ConfigError: The suffix is not .png or .svg, or the folder does not exist.
        UserError: The file cannot be written.
    """
    validate_output_path(path)
    with plot_style(), fonts_for(name for name, _ in models):
        _draw_figure(models, path)


def _draw_figure(models: Sequence[tuple[str, ModelCost]], path: Path) -> None:
    from matplotlib.figure import Figure  # slow import

    rows = len(models)
    figure = Figure(figsize=(2 * PANEL_INCHES[0], rows * PANEL_INCHES[1] + 0.5), layout="constrained")
    panels = figure.subplots(rows, 2, sharey="col", squeeze=False)
    for (name, cost), (bflops_panel, memory_panel) in zip(models, panels, strict=True):
        _draw_bflops(bflops_panel, plain_text(name), cost)
        _draw_memory_access(memory_panel, plain_text(name), cost)
    panels[0][0].set_ylim(0, HEADROOM * max(cost.largest_layer_bflops for _, cost in models))
    panels[0][1].set_ylim(0, None)
    for panel in panels.flat:
        format_ticks(panel, integer_x=True)
    for panel in panels[-1]:
        panel.set_xlabel("layer, in the order of computation")
    save_figure(figure, path, 100)


def _draw_bflops(panel: Axes, name: str, cost: ModelCost) -> None:
    """Draw one bar per convolution, linear layer or pooling, colored by part of the network, and label the largest."""
    heights = [layer.operations / 1e9 for layer in cost.layers]
    for part in cost.part_bflops:
        indices = [i for i, layer in enumerate(cost.layers) if layer.part == part]
        color = PART_COLORS.get(part, OTHER_COLOR)
        panel.bar(indices, [heights[i] for i in indices], width=1.0, color=color, label=plain_text(part))
    largest, index = cost.largest_layer, heights.index(cost.largest_layer_bflops)
    on_the_left = index < len(heights) / 2
    panel.annotate(
        f"{plain_text(largest.name)}: {cost.largest_layer_bflops:.4f}",
        (index, cost.largest_layer_bflops),
        textcoords="offset points",
        xytext=(3 if on_the_left else -3, 4),
        ha="left" if on_the_left else "right",
        fontsize=8,
    )
    panel.set_title(f"{name} at {_size(cost)}: {cost.bflops:.3f} BFLOPs", fontsize=10)
    panel.set_ylabel("BFLOPs")
    panel.legend(fontsize=8, loc="upper center", ncols=len(cost.part_bflops))


def _draw_memory_access(panel: Axes, name: str, cost: ModelCost) -> None:
    """Draw the number of elements that each layer reads and writes, as step lines."""
    for label, color, sizes in (
        ("input", INPUT_COLOR, [layer.elements_read for layer in cost.layers]),
        ("output", OUTPUT_COLOR, [layer.elements_written for layer in cost.layers]),
    ):
        edges = [i - 0.5 for i in range(len(sizes) + 1)]
        panel.stairs([size / 1e6 for size in sizes], edges, color=color, label=label)
    panel.set_title(f"{name} at {_size(cost)}: {cost.cio / 1e6:.1f}M elements read and written", fontsize=10)
    panel.set_ylabel("million elements")
    panel.legend(fontsize=8, loc="upper right")


def _size(cost: ModelCost) -> str:
    return f"{cost.size_hw[0]}x{cost.size_hw[1]}"
