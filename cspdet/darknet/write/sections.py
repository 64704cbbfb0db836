"""Conversion rules from modules and functions to cfg sections.

    Conv2d, BatchNorm2d, activation   [convolutional]       cat               [route]
    Linear on a 1x1 map               [convolutional]       split, chunk      [route] groups=, or several
    MaxPool2d, AvgPool2d              [maxpool] [local_avgpool]               upsampling        [upsample]
    average of the whole map          [avgpool]             +, shortcut       [shortcut]
    Maxout                            [maxpool] maxpool_depth=1               *                 [sam] [scale_channels]

Current Darknet versions reject a shortcut from a finer map. Therefore such a map is first subsampled by a [maxpool] of
size 1, which selects the same cells. To add a 1x1 map, an [upsample] repeats its cell; such a cfg is valid only for one
square input size.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from cspdet.darknet.write import module_rules as modules
from cspdet.darknet.write.cfg_writer import CfgLayer, CfgWriter, Rule
from cspdet.darknet.write.module_rules import activation, identity, pool
from cspdet.errors import ConfigError
from cspdet.models.backbones.darknet_reference import SameSizeMaxPool
from cspdet.models.blocks import Maxout, shortcut
from cspdet.models.head import YoloHead
from cspdet.models.trace import feature_shape, is_feature_map, propagate_shapes, trace
from cspdet.structures import FeatureShape

SECTION_MODULES = (Maxout, SameSizeMaxPool, YoloHead)  # modules of cspdet that are traced as one node each


def build_sections(
    model: nn.Module, size_hw: tuple[int, int], where: str, head_options: Callable[[int], dict[str, object]]
) -> list[CfgLayer]:
    """Convert a network to cfg layers.

    Args:
        model: The network, in evaluation mode.
        size_hw: Height and width of the input in pixels.
        where: Name of the model for messages.
        head_options: Function from a level (0: finest) to the options of its [yolo].

    Raises:
        ConfigError: A part of the network cannot be expressed in a cfg.
    """
    try:
        graph = trace(model, SECTION_MODULES)
        propagate_shapes(model, graph, torch.zeros(1, 3, *size_hw, device=next(model.parameters()).device))
    except (fx.proxy.TraceError, TypeError) as error:
        raise ConfigError(f"{where}: not a fixed sequence of layers, as a cfg requires: {error}") from None
    writer = CfgWriter(model, where, EXPORT_RULES, head_options)
    writer.write(graph)
    return writer.layers


def _flatten(writer: CfgWriter, node: fx.Node) -> int:
    if feature_shape(node.all_input_nodes[0]).size_hw != (1, 1):
        writer.unsupported(node, "only a map of one cell can be flattened")
    return identity(writer, node)


def _concatenation(writer: CfgWriter, node: fx.Node) -> int:
    if node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0) != 1:
        writer.unsupported(node, "only channels can be concatenated")
    maps: Any = node.args[0]
    indices = [writer.resolve(source) for source in maps]
    return _route(writer, node, indices, feature_shape(node))


def _route(writer: CfgWriter, node: fx.Node, indices: list[int], shape: FeatureShape) -> int:
    return writer.emit(
        "route", shape, {"layers": ",".join(str(writer.relative_index(index, node)) for index in indices)}
    )


def _interpolation(writer: CfgWriter, node: fx.Node) -> int:
    before, after = feature_shape(node.all_input_nodes[0]), feature_shape(node)
    step = after.height // before.height
    if node.kwargs.get("mode") != "nearest" or after.size_hw != (step * before.height, step * before.width):
        writer.unsupported(node, "only nearest-neighbor upsampling by one integer factor is supported")
    return pool("upsample", stride=step)(writer, node)


def _addition(writer: CfgWriter, node: fx.Node) -> int:
    """Write the sum of two maps of equal shape, or of a map and a 1x1 map."""
    if len(node.all_input_nodes) != 2:
        writer.unsupported(node, "only sums of two different maps are supported")
    maps = sorted(node.all_input_nodes, key=lambda source: feature_shape(source) != feature_shape(node))
    x, other = (writer.resolve(source) for source in maps)
    small = feature_shape(maps[1])
    if small != feature_shape(node):
        shape = feature_shape(node)
        if small.size_hw != (1, 1) or small.channels != shape.channels or shape.height != shape.width:
            reason = f"it adds {small} to {shape}, which needs an [upsample] and a square input"
            writer.unsupported(node, reason)
        writer.ensure_layer_last(other, node)
        other = writer.emit("upsample", shape, {"stride": shape.height})
    if other == len(writer.layers) - 1:
        x, other = other, x
    return _shortcut_from(writer, node, x, other)


def _shortcut(writer: CfgWriter, node: fx.Node) -> int:
    x, source = node.args
    assert isinstance(x, fx.Node) and isinstance(source, fx.Node)
    main_index, source_index, shape = writer.resolve(x), writer.resolve(source), feature_shape(source)
    step = shape.height // feature_shape(node).height
    if step > 1:
        writer.ensure_layer_last(source_index, node)
        sampled = feature_shape(node)._replace(channels=shape.channels)
        source_index = writer.emit("maxpool", sampled, {"size": 1, "stride": step})
    elif shape == feature_shape(x) and source_index == len(writer.layers) - 1:
        main_index, source_index = source_index, main_index
    return _shortcut_from(writer, node, main_index, source_index)


def _shortcut_from(writer: CfgWriter, node: fx.Node, x: int, other: int) -> int:
    writer.ensure_layer_last(x, node)
    return writer.emit(
        "shortcut", feature_shape(node), {"from": writer.relative_index(other, node), "activation": "linear"}
    )


def _product(writer: CfgWriter, node: fx.Node) -> int:
    """Write the product of two maps of equal shape, or of a map and one value per channel."""
    if len(node.all_input_nodes) != 2:
        writer.unsupported(node, "only products of two different maps are supported")
    maps = sorted(node.all_input_nodes, key=lambda source: feature_shape(source).num_elements)
    small, full = (feature_shape(source) for source in maps)
    if small not in (full, full._replace(height=1, width=1)):
        writer.unsupported(node, f"it multiplies {small} with {full}")
    gate, other = (writer.resolve(source) for source in maps)
    if small == full and other == len(writer.layers) - 1:
        gate, other = other, gate
    writer.ensure_layer_last(gate, node)
    section_type = "sam" if small == full else "scale_channels"
    return writer.emit(section_type, full, {"from": writer.relative_index(other, node), "activation": "linear"})


def _getitem(writer: CfgWriter, node: fx.Node) -> int:
    """Write one part of a split along the channels; write nothing for a slice that is the whole map."""
    source, key = node.args
    assert isinstance(source, fx.Node)
    if isinstance(key, int) and source.target in ("split", "chunk"):
        (input_node,) = source.all_input_nodes
        pieces = sorted(source.users, key=lambda use: int(str(use.args[1])))
        num_channels = sum(feature_shape(use).channels for use in pieces)
        if [use.args[1] for use in pieces] != list(range(len(pieces))) or num_channels != feature_shape(
            input_node
        ).channels:
            writer.unsupported(node, "all parts of a split along the channels have to be used, once each")
        first = sum(feature_shape(use).channels for use in pieces[:key])
        return _channel_slice(writer, node, input_node, first, first + feature_shape(node).channels)
    if not is_feature_map(source) or feature_shape(source) != feature_shape(node):
        writer.unsupported(node, "it crops a map; an input size whose maps have even sides may avoid this")
    return writer.resolve(source)


def _channel_slice(writer: CfgWriter, node: fx.Node, input_node: fx.Node, first: int, end: int) -> int:
    """Write the channels from `first` to `end` (exclusive) as [route] sections.

    Each [route] selects one channel group, as large as possible. A last [route] concatenates several groups.
    """
    total, side_hw = feature_shape(input_node).channels, feature_shape(input_node).size_hw
    source, pieces = writer.resolve(input_node), []
    while first < end:
        size = next(n for n in range(end - first, 0, -1) if total % n == 0 and first % n == 0)
        options = {"layers": writer.relative_index(source, node), "groups": total // size, "group_id": first // size}
        pieces.append(writer.emit("route", FeatureShape(size, *side_hw), options))
        first += size
    return pieces[0] if len(pieces) == 1 else _route(writer, node, pieces, feature_shape(node))


EXPORT_RULES: dict[object, Rule] = {
    nn.Conv2d: modules.convolution, nn.Linear: modules.linear, nn.BatchNorm2d: modules.normalization,
    nn.MaxPool2d: modules.max_pool, nn.AvgPool2d: modules.average_pool,
    nn.AdaptiveAvgPool2d: modules.global_average_pool,
    SameSizeMaxPool: pool("maxpool", size=2, stride=1), Maxout: modules.maxout, nn.Identity: identity,
    nn.Dropout: identity,
    nn.LeakyReLU: activation("leaky"), nn.ReLU: activation("relu"), nn.SiLU: activation("swish"),
    nn.Mish: activation("mish"), nn.Sigmoid: activation("logistic"), "sigmoid": activation("logistic"),
    operator.sub: identity, operator.truediv: identity,  # of an image normalization with mean 0 and std 1
    operator.add: _addition, operator.mul: _product, operator.getitem: _getitem, shortcut: _shortcut,
    torch.cat: _concatenation, F.interpolate: _interpolation, "flatten": _flatten,
}  # fmt: skip
