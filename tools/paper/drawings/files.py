"""Every drawing of docs/csp.md, by file name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cspdet.errors import ConfigError
from cspdet.io.atomic import write_text
from paper.drawings.efm import draw_efm
from paper.drawings.fusion import draw_fusion
from paper.drawings.gradients import draw_gradients

DRAWINGS: dict[str, Callable[[], str]] = {
    "csp_gradients.svg": draw_gradients,
    "csp_fusion.svg": draw_fusion,
    "efm.svg": draw_efm,
}


def write_drawings(folder: Path) -> list[Path]:
    """Write every drawing into `folder`, which must be there; those of the same names are replaced.

    Raises:
        ConfigError: there is no such folder.
        UserError: it cannot be written to.
    """
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise ConfigError(f"--output {folder}: expected a folder that is there, found {found}")
    paths = []
    for name, draw in DRAWINGS.items():
        paths.append(folder / name)
        write_text(paths[-1], draw())
    return paths
