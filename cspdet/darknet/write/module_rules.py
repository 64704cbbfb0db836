"""Rules that convert each module of our networks to a cfg section; `cspdet.darknet.write.sections` lists them."""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from cspdet.darknet.write.cfg_writer import Rule, Writer
from cspdet.models.blocks import LEAKY_SLOPE, Maxout
from cspdet.models.trace import shape_of


def convolution(writer: Writer, node: fx.Node) -> int:
    """A `[convolutional]`, linear until an activation follows."""
    conv = writer.module(node)
    assert isinstance(conv, nn.Conv2d)
    size, step, padding, dilation = map(_side, (conv.kernel_size, conv.stride, conv.padding, conv.dilation))
    if None in (size, step, padding, dilation) or conv.padding_mode != "zeros":
        writer.refuse(node, "kernel, stride and padding have to be the same both ways, and padding zeros")
    options: dict[str, object] = {"filters": conv.out_channels, "size": size, "stride": step}
    options |= {"groups": conv.groups} if conv.groups > 1 else {}
    options |= {"dilation": dilation} if dilation != 1 else {}
    options |= {"pad": 1} if padding == conv.kernel_size[0] // 2 else {"padding": padding}
    writer.last(node.all_input_nodes[0], node)
    options["activation"] = "linear"
    return writer.emit("convolutional", shape_of(node), options, name=str(node.target), weighted=conv)


def linear(writer: Writer, node: fx.Node) -> int:
    """As the released classifiers have it: a 1x1 convolution of the only cell."""
    module = writer.module(node)
    assert isinstance(module, nn.Linear)
    writer.last(node.all_input_nodes[0], node)
    options = {"filters": module.out_features, "size": 1, "stride": 1, "pad": 1, "activation": "linear"}
    return writer.emit("convolutional", shape_of(node), options, name=str(node.target), weighted=module)


def normalization(writer: Writer, node: fx.Node) -> int:
    """A part of the convolution before it."""
    norm = writer.module(node)
    assert isinstance(norm, nn.BatchNorm2d)
    index = writer.place(node.all_input_nodes[0])
    layer = writer.open(index)
    if layer is None or layer.weighted is None or layer.norm is not None:
        writer.refuse(node, "normalization is a part of the convolution before it")
    if layer.weighted.bias is not None or norm.running_mean is None or not norm.affine:
        writer.refuse(node, "a normalized convolution has no bias, and a normalization has all its four numbers")
    layer.norm, layer.options = norm, {"batch_normalize": 1, **layer.options}
    return index


def activation(name: str) -> Rule:
    """The rule for an activation: a part of the layer before it."""

    def rule(writer: Writer, node: fx.Node) -> int:
        if node.op == "call_module" and getattr(writer.module(node), "negative_slope", LEAKY_SLOPE) != LEAKY_SLOPE:
            writer.refuse(node, f"its `leaky` has the slope {LEAKY_SLOPE}")
        index = writer.place(node.all_input_nodes[0])
        layer = writer.open(index)
        if layer is None:
            writer.refuse(node, "an activation is a part of the convolution, sum or product before it")
        layer.options["activation"] = name
        return index

    return rule


def max_pool(writer: Writer, node: fx.Node) -> int:
    """A `[maxpool]`."""
    module = writer.module(node)
    assert isinstance(module, nn.MaxPool2d)
    size, step, padding = map(_side, (module.kernel_size, module.stride, module.padding))
    if size is None or step is None or padding is None or _side(module.dilation) != 1:
        writer.refuse(node, "the window has to be the same both ways, and without gaps")
    if module.ceil_mode and (size, step, padding) != (2, 2, 0):
        writer.refuse(node, "a window that reaches over the border has to have size 2 and stride 2")
    return _window(writer, node, "maxpool", size, step, padding, ceil=module.ceil_mode)


def average_pool(writer: Writer, node: fx.Node) -> int:
    """A `[local_avgpool]`."""
    module = writer.module(node)
    assert isinstance(module, nn.AvgPool2d)
    size, step = _side(module.kernel_size), _side(module.stride)
    if size is None or step is None or _side(module.padding) != 0 or module.ceil_mode or module.divisor_override:
        writer.refuse(node, "the window has to be the same both ways, and within the map")
    return _window(writer, node, "local_avgpool", size, step, 0, ceil=False)


def _window(writer: Writer, node: fx.Node, kind: str, size: int, step: int, padding: int, *, ceil: bool) -> int:
    """`padding` is written where Darknet's own, size - 1 for both sides together, would give something else."""
    even = not any(side % 2 for side in shape_of(node.all_input_nodes[0]).side_hw)
    usual = (size % 2 == 1 and padding == size // 2) or ((size, step, padding) == (2, 2, 0) and (ceil or even))
    options = {} if usual else {"padding": 2 * padding}
    return pool(kind, size=size, stride=step, **options)(writer, node)


def pool(kind: str, **options: object) -> Rule:
    """The rule for a pooling of these options."""

    def rule(writer: Writer, node: fx.Node) -> int:
        writer.last(node.all_input_nodes[0], node)
        return writer.emit(kind, shape_of(node), options)

    return rule


def average(writer: Writer, node: fx.Node) -> int:
    """An `[avgpool]` over the whole map."""
    if shape_of(node).side_hw != (1, 1):
        writer.refuse(node, "an average of the whole map gives one cell")
    return pool("avgpool")(writer, node)


def maxout(writer: Writer, node: fx.Node) -> int:
    """A `[maxpool]` over channels."""
    module = writer.module(node)
    assert isinstance(module, Maxout)
    if module.c_in == module.c_out:
        return same(writer, node)
    return pool("maxpool", maxpool_depth=1, out_channels=module.c_out)(writer, node)


def same(writer: Writer, node: fx.Node) -> int:
    """For what changes nothing."""
    return writer.place(node.all_input_nodes[0])


def _side(value: Any) -> Any:
    """The number that stands for both ways, or None where there are two; PyTorch has one or a pair."""
    sides = set(value) if isinstance(value, tuple) else {value}
    side = sides.pop()
    return side if not sides and isinstance(side, int) else None
