"""Short names of paths for tables and plots; numbers with nouns, such as `2 images`."""

from __future__ import annotations

import re
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


# Plurals that no rule gives. A noun that ends in s, such as `scissors` or `Platelets`, is a plural already, except in
# -ss and -us.
_PLURALS = {
    "person": "people", "man": "men", "woman": "women", "child": "children", "mouse": "mice", "knife": "knives",
    "sheep": "sheep", "fish": "fish", "deer": "deer", "aircraft": "aircraft", "broccoli": "broccoli",
    "epoch": "epochs", "stomach": "stomachs",
}  # fmt: skip


def plural(noun: str) -> str:
    """Return the plural of an English noun. A name that does not end in an ASCII letter is returned unchanged."""
    start, last = re.fullmatch(r"(.*?)([A-Za-z]*)", noun, re.DOTALL).groups()  # type: ignore[union-attr]  # matches all
    if last in _PLURALS:
        return f"{start}{_PLURALS[last]}"
    if not last or (last.endswith("s") and not last.endswith(("ss", "us"))):
        return noun
    if last.endswith(("s", "x", "z", "ch", "sh")):
        return f"{noun}es"
    return f"{noun[:-1]}ies" if re.search(r"[^aeiouAEIOU]y$", last) else f"{noun}s"


def count(number: int, noun: str) -> str:
    """Return a number with its noun: `1 image`, `2,000 images`."""
    return f"{number:,} {noun if number == 1 else plural(noun)}"
