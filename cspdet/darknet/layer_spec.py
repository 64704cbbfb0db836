"""Input and output types of the layer builders: `SectionContext` (section and earlier layers) and `LayerSpec`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from cspdet.darknet.cfg import CfgSection
from cspdet.structures import FeatureShape

IMAGE = -1  # index of the input image as a source


class LayerSpec(NamedTuple):
    """Specification of a layer: inputs, output shape, constructor and number of weights.

    `sources` are the indices of the input layers; the index IMAGE is the input image.
    """

    sources: tuple[int, ...]
    shape: FeatureShape
    build: Callable[[], nn.Module]
    num_weights: int = 0


@dataclass(frozen=True)
class SectionContext:
    """The input of a layer builder: a section, the shapes of the earlier layers, and the next section."""

    section: CfgSection
    index: int
    previous_shapes: tuple[FeatureShape, ...]
    image_shape: FeatureShape
    next_section: CfgSection | None
    bn_eps: float

    @property
    def previous_index(self) -> int:
        """Index of the previous layer, or IMAGE for the first layer."""
        return self.index - 1

    @property
    def input_shape(self) -> FeatureShape:
        """Output shape of the previous layer."""
        return self.shape_at(self.previous_index)

    def shape_at(self, index: int) -> FeatureShape:
        """Return the output shape of an earlier layer, or the shape of the image for the index IMAGE."""
        return self.image_shape if index == IMAGE else self.previous_shapes[index]

    def resolve_layers(self, key: str) -> tuple[int, ...]:
        """Return the indices of the layers that a key lists; negative values in the cfg are relative to this layer.

        Raises:
            ConfigError: An index does not refer to an earlier layer.
        """
        indices = []
        for reference in self.section.get_ints(key):
            index = reference if reference >= 0 else self.index + reference
            if not 0 <= index < self.index:
                allowed = f"an earlier layer, 0 to {self.index - 1}" if self.index else "none: it is the first layer"
                raise self.section.error(
                    f"{reference} is layer {index} relative to layer {self.index}; expected {allowed}", key
                )
            indices.append(index)
        return tuple(indices)

    def resolve_layer(self, key: str) -> int:
        """Return the index of the single layer that a key refers to.

        Raises:
            ConfigError: The key lists several layers, or a layer that is not earlier.
        """
        indices = self.resolve_layers(key)
        if len(indices) != 1:
            raise self.section.error(f"expected one layer, found {len(indices)}", key)
        return indices[0]
