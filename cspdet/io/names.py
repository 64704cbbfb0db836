"""Short names of paths for tables and plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def distinct_names(paths: Sequence[str | Path]) -> list[str]:
    """Shorten paths to their last n parts, with the smallest n that keeps them distinct.

    `runs/a/best.pt` and `runs/b/best.pt` become `a/best.pt` and `b/best.pt`; `a.pt` and `runs/b.pt` become `a.pt` and
    `b.pt`.
    """
    all_parts = [Path(path).parts for path in paths]
    different = set(all_parts)
    names: dict[tuple[str, ...], str] = {}
    for depth in range(1, max(map(len, different), default=0) + 1):
        names = {parts: Path(*parts[-depth:]).as_posix() for parts in different}
        if len(set(names.values())) == len(different):
            break
    return [names.get(parts, "") for parts in all_parts]
