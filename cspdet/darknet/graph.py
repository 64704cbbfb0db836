"""From a cfg to the plan of a network: what every layer takes, what it gives, and how to build it. Allocates nothing.

The shapes are worked out for one input size, so that maps which do not fit, references that lead nowhere and absurd
sizes are told with the line that they stand in before any memory is spent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from cspdet.darknet.cfg import Cfg, Section
from cspdet.darknet.layer_builders import RULES
from cspdet.darknet.layer_spec import IMAGE, Place, Planned, Shape

MOST_WEIGHTS = 2**29  # 2 GiB; the largest released network has 276 million
MOST_LIVE_NUMBERS = 2**27  # feature maps of one picture that are needed at the same time: 512 MiB
COLORS = 3


@dataclass(frozen=True)
class LayerPlan:
    """One layer: `sources` are indices of layers, or IMAGE."""

    section: Section
    index: int
    sources: tuple[int, ...]
    shape: Shape
    build: Callable[[], nn.Module]
    weights: int

    @property
    def name(self) -> str:
        """As messages call it, counted as Darknet counts."""
        return f"layer {self.index} [{self.section.kind}], line {self.section.line}"


class Plan(NamedTuple):
    """All layers, and which of them no later layer needs once layer i has run."""

    layers: tuple[LayerPlan, ...]
    freed: tuple[tuple[int, ...], ...]
    size_hw: tuple[int, int]


def plan(cfg: Cfg, size_hw: tuple[int, int] | None = None, *, bn_eps: float = 1e-5) -> Plan:
    """The plan for pictures of `size_hw`; None: those of the cfg.

    Raises:
        ConfigError: layers that cannot be, with `source:line`.
    """
    colors = cfg.net.whole("channels", 3)
    if colors != COLORS:
        raise cfg.net.problem(f"pictures here have 3 channels, found {colors}", "channels")
    height, width = size_hw or cfg.size_hw
    image = Shape(COLORS, height, width)
    layers: list[LayerPlan] = []
    for index, section in enumerate(cfg.layers):
        followed_by = cfg.layers[index + 1] if index + 1 < len(cfg.layers) else None
        place = Place(section, index, tuple(layer.shape for layer in layers), image, followed_by, bn_eps)
        planned = _checked(section, RULES[section.kind](place))
        _check_heads(cfg, section, planned.sources)
        layers.append(LayerPlan(section, index, *planned))
    freed = tuple(_freed(layers))
    _check_memory(cfg, layers, freed, image)
    return Plan(tuple(layers), freed, (height, width))


def _checked(section: Section, planned: Planned) -> Planned:
    if min(planned.shape) < 1:
        raise section.problem(f"nothing is left of its input: the output would be {planned.shape}")
    if planned.weights > MOST_WEIGHTS:
        raise section.problem(f"{planned.weights:,} weights; expected {MOST_WEIGHTS:,} at most")
    if planned.shape.numbers > MOST_LIVE_NUMBERS:
        raise section.problem(f"an output of {planned.shape} numbers; expected {MOST_LIVE_NUMBERS:,} at most")
    return planned


def _check_heads(cfg: Cfg, section: Section, sources: tuple[int, ...]) -> None:
    """Heads are ends: Darknet gives boxes on, but no released network takes them."""
    for source in sources:
        if source == IMAGE:
            continue
        if cfg.layers[source].kind == "yolo":
            raise section.problem(f"takes layer {source}, a [yolo], whose boxes are no feature map")
        after = cfg.layers[source + 1]
        if section is not after and after.kind == "yolo" and after.whole("new_coords", 0):
            raise section.problem(f"takes layer {source}, which with new_coords is the head's alone")


def _freed(layers: list[LayerPlan]) -> Iterator[tuple[int, ...]]:
    """Of every layer, the maps that it is the last to take; its own where nobody takes it."""
    last = {layer.index: layer.index for layer in layers}
    for layer in layers:
        last.update((source, layer.index) for source in layer.sources)
    last.pop(layers[-1].index)  # a classifier's output
    for layer in layers:
        yield tuple(source for source, at in last.items() if at == layer.index)


def _check_memory(cfg: Cfg, layers: list[LayerPlan], freed: tuple[tuple[int, ...], ...], image: Shape) -> None:
    weights = sum(layer.weights for layer in layers)
    if weights > MOST_WEIGHTS:
        raise cfg.net.problem(f"the layers have {weights:,} weights; expected {MOST_WEIGHTS:,} at most")
    live = image.numbers
    for layer, gone in zip(layers, freed, strict=True):
        live += layer.shape.numbers
        if live > MOST_LIVE_NUMBERS:
            raise layer.section.problem(
                f"the feature maps of one picture of {image} hold {live:,} numbers here; "
                f"expected {MOST_LIVE_NUMBERS:,} at most"
            )
        live -= sum(image.numbers if source == IMAGE else layers[source].shape.numbers for source in gone)
