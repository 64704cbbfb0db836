"""Where a section stands: its neighbors, what they give, and the layers that it names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from cspdet.darknet.cfg import CfgSection
from cspdet.structures import FeatureShape

IMAGE = -1  # the source that is no layer


class LayerSpec(NamedTuple):
    """What a layer takes, what it gives, how to build it, and the trained numbers that it has."""

    sources: tuple[int, ...]
    shape: FeatureShape
    build: Callable[[], nn.Module]
    num_weights: int = 0


@dataclass(frozen=True)
class SectionContext:
    """A section between those around it."""

    section: CfgSection
    index: int
    previous_shapes: tuple[FeatureShape, ...]
    image_shape: FeatureShape
    next_section: CfgSection | None
    bn_eps: float

    @property
    def previous_index(self) -> int:
        """The layer before, or the image."""
        return self.index - 1

    @property
    def input_shape(self) -> FeatureShape:
        """What the layer before gives."""
        return self.shape_at(self.previous_index)

    def shape_at(self, index: int) -> FeatureShape:
        return self.image_shape if index == IMAGE else self.previous_shapes[index]

    def resolve_layers(self, key: str) -> tuple[int, ...]:
        """The layers that a key names: from the start, or, below 0, backwards from here."""
        found = []
        for reference in self.section.get_ints(key):
            index = reference if reference >= 0 else self.index + reference
            if not 0 <= index < self.index:
                allowed = f"one of the layers before, 0 to {self.index - 1}" if self.index else "none, as the first"
                raise self.section.error(
                    f"{reference} is layer {index} as seen from {self.index}; expected {allowed}", key
                )
            found.append(index)
        return tuple(found)

    def resolve_layer(self, key: str) -> int:
        """The single layer that a key names."""
        found = self.resolve_layers(key)
        if len(found) != 1:
            raise self.section.error(f"expected one layer, found {len(found)}", key)
        return found[0]
