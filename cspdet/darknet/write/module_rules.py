"""Conversion rules from modules to cfg sections; `cspdet.darknet.write.sections` lists them.

A rule writes the sections of a node. It returns the index of the layer with the output of the node.
"""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from cspdet.darknet.write.cfg_writer import CfgWriter, Rule
from cspdet.models.blocks import LEAKY_SLOPE, Maxout
from cspdet.models.trace import feature_shape


def convolution(writer: CfgWriter, node: fx.Node) -> int:
    """Write a `[convolutional]` with linear activation; a following activation replaces `linear`."""
    conv = writer.module(node)
    assert isinstance(conv, nn.Conv2d)
    size, step, padding, dilation = map(_side, (conv.kernel_size, conv.stride, conv.padding, conv.dilation))
    if None in (size, step, padding, dilation) or conv.padding_mode != "zeros":
        writer.unsupported(
            node, "size, stride and padding have to be equal in both directions, with padding_mode zeros"
        )
    options: dict[str, object] = {"filters": conv.out_channels, "size": size, "stride": step}
    options |= {"groups": conv.groups} if conv.groups > 1 else {}
    options |= {"dilation": dilation} if dilation != 1 else {}
    options |= {"pad": 1} if padding == conv.kernel_size[0] // 2 else {"padding": padding}
    writer.ensure_last(node.all_input_nodes[0], node)
    options["activation"] = "linear"
    return writer.emit("convolutional", feature_shape(node), options, name=str(node.target), weighted_module=conv)


def linear(writer: CfgWriter, node: fx.Node) -> int:
    """Write a linear layer as a 1x1 convolution on a 1x1 map, as in the published classifiers."""
    module = writer.module(node)
    assert isinstance(module, nn.Linear)
    writer.ensure_last(node.all_input_nodes[0], node)
    options = {"filters": module.out_features, "size": 1, "stride": 1, "pad": 1, "activation": "linear"}
    return writer.emit("convolutional", feature_shape(node), options, name=str(node.target), weighted_module=module)


def normalization(writer: CfgWriter, node: fx.Node) -> int:
    """Fuse a batch normalization into the convolution before it."""
    norm = writer.module(node)
    assert isinstance(norm, nn.BatchNorm2d)
    index = writer.resolve(node.all_input_nodes[0])
    layer = writer.fusable_layer(index)
    if layer is None or layer.weighted_module is None or layer.norm is not None:
        writer.unsupported(node, "a normalization has to follow a convolution directly")
    if layer.weighted_module.bias is not None or norm.running_mean is None or not norm.affine:
        writer.unsupported(
            node, "a normalized convolution has no bias, and its normalization needs weight, bias, mean and variance"
        )
    layer.norm, layer.options = norm, {"batch_normalize": 1, **layer.options}
    return index


def activation(name: str) -> Rule:
    """Return the rule that fuses an activation with this cfg name into the layer before it."""

    def rule(writer: CfgWriter, node: fx.Node) -> int:
        if node.op == "call_module" and getattr(writer.module(node), "negative_slope", LEAKY_SLOPE) != LEAKY_SLOPE:
            writer.unsupported(node, f"the slope of `leaky` is {LEAKY_SLOPE}")
        index = writer.resolve(node.all_input_nodes[0])
        layer = writer.fusable_layer(index)
        if layer is None:
            writer.unsupported(node, "an activation has to follow a convolution, sum or product directly")
        layer.options["activation"] = name
        return index

    return rule


def max_pool(writer: CfgWriter, node: fx.Node) -> int:
    """Write a `[maxpool]` with a square window."""
    module = writer.module(node)
    assert isinstance(module, nn.MaxPool2d)
    size, step, padding = map(_side, (module.kernel_size, module.stride, module.padding))
    if size is None or step is None or padding is None or _side(module.dilation) != 1:
        writer.unsupported(node, "the window has to be square, and without dilation")
    if module.ceil_mode and (size, step, padding) != (2, 2, 0):
        writer.unsupported(node, "ceil_mode is only supported for size 2 and stride 2")
    return _pool_section(writer, node, "maxpool", size, step, padding, ceil=module.ceil_mode)


def average_pool(writer: CfgWriter, node: fx.Node) -> int:
    """Write a `[local_avgpool]` with a square window."""
    module = writer.module(node)
    assert isinstance(module, nn.AvgPool2d)
    size, step = _side(module.kernel_size), _side(module.stride)
    if size is None or step is None or _side(module.padding) != 0 or module.ceil_mode or module.divisor_override:
        writer.unsupported(node, "the window has to be square, without padding, ceil_mode and divisor_override")
    return _pool_section(writer, node, "local_avgpool", size, step, 0, ceil=False)


def _pool_section(
    writer: CfgWriter, node: fx.Node, section_type: str, size: int, step: int, padding: int, *, ceil: bool
) -> int:
    """Write a pooling section and return its layer index.

    Without the key `padding`, Darknet uses a total padding of size - 1. The key is omitted if this default has the same
    effect.
    """
    even = not any(side % 2 for side in feature_shape(node.all_input_nodes[0]).size_hw)
    is_default_padding = (size % 2 == 1 and padding == size // 2) or (
        (size, step, padding) == (2, 2, 0) and (ceil or even)
    )
    options = {} if is_default_padding else {"padding": 2 * padding}
    return pool(section_type, size=size, stride=step, **options)(writer, node)


def pool(section_type: str, **options: object) -> Rule:
    """Return the rule for a pooling that writes a section with these options."""

    def rule(writer: CfgWriter, node: fx.Node) -> int:
        writer.ensure_last(node.all_input_nodes[0], node)
        return writer.emit(section_type, feature_shape(node), options)

    return rule


def global_average_pool(writer: CfgWriter, node: fx.Node) -> int:
    """Write an `[avgpool]`."""
    if feature_shape(node).size_hw != (1, 1):
        writer.unsupported(node, "the output of a global average pooling has to be one cell")
    return pool("avgpool")(writer, node)


def maxout(writer: CfgWriter, node: fx.Node) -> int:
    """Write a `[maxpool]` with the maximum over groups of channels."""
    module = writer.module(node)
    assert isinstance(module, Maxout)
    if module.c_in == module.c_out:
        return identity(writer, node)
    return pool("maxpool", maxpool_depth=1, out_channels=module.c_out)(writer, node)


def identity(writer: CfgWriter, node: fx.Node) -> int:
    """Write no section, because the node does not change its input; return the index of the input layer."""
    return writer.resolve(node.all_input_nodes[0])


def _side(value: Any) -> Any:
    """Return the value of a parameter that is an integer or a pair of equal integers. Return None for other values."""
    sides = set(value) if isinstance(value, tuple) else {value}
    side = sides.pop()
    return side if not sides and isinstance(side, int) else None
