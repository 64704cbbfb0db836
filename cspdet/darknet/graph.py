"""Layer graph of a cfg: inputs, output shape and constructor of every layer, computed without allocating tensors.

Shapes are computed for one input size. Mismatched shapes, invalid references and excessive sizes are reported with
their line in the cfg before any memory is allocated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from cspdet.darknet.cfg import Cfg, CfgSection
from cspdet.darknet.layer_builders import LAYER_BUILDERS
from cspdet.darknet.layer_spec import IMAGE, LayerSpec, SectionContext
from cspdet.darknet.schema import HEAD_SECTIONS
from cspdet.structures import FeatureShape

MAX_WEIGHTS = 2**29  # 2 GiB; the largest released network has 276 million
# Values of one image that are live at the same time: 1 GiB. The released network with the most is cspx-p7-mish at
# 1536x1536; its first two layers and the image have 0.88 GiB.
MAX_LIVE_ACTIVATIONS = 2**28
IMAGE_CHANNELS = 3


@dataclass(frozen=True)
class LayerNode:
    """A layer of the graph. `build` creates its module.

    `sources` are the indices of the input layers; the index IMAGE is the input image.
    """

    section: CfgSection
    index: int
    sources: tuple[int, ...]
    shape: FeatureShape
    build: Callable[[], nn.Module]
    num_weights: int

    @property
    def name(self) -> str:
        """Name of the layer for messages, with the layer index that Darknet prints."""
        return f"layer {self.index} [{self.section.section_type}], line {self.section.line}"


class Graph(NamedTuple):
    """Layer graph of a network. `last_uses[i]` has the indices of the outputs that can be freed after layer i."""

    layers: tuple[LayerNode, ...]
    last_uses: tuple[tuple[int, ...], ...]
    size_hw: tuple[int, int]


def _check_channels(cfg: Cfg) -> None:
    channels = cfg.net.get_int("channels", 3)
    if channels != IMAGE_CHANNELS:
        raise cfg.net.error(f"expected 3 input channels, found {channels}", "channels")


def build_graph(cfg: Cfg, size_hw: tuple[int, int] | None = None, *, bn_eps: float = 1e-5) -> Graph:
    """Build the layer graph of a cfg.

    Args:
        cfg: The parsed cfg.
        size_hw: Height and width of the input in pixels; None: height and width of the cfg.
        bn_eps: Epsilon of the batch normalization.

    Raises:
        ConfigError: A layer is invalid; the message begins with `source:line`.
    """
    _check_channels(cfg)
    height, width = size_hw or cfg.size_hw
    image = FeatureShape(IMAGE_CHANNELS, height, width)
    layers: list[LayerNode] = []
    for index, section in enumerate(cfg.layers):
        next_section = cfg.layers[index + 1] if index + 1 < len(cfg.layers) else None
        context = SectionContext(section, index, tuple(layer.shape for layer in layers), image, next_section, bn_eps)
        spec = _validate_spec(section, LAYER_BUILDERS[section.section_type](context))
        _check_heads(cfg, section, spec.sources)
        layers.append(LayerNode(section, index, *spec))
    last_uses = tuple(_last_uses(layers))
    _check_memory(cfg, layers, last_uses, image)
    return Graph(tuple(layers), last_uses, (height, width))


def _validate_spec(section: CfgSection, spec: LayerSpec) -> LayerSpec:
    if min(spec.shape) < 1:
        raise section.error(f"the output is empty: {spec.shape}")
    if spec.num_weights > MAX_WEIGHTS:
        raise section.error(f"{spec.num_weights:,} weights; expected at most {MAX_WEIGHTS:,}")
    if spec.shape.num_elements > MAX_LIVE_ACTIVATIONS:
        raise section.error(f"the output has {spec.shape} values; expected at most {MAX_LIVE_ACTIVATIONS:,}")
    return spec


def _check_heads(cfg: Cfg, section: CfgSection, sources: tuple[int, ...]) -> None:
    """Raise ConfigError if a section reads a layer that it must not read.

    No section may read a head. The layer before a [yolo] with `new_coords` may be read only by this [yolo].
    """
    for source in sources:
        if source == IMAGE:
            continue
        source_type = cfg.layers[source].section_type
        if source_type in HEAD_SECTIONS:
            raise section.error(f"reads layer {source}, a [{source_type}], whose output is not a feature map")
        after = cfg.layers[source + 1]
        if section is not after and after.section_type == "yolo" and after.get_int("new_coords", 0):
            raise section.error(f"reads layer {source}, which with new_coords only the [yolo] after it may read")


def _last_uses(layers: list[LayerNode]) -> Iterator[tuple[int, ...]]:
    """Yield for each layer the indices of the outputs that no later layer reads, so that they can be freed."""
    last = {layer.index: layer.index for layer in layers}
    for layer in layers:
        last.update((source, layer.index) for source in layer.sources)
    last.pop(layers[-1].index)  # the output of the network is not freed
    for layer in layers:
        yield tuple(source for source, at in last.items() if at == layer.index)


def _check_memory(
    cfg: Cfg, layers: list[LayerNode], last_uses: tuple[tuple[int, ...], ...], image: FeatureShape
) -> None:
    num_weights = sum(layer.num_weights for layer in layers)
    if num_weights > MAX_WEIGHTS:
        raise cfg.net.error(f"the layers have {num_weights:,} weights; expected at most {MAX_WEIGHTS:,}")
    live = image.num_elements
    for layer, gone in zip(layers, last_uses, strict=True):
        live += layer.shape.num_elements
        if live > MAX_LIVE_ACTIVATIONS:
            raise layer.section.error(
                f"the live feature maps of one image of {image} have {live:,} values; "
                f"expected at most {MAX_LIVE_ACTIVATIONS:,}"
            )
        live -= sum(image.num_elements if source == IMAGE else layers[source].shape.num_elements for source in gone)
