"""Save matplotlib figures as PNG or SVG: marked as written by cspdet, and identical for identical data."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from cspdet.io.atomic import write_bytes
from cspdet.io.outputs import PLOT, OutputFile, check_outputs
from cspdet.reports.plot_style import dark_style_sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check_plot(path: Path) -> None:
    """Raise UserError if `path` is a file, but not an earlier plot of cspdet."""
    check_outputs([OutputFile(path, PLOT)])


def save_figure(figure: Figure, path: Path, dpi: int) -> None:
    """Write a figure to a .png or .svg file; an SVG file has a dark color scheme too.

    Args:
        figure: The figure.
        path: The file.
        dpi: Pixels per inch.

    Raises:
        UserError: The file cannot be written.
    """
    from matplotlib import rc_context  # slow import

    suffix = path.suffix.lower()
    metadata = {"Creator": "cspdet", "Date": None} if suffix == ".svg" else {"Software": "cspdet"}
    data = BytesIO()
    with rc_context({"svg.hashsalt": "cspdet"}):
        figure.savefig(data, format=suffix[1:], dpi=dpi, metadata=metadata)
    content = data.getvalue()
    if suffix == ".svg":
        content = content.replace(b"<defs>", dark_style_sheet().encode() + b"\n <defs>", 1)
    write_bytes(path, content)
