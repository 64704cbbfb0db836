"""Layer builders, one function per section type. A builder returns the output shape and the constructor of a layer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from cspdet.darknet import heads, layers
from cspdet.darknet.cfg import CfgSection
from cspdet.darknet.layer_spec import LayerSpec, SectionContext
from cspdet.models.blocks import Maxout
from cspdet.structures import FeatureShape

MAX_KERNEL_SIZE = 1024  # limit for kernel sizes, strides, dilation and padding
MAX_CHANNELS = 2**20
MOMENTUM = 0.03  # as in cspdet.models.blocks


def _strides(section: CfgSection) -> tuple[int, int]:
    """Return the vertical and the horizontal stride."""
    stride = section.get_int("stride", 1, min_value=1, max_value=MAX_KERNEL_SIZE)
    down = section.get_int("stride_y", stride, min_value=1, max_value=MAX_KERNEL_SIZE)
    return down, section.get_int("stride_x", stride, min_value=1, max_value=MAX_KERNEL_SIZE)


def _activation(section: CfgSection, default: str = "linear") -> str:
    return section.get_choice("activation", default, layers.ACTIVATIONS)


def convolutional(context: SectionContext) -> LayerSpec:
    """Build a `[convolutional]`. Before a [yolo] with `new_coords`, it has no sigmoid: decoding applies it."""
    section, in_shape = context.section, context.input_shape
    filters = section.get_int("filters", 1, min_value=1, max_value=MAX_CHANNELS)
    size = section.get_int("size", 1, min_value=1, max_value=MAX_KERNEL_SIZE)
    stride_hw = _strides(section)
    dilation = 1 if size == 1 else section.get_int("dilation", 1, min_value=1, max_value=MAX_KERNEL_SIZE)
    padding = section.get_int("padding", 0, max_value=MAX_KERNEL_SIZE)
    if section.get_int("pad", 0):
        padding = size // 2
    groups = section.get_int("groups", 1, min_value=1, max_value=MAX_CHANNELS)
    if in_shape.channels % groups or filters % groups:
        raise section.error(
            f"{groups} groups do not divide {in_shape.channels} input channels and {filters} filters", "groups"
        )
    norm = bool(section.get_int("batch_normalize", 0) or section.get_int("cbn", 0))
    act = _activation(section, "logistic")
    after = context.next_section
    if after is not None and after.section_type == "yolo" and after.get_int("new_coords", 0):
        if act != "logistic" or norm:
            raise section.error("new_coords of the [yolo] after it needs activation=logistic", "activation")
        act = "linear"
    reach = dilation * (size - 1) + 1
    height, width = (
        (side + 2 * padding - reach) // step + 1 for side, step in zip(in_shape.size_hw, stride_hw, strict=True)
    )

    def build() -> nn.Module:
        conv = nn.Conv2d(in_shape.channels, filters, size, stride_hw, padding, dilation, groups, bias=not norm)
        return layers.Convolution(conv, _norm(filters, context) if norm else None, act)

    num_weights = filters * (in_shape.channels // groups) * size * size + filters * (4 if norm else 1)
    return LayerSpec((context.previous_index,), FeatureShape(filters, height, width), build, num_weights)


def connected(context: SectionContext) -> LayerSpec:
    """Build a `[connected]`: a fully connected layer on the flattened input."""
    section, in_shape = context.section, context.input_shape
    outputs = section.get_int("output", 1, min_value=1, max_value=MAX_CHANNELS)
    norm, act = bool(section.get_int("batch_normalize", 0)), _activation(section, "logistic")

    def build() -> nn.Module:
        linear = nn.Linear(in_shape.num_elements, outputs, bias=not norm)
        return layers.Connected(linear, _norm(outputs, context) if norm else None, act)

    num_weights = outputs * in_shape.num_elements + outputs * (4 if norm else 1)
    return LayerSpec((context.previous_index,), FeatureShape(outputs, 1, 1), build, num_weights)


def _norm(channels: int, context: SectionContext) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=context.bn_eps, momentum=MOMENTUM)


def _pool_params(context: SectionContext) -> tuple[int, tuple[int, int], int, FeatureShape]:
    """Return kernel size, strides, total padding and output shape of a pooling section."""
    section, in_shape = context.section, context.input_shape
    stride_hw = _strides(section)
    stride = section.get_int("stride", 1, min_value=1, max_value=MAX_KERNEL_SIZE)
    size = section.get_int("size", stride, min_value=1, max_value=MAX_KERNEL_SIZE)
    padding = section.get_int("padding", size - 1)
    if padding > 2 * (size - 1):  # a window could contain only padding
        raise section.error(f"expected at most {2 * (size - 1)} for a size of {size}, found {padding}", "padding")
    height, width = (
        (side + padding - size) // step + 1 for side, step in zip(in_shape.size_hw, stride_hw, strict=True)
    )
    return size, stride_hw, padding, FeatureShape(in_shape.channels, height, width)


def maxpool(context: SectionContext) -> LayerSpec:
    """Build a `[maxpool]`. With `maxpool_depth`, the maximum is computed over groups of channels instead of cells."""
    section, in_shape = context.section, context.input_shape
    if section.get_int("maxpool_depth", 0):
        channels = section.get_int("out_channels", 1, min_value=1, max_value=MAX_CHANNELS)
        if in_shape.channels % channels:
            raise section.error(f"{channels} does not divide {in_shape.channels} input channels", "out_channels")
        build: Callable[[], nn.Module] = partial(Maxout, in_shape.channels, channels)
        return LayerSpec((context.previous_index,), in_shape._replace(channels=channels), build)
    size, stride_hw, padding, shape = _pool_params(context)
    return LayerSpec((context.previous_index,), shape, partial(layers.max_pool, size, stride_hw, padding))


def local_avgpool(context: SectionContext) -> LayerSpec:
    """Build a `[local_avgpool]`: average pooling over windows."""
    size, stride_hw, padding, shape = _pool_params(context)
    return LayerSpec((context.previous_index,), shape, partial(layers.AvgPool, size, stride_hw, padding))


def avgpool(context: SectionContext) -> LayerSpec:
    """Build an `[avgpool]`: global average pooling."""
    return LayerSpec(
        (context.previous_index,), FeatureShape(context.input_shape.channels, 1, 1), partial(nn.AdaptiveAvgPool2d, 1)
    )


def upsample(context: SectionContext) -> LayerSpec:
    """Build an `[upsample]`: nearest-neighbor upsampling."""
    stride = context.section.get_int("stride", 2, min_value=1, max_value=MAX_KERNEL_SIZE)
    channels, height, width = context.input_shape
    build = partial(layers.Upsample, stride, context.section.get_float("scale", 1.0))
    return LayerSpec((context.previous_index,), FeatureShape(channels, stride * height, stride * width), build)


def route(context: SectionContext) -> LayerSpec:
    """Build a `[route]`: concatenate feature maps, or with `groups`, the channel group `group_id` of each map."""
    section, sources = context.section, context.resolve_layers("layers")
    groups = section.get_int("groups", 1, min_value=1, max_value=MAX_CHANNELS)
    group = section.get_int("group_id", 0, max_value=groups - 1)
    shapes = [context.shape_at(source) for source in sources]
    for source, shape in zip(sources, shapes, strict=True):
        if shape.size_hw != shapes[0].size_hw:
            first = f"layer {sources[0]} is {shapes[0]}"
            raise section.error(f"{first}, but layer {source} is {shape}; expected one height and width", "layers")
        if shape.channels % groups:
            raise section.error(
                f"{groups} groups do not divide the {shape.channels} channels of layer {source}", "groups"
            )
    channels = sum(shape.channels // groups for shape in shapes)
    return LayerSpec(sources, shapes[0]._replace(channels=channels), partial(layers.Route, groups, group))


def shortcut(context: SectionContext) -> LayerSpec:
    """Build a `[shortcut]`: add the outputs of other layers to the output of the previous layer.

    Only the channels that both outputs have are added. Height and width of the other outputs may be a multiple of those
    of the previous layer.
    """
    section, sources, in_shape = context.section, context.resolve_layers("from"), context.input_shape
    for source in sources:
        shape = context.shape_at(source)
        step = shape.height // in_shape.height
        if step < 1 or shape.size_hw != (step * in_shape.height, step * in_shape.width):
            message = (
                f"layer {source} is {shape}, the layer before {in_shape}; expected its height and width or a multiple"
            )
            raise section.error(message, "from")
    return LayerSpec((context.previous_index, *sources), in_shape, partial(layers.Shortcut, _activation(section)))


def sam(context: SectionContext) -> LayerSpec:
    """Build a `[sam]`: elementwise product of the previous layer and another layer of the same shape."""
    section, source, in_shape = context.section, context.resolve_layer("from"), context.input_shape
    if context.shape_at(source) != in_shape:
        raise section.error(
            f"layer {source} is {context.shape_at(source)}; expected {in_shape}, as in the layer before", "from"
        )
    return LayerSpec((context.previous_index, source), in_shape, partial(layers.Multiply, _activation(section)))


def scale_channels(context: SectionContext) -> LayerSpec:
    """Build a `[scale_channels]`: multiply a layer by one value per channel or, with `scale_wh`, one value per cell."""
    section, source, in_shape = context.section, context.resolve_layer("from"), context.input_shape
    shape = context.shape_at(source)
    expected = shape._replace(channels=1) if section.get_int("scale_wh", 0) else FeatureShape(shape.channels, 1, 1)
    if in_shape != expected:
        raise section.error(
            f"the layer before is {in_shape}; expected {expected} for layer {source} of {shape}", "from"
        )
    return LayerSpec((context.previous_index, source), shape, partial(layers.Multiply, _activation(section)))


def reorg(context: SectionContext, *, reorg3d: bool = False) -> LayerSpec:
    """Build a `[reorg]` or `[reorg3d]`: move blocks of cells to channels (space to depth)."""
    section, (channels, height, width) = context.section, context.input_shape
    s = section.get_int("stride", 1, min_value=1, max_value=MAX_KERNEL_SIZE)
    if height % s or width % s or (not reorg3d and channels % (s * s)):
        raise section.error(f"{s} does not divide the layer before, which is {context.input_shape}", "stride")
    build: Callable[[], nn.Module] = partial(layers.SpaceToDepth if reorg3d else layers.Reorg, s)
    return LayerSpec((context.previous_index,), FeatureShape(channels * s * s, height // s, width // s), build)


def dropout(context: SectionContext) -> LayerSpec:
    """Build a `[dropout]`."""
    probability = context.section.get_float("probability", 0.2)
    if not 0 <= probability < 1:
        raise context.section.error(f"expected a number from 0 to less than 1, found {probability:g}", "probability")
    return LayerSpec((context.previous_index,), context.input_shape, partial(nn.Dropout, probability))


def softmax(context: SectionContext) -> LayerSpec:
    """Build a `[softmax]`, the last layer of a classifier. The module returns logits divided by the temperature."""
    temperature = context.section.get_float("temperature", 1.0)
    if temperature <= 0:
        raise context.section.error(f"expected a number above 0, found {temperature:g}", "temperature")
    if context.next_section is not None and context.next_section.section_type != "cost":
        raise context.section.error("is supported as the last layer only")
    return LayerSpec((context.previous_index,), context.input_shape, partial(layers.Logits, temperature))


def cost(context: SectionContext) -> LayerSpec:
    """Build a `[cost]` as an identity, because Darknet uses this layer only in training."""
    if context.next_section is not None:
        raise context.section.error("is supported as the last layer only")
    return LayerSpec((context.previous_index,), context.input_shape, nn.Identity)


LAYER_BUILDERS: dict[str, Callable[[SectionContext], LayerSpec]] = {
    "convolutional": convolutional,
    "connected": connected,
    "maxpool": maxpool,
    "local_avgpool": local_avgpool,
    "avgpool": avgpool,
    "upsample": upsample,
    "route": route,
    "shortcut": shortcut,
    "sam": sam,
    "scale_channels": scale_channels,
    "reorg": reorg,
    "reorg3d": partial(reorg, reorg3d=True),
    "dropout": dropout,
    "softmax": softmax,
    "cost": cost,
    "yolo": heads.yolo,
    "region": heads.region,
}
