"""Where a section stands: its neighbors, what they give, and the layers that it names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from cspdet.darknet.cfg import Section

IMAGE = -1  # the source that is no layer


class Shape(NamedTuple):
    """Of a feature map of one picture."""

    channels: int
    height: int
    width: int

    @property
    def numbers(self) -> int:
        return self.channels * self.height * self.width

    @property
    def side_hw(self) -> tuple[int, int]:
        return self.height, self.width

    def __str__(self) -> str:
        return f"{self.channels}x{self.height}x{self.width}"


class Planned(NamedTuple):
    """What a layer takes, what it gives, how to build it, and the trained numbers that it has."""

    sources: tuple[int, ...]
    shape: Shape
    build: Callable[[], nn.Module]
    weights: int = 0


@dataclass(frozen=True)
class Place:
    """A section between those around it."""

    section: Section
    index: int
    before: tuple[Shape, ...]
    image: Shape
    followed_by: Section | None
    bn_eps: float

    @property
    def source(self) -> int:
        """The layer before, or the image."""
        return self.index - 1

    @property
    def input(self) -> Shape:
        """What the layer before gives."""
        return self.shape(self.source)

    def shape(self, index: int) -> Shape:
        return self.image if index == IMAGE else self.before[index]

    def named(self, key: str) -> tuple[int, ...]:
        """The layers that a key names: from the start, or, below 0, backwards from here."""
        found = []
        for number in self.section.wholes(key):
            index = number if number >= 0 else self.index + number
            if not 0 <= index < self.index:
                allowed = f"one of the layers before, 0 to {self.index - 1}" if self.index else "none, as the first"
                raise self.section.problem(
                    f"{number} is layer {index} as seen from {self.index}; expected {allowed}", key
                )
            found.append(index)
        return tuple(found)

    def one(self, key: str) -> int:
        """The single layer that a key names."""
        found = self.named(key)
        if len(found) != 1:
            raise self.section.problem(f"expected one layer, found {len(found)}", key)
        return found[0]
