"""Save matplotlib figures as PNG or SVG: marked as written by cspdet, and identical for identical data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cspdet.io.atomic import atomic_write
from cspdet.io.outputs import PLOT, OutputFile, check_outputs

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check_plot(path: Path) -> None:
    """Raise UserError if `path` is a file, but not an earlier plot of cspdet."""
    check_outputs([OutputFile(path, PLOT)])


def save_figure(figure: Figure, path: Path, dpi: int) -> None:
    """Write a figure to a .png or .svg file.

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
    with atomic_write(path) as tmp_path, rc_context({"svg.hashsalt": "cspdet"}):
        figure.savefig(tmp_path, format=suffix[1:], dpi=dpi, metadata=metadata)
