"""What Darknet has words for: how each module and function of our networks becomes sections of a cfg.

    Conv2d, BatchNorm2d, activation   [convolutional]       cat               [route]
    Linear of one cell                [convolutional]       split, chunk      [route] groups=, or several
    MaxPool2d, AvgPool2d              [maxpool] [local_avgpool]               upsampling        [upsample]
    average of the whole map          [avgpool]             +, shortcut       [shortcut]
    Maxout                            [maxpool] maxpool_depth=1               *                 [sam] [scale_channels]

A shortcut from a finer map, which today's Darknet refuses, reads it through a [maxpool] of size 1, which picks the same
pixels. A sum with a map of one cell repeats that cell by [upsample], which is right for one square input size.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from cspdet.darknet.layer_spec import Shape
from cspdet.darknet.write import module_rules as modules
from cspdet.darknet.write.cfg_writer import Layer, Rule, Writer
from cspdet.darknet.write.module_rules import activation, pool, same
from cspdet.errors import ConfigError
from cspdet.models.backbones.darknet_reference import SameSizeMaxPool
from cspdet.models.blocks import Maxout, shortcut
from cspdet.models.trace import shape_of, trace


def sections_of(
    model: nn.Module, size_hw: tuple[int, int], where: str, head: Callable[[int], dict[str, object]]
) -> list[Layer]:
    """The layers of a network in evaluation mode; `head` gives the options of the [yolo] of a scale, 0 the finest.

    Raises:
        ConfigError: something in the network that Darknet has no section for.
    """
    try:
        graph = trace(model, size_hw)
    except (fx.proxy.TraceError, TypeError) as error:
        raise ConfigError(f"{where}: is no fixed sequence of layers, as a cfg is: {error}") from None
    writer = Writer(model, where, RULES, head)
    writer.write(graph)
    return writer.layers


def _flatten(writer: Writer, node: fx.Node) -> int:
    if shape_of(node.all_input_nodes[0]).side_hw != (1, 1):
        writer.refuse(node, "only a map of one cell can be read as a row of numbers")
    return same(writer, node)


def _concatenation(writer: Writer, node: fx.Node) -> int:
    if node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0) != 1:
        writer.refuse(node, "maps are concatenated along their channels")
    maps: Any = node.args[0]
    indices = [writer.place(source) for source in maps]
    return _route(writer, node, indices, shape_of(node))


def _route(writer: Writer, node: fx.Node, indices: list[int], shape: Shape) -> int:
    return writer.emit("route", shape, {"layers": ",".join(str(writer.reference(index, node)) for index in indices)})


def _interpolation(writer: Writer, node: fx.Node) -> int:
    before, after = shape_of(node.all_input_nodes[0]), shape_of(node)
    step = after.height // before.height
    if node.kwargs.get("mode") != "nearest" or after.side_hw != (step * before.height, step * before.width):
        writer.refuse(node, "upsampling repeats every value equally often both ways")
    return pool("upsample", stride=step)(writer, node)


def _addition(writer: Writer, node: fx.Node) -> int:
    """Of two maps of one shape, or of one with a map of one cell."""
    if len(node.all_input_nodes) != 2:
        writer.refuse(node, "sums are of two different maps")
    maps = sorted(node.all_input_nodes, key=lambda source: shape_of(source) != shape_of(node))
    x, other = (writer.place(source) for source in maps)
    small = shape_of(maps[1])
    if small != shape_of(node):
        shape = shape_of(node)
        if small.side_hw != (1, 1) or small.channels != shape.channels or shape.height != shape.width:
            why = f"it adds {small} to {shape}, which takes an [upsample] and a square input"
            writer.refuse(node, why)
        writer.last_layer(other, node)
        other = writer.emit("upsample", shape, {"stride": shape.height})
    if other == len(writer.layers) - 1:
        x, other = other, x
    return _shortcut_from(writer, node, x, other)


def _shortcut(writer: Writer, node: fx.Node) -> int:
    x, source = node.args
    assert isinstance(x, fx.Node) and isinstance(source, fx.Node)
    at, given, shape = writer.place(x), writer.place(source), shape_of(source)
    step = shape.height // shape_of(node).height
    if step > 1:
        writer.last_layer(given, node)
        sampled = shape_of(node)._replace(channels=shape.channels)
        given = writer.emit("maxpool", sampled, {"size": 1, "stride": step})
    elif shape == shape_of(x) and given == len(writer.layers) - 1:
        at, given = given, at
    return _shortcut_from(writer, node, at, given)


def _shortcut_from(writer: Writer, node: fx.Node, x: int, other: int) -> int:
    writer.last_layer(x, node)
    return writer.emit("shortcut", shape_of(node), {"from": writer.reference(other, node), "activation": "linear"})


def _product(writer: Writer, node: fx.Node) -> int:
    """Of two maps of one shape, or of one with a number a channel."""
    if len(node.all_input_nodes) != 2:
        writer.refuse(node, "products are of two different maps")
    maps = sorted(node.all_input_nodes, key=lambda source: shape_of(source).numbers)
    small, full = (shape_of(source) for source in maps)
    if small not in (full, full._replace(height=1, width=1)):
        writer.refuse(node, f"it multiplies {small} with {full}")
    gate, other = (writer.place(source) for source in maps)
    if small == full and other == len(writer.layers) - 1:
        gate, other = other, gate
    writer.last_layer(gate, node)
    kind = "sam" if small == full else "scale_channels"
    return writer.emit(kind, full, {"from": writer.reference(other, node), "activation": "linear"})


def _part(writer: Writer, node: fx.Node) -> int:
    """One of the maps of a split, or a piece of a map that is all of it or some of its channels."""
    source, key = node.args
    assert isinstance(source, fx.Node)
    if isinstance(key, int) and source.target in ("split", "chunk"):
        (whole,) = source.all_input_nodes
        parts = sorted(source.users, key=lambda use: int(str(use.args[1])))
        given = sum(shape_of(use).channels for use in parts)
        if [use.args[1] for use in parts] != list(range(len(parts))) or given != shape_of(whole).channels:
            writer.refuse(node, "of a split along the channels all parts have to be used, once each")
        first = sum(shape_of(use).channels for use in parts[:key])
        return _channels(writer, node, whole, first, first + shape_of(node).channels)
    if "shape" not in source.meta or shape_of(source) != shape_of(node):
        writer.refuse(node, "it cuts a piece out of a map, as of an odd one that was halved; another size may not")
    return writer.place(source)


def _channels(writer: Writer, node: fx.Node, whole: fx.Node, first: int, end: int) -> int:
    """Channels `first` to before `end`, by as few [route] as their places in equal groups allow."""
    total, side_hw = shape_of(whole).channels, shape_of(whole).side_hw
    source, pieces = writer.place(whole), []
    while first < end:
        size = next(n for n in range(end - first, 0, -1) if total % n == 0 and first % n == 0)
        options = {"layers": writer.reference(source, node), "groups": total // size, "group_id": first // size}
        pieces.append(writer.emit("route", Shape(size, *side_hw), options))
        first += size
    return pieces[0] if len(pieces) == 1 else _route(writer, node, pieces, shape_of(node))


RULES: dict[object, Rule] = {
    nn.Conv2d: modules.convolution, nn.Linear: modules.linear, nn.BatchNorm2d: modules.normalization,
    nn.MaxPool2d: modules.max_pool, nn.AvgPool2d: modules.average_pool, nn.AdaptiveAvgPool2d: modules.average,
    SameSizeMaxPool: pool("maxpool", size=2, stride=1), Maxout: modules.maxout, nn.Identity: same, nn.Dropout: same,
    nn.LeakyReLU: activation("leaky"), nn.ReLU: activation("relu"), nn.SiLU: activation("swish"),
    nn.Mish: activation("mish"), nn.Sigmoid: activation("logistic"), "sigmoid": activation("logistic"),
    operator.sub: same, operator.truediv: same,  # of a normalization of pictures that changes nothing
    operator.add: _addition, operator.mul: _product, operator.getitem: _part, shortcut: _shortcut,
    torch.cat: _concatenation, F.interpolate: _interpolation, "flatten": _flatten,
}  # fmt: skip
