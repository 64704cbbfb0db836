"""From a cfg to the plan of a network: what every layer takes, what it gives, and how to build it. Allocates nothing.

The shapes are worked out for one input size, so that maps which do not fit, references that lead nowhere and absurd
sizes are told with the line that they stand in before any memory is spent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from cspdet.darknet.cfg import Cfg, CfgSection
from cspdet.darknet.layer_builders import LAYER_BUILDERS
from cspdet.darknet.layer_spec import IMAGE, LayerSpec, SectionContext
from cspdet.structures import FeatureShape

MAX_WEIGHTS = 2**29  # 2 GiB; the largest released network has 276 million
MAX_LIVE_ACTIVATIONS = 2**27  # feature maps of one picture that are needed at the same time: 512 MiB
IMAGE_CHANNELS = 3


@dataclass(frozen=True)
class LayerNode:
    """One layer: `sources` are indices of layers, or IMAGE."""

    section: CfgSection
    index: int
    sources: tuple[int, ...]
    shape: FeatureShape
    build: Callable[[], nn.Module]
    num_weights: int

    @property
    def name(self) -> str:
        """As messages call it, counted as Darknet counts."""
        return f"layer {self.index} [{self.section.section_type}], line {self.section.line}"


class Graph(NamedTuple):
    """All layers, and which of them no later layer needs once layer i has run."""

    layers: tuple[LayerNode, ...]
    last_uses: tuple[tuple[int, ...], ...]
    size_hw: tuple[int, int]


def build_graph(cfg: Cfg, size_hw: tuple[int, int] | None = None, *, bn_eps: float = 1e-5) -> Graph:
    """The plan for pictures of `size_hw`; None: those of the cfg.

    Raises:
        ConfigError: layers that cannot be, with `source:line`.
    """
    channels = cfg.net.get_int("channels", 3)
    if channels != IMAGE_CHANNELS:
        raise cfg.net.error(f"pictures here have 3 channels, found {channels}", "channels")
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
        raise section.error(f"nothing is left of its input: the output would be {spec.shape}")
    if spec.num_weights > MAX_WEIGHTS:
        raise section.error(f"{spec.num_weights:,} weights; expected {MAX_WEIGHTS:,} at most")
    if spec.shape.num_elements > MAX_LIVE_ACTIVATIONS:
        raise section.error(f"an output of {spec.shape} numbers; expected {MAX_LIVE_ACTIVATIONS:,} at most")
    return spec


def _check_heads(cfg: Cfg, section: CfgSection, sources: tuple[int, ...]) -> None:
    """Heads are ends: Darknet gives boxes on, but no released network takes them."""
    for source in sources:
        if source == IMAGE:
            continue
        if cfg.layers[source].section_type == "yolo":
            raise section.error(f"takes layer {source}, a [yolo], whose boxes are no feature map")
        after = cfg.layers[source + 1]
        if section is not after and after.section_type == "yolo" and after.get_int("new_coords", 0):
            raise section.error(f"takes layer {source}, which with new_coords is the head's alone")


def _last_uses(layers: list[LayerNode]) -> Iterator[tuple[int, ...]]:
    """Of every layer, the maps that it is the last to take; its own where nobody takes it."""
    last = {layer.index: layer.index for layer in layers}
    for layer in layers:
        last.update((source, layer.index) for source in layer.sources)
    last.pop(layers[-1].index)  # a classifier's output
    for layer in layers:
        yield tuple(source for source, at in last.items() if at == layer.index)


def _check_memory(
    cfg: Cfg, layers: list[LayerNode], last_uses: tuple[tuple[int, ...], ...], image: FeatureShape
) -> None:
    num_weights = sum(layer.num_weights for layer in layers)
    if num_weights > MAX_WEIGHTS:
        raise cfg.net.error(f"the layers have {num_weights:,} weights; expected {MAX_WEIGHTS:,} at most")
    live = image.num_elements
    for layer, gone in zip(layers, last_uses, strict=True):
        live += layer.shape.num_elements
        if live > MAX_LIVE_ACTIVATIONS:
            raise layer.section.error(
                f"the feature maps of one picture of {image} hold {live:,} numbers here; "
                f"expected {MAX_LIVE_ACTIVATIONS:,} at most"
            )
        live -= sum(image.num_elements if source == IMAGE else layers[source].shape.num_elements for source in gone)
