"""Counting what is wrong or was changed: a million bad boxes become one line that says where to look."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

NAMED = 3  # places told for each kind


@dataclass
class Tally:
    """Findings in one file by kind: how often each, and its first places."""

    where: str
    counts: dict[str, int] = field(default_factory=dict)
    places: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, place: str = "") -> None:
        """Count one finding."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        named = self.places.setdefault(kind, [])
        if place and len(named) < NAMED:
            named.append(place)

    def add_where(self, kind: str, found: np.ndarray, place: Callable[[int], str]) -> None:
        """Count the true entries of `found`, (N,) bool, and name the first ones."""
        (indices,) = np.nonzero(found)
        if len(indices):
            self.counts[kind] = self.counts.get(kind, 0) + len(indices)
            named = self.places.setdefault(kind, [])
            named.extend(place(int(i)) for i in indices[: NAMED - len(named)])

    def lines(self) -> list[str]:
        """`file: kind: place; place; place; and 54 more`, a line a kind."""
        result = []
        for kind, count in self.counts.items():
            places = list(self.places[kind])
            if places and count > len(places):
                places.append(f"and {count - len(places)} more")
            result.append(": ".join((self.where, kind, *(("; ".join(places),) if places else ()))))
        return result
