"""What each kind of section does to shapes, and the module that does it: one function a kind."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from cspdet.darknet import layers
from cspdet.darknet.cfg import Section, mask_of
from cspdet.darknet.layer_spec import Place, Planned, Shape
from cspdet.models.blocks import Maxout

LARGEST_SIDE = 1024  # of windows and strides
MOST_CHANNELS = 2**20
MOMENTUM = 0.03  # as in our own networks


def _strides(section: Section) -> tuple[int, int]:
    """Down and across."""
    stride = section.whole("stride", 1, low=1, high=LARGEST_SIDE)
    down = section.whole("stride_y", stride, low=1, high=LARGEST_SIDE)
    return down, section.whole("stride_x", stride, low=1, high=LARGEST_SIDE)


def _activation(section: Section, default: str = "linear") -> str:
    return section.word("activation", default, layers.ACTIVATIONS)


def convolutional(place: Place) -> Planned:
    """`[convolutional]`; with `new_coords` behind it, without the sigmoid that our own decoding applies."""
    section, given = place.section, place.input
    filters = section.whole("filters", 1, low=1, high=MOST_CHANNELS)
    size = section.whole("size", 1, low=1, high=LARGEST_SIDE)
    stride_hw = _strides(section)
    dilation = 1 if size == 1 else section.whole("dilation", 1, low=1, high=LARGEST_SIDE)
    padding = section.whole("padding", 0, high=LARGEST_SIDE)
    if section.whole("pad", 0):
        padding = size // 2
    groups = section.whole("groups", 1, low=1, high=MOST_CHANNELS)
    if given.channels % groups or filters % groups:
        raise section.problem(f"{groups} do not divide {given.channels} input channels and {filters} filters", "groups")
    norm = bool(section.whole("batch_normalize", 0) or section.whole("cbn", 0))
    act = _activation(section, "logistic")
    after = place.followed_by
    if after is not None and after.kind == "yolo" and after.whole("new_coords", 0):
        if act != "logistic" or norm:
            raise section.problem("new_coords of the [yolo] behind it needs activation=logistic", "activation")
        act = "linear"
    reach = dilation * (size - 1) + 1
    height, width = (
        (side + 2 * padding - reach) // step + 1 for side, step in zip(given.side_hw, stride_hw, strict=True)
    )

    def build() -> nn.Module:
        conv = nn.Conv2d(given.channels, filters, size, stride_hw, padding, dilation, groups, bias=not norm)
        return layers.Convolution(conv, _norm(filters, place) if norm else None, act)

    weights = filters * (given.channels // groups) * size * size + filters * (4 if norm else 1)
    return Planned((place.source,), Shape(filters, height, width), build, weights)


def connected(place: Place) -> Planned:
    """`[connected]`, which takes the whole map as one row of numbers."""
    section, given = place.section, place.input
    outputs = section.whole("output", 1, low=1, high=MOST_CHANNELS)
    norm, act = bool(section.whole("batch_normalize", 0)), _activation(section, "logistic")

    def build() -> nn.Module:
        linear = nn.Linear(given.numbers, outputs, bias=not norm)
        return layers.Connected(linear, _norm(outputs, place) if norm else None, act)

    weights = outputs * given.numbers + outputs * (4 if norm else 1)
    return Planned((place.source,), Shape(outputs, 1, 1), build, weights)


def _norm(channels: int, place: Place) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=place.bn_eps, momentum=MOMENTUM)


def _windows(place: Place) -> tuple[int, tuple[int, int], int, Shape]:
    """Size, strides, padding and output of the poolings."""
    section, given = place.section, place.input
    stride_hw = _strides(section)
    stride = section.whole("stride", 1, low=1, high=LARGEST_SIDE)
    size = section.whole("size", stride, low=1, high=LARGEST_SIDE)
    padding = section.whole("padding", size - 1)
    if padding > 2 * (size - 1):  # a window that sees nothing but padding
        raise section.problem(f"expected {2 * (size - 1)} at most for a size of {size}, found {padding}", "padding")
    height, width = ((side + padding - size) // step + 1 for side, step in zip(given.side_hw, stride_hw, strict=True))
    return size, stride_hw, padding, Shape(given.channels, height, width)


def maxpool(place: Place) -> Planned:
    """`[maxpool]` over places, or with `maxpool_depth` over channels."""
    section, given = place.section, place.input
    if section.whole("maxpool_depth", 0):
        channels = section.whole("out_channels", 1, low=1, high=MOST_CHANNELS)
        if given.channels % channels:
            raise section.problem(f"{channels} does not divide {given.channels} input channels", "out_channels")
        build: Callable[[], nn.Module] = partial(Maxout, given.channels, channels)
        return Planned((place.source,), given._replace(channels=channels), build)
    size, stride_hw, padding, shape = _windows(place)
    return Planned((place.source,), shape, partial(layers.max_pool, size, stride_hw, padding))


def local_avgpool(place: Place) -> Planned:
    """`[local_avgpool]`."""
    size, stride_hw, padding, shape = _windows(place)
    return Planned((place.source,), shape, partial(layers.LocalAverage, size, stride_hw, padding))


def avgpool(place: Place) -> Planned:
    """`[avgpool]`: over the whole map."""
    return Planned((place.source,), Shape(place.input.channels, 1, 1), partial(nn.AdaptiveAvgPool2d, 1))


def upsample(place: Place) -> Planned:
    """`[upsample]`."""
    stride = place.section.whole("stride", 2, low=1, high=LARGEST_SIDE)
    channels, height, width = place.input
    build = partial(layers.Upsample, stride, place.section.number("scale", 1.0))
    return Planned((place.source,), Shape(channels, stride * height, stride * width), build)


def route(place: Place) -> Planned:
    """`[route]`: maps of one size, or a group of the channels of each."""
    section, sources = place.section, place.named("layers")
    groups = section.whole("groups", 1, low=1, high=MOST_CHANNELS)
    group = section.whole("group_id", 0, high=groups - 1)
    shapes = [place.shape(source) for source in sources]
    for source, shape in zip(sources, shapes, strict=True):
        if shape.side_hw != shapes[0].side_hw:
            first = f"layer {sources[0]} is {shapes[0]}"
            raise section.problem(f"{first}, but layer {source} is {shape}; expected one height and width", "layers")
        if shape.channels % groups:
            raise section.problem(f"{groups} do not divide the {shape.channels} channels of layer {source}", "groups")
    channels = sum(shape.channels // groups for shape in shapes)
    return Planned(sources, shapes[0]._replace(channels=channels), partial(layers.Route, groups, group))


def shortcut(place: Place) -> Planned:
    """`[shortcut]`: as many channels as both have, of a map of the same size or of a multiple of it."""
    section, sources, given = place.section, place.named("from"), place.input
    for source in sources:
        shape = place.shape(source)
        step = shape.height // given.height
        if step < 1 or shape.side_hw != (step * given.height, step * given.width):
            problem = (
                f"layer {source} is {shape}, the layer before {given}; expected its height and width or a multiple"
            )
            raise section.problem(problem, "from")
    return Planned((place.source, *sources), given, partial(layers.Shortcut, _activation(section)))


def sam(place: Place) -> Planned:
    """`[sam]`: the layer before times another of the same shape."""
    section, source, given = place.section, place.one("from"), place.input
    if place.shape(source) != given:
        raise section.problem(f"layer {source} is {place.shape(source)}; expected {given} as the layer before", "from")
    return Planned((place.source, source), given, partial(layers.Product, _activation(section)))


def scale_channels(place: Place) -> Planned:
    """`[scale_channels]`: another layer times the layer before, one number a channel, or with `scale_wh` a place."""
    section, source, given = place.section, place.one("from"), place.input
    shape = place.shape(source)
    wanted = shape._replace(channels=1) if section.whole("scale_wh", 0) else Shape(shape.channels, 1, 1)
    if given != wanted:
        raise section.problem(f"the layer before is {given}; expected {wanted} for layer {source} of {shape}", "from")
    return Planned((place.source, source), shape, partial(layers.Product, _activation(section)))


def reorg(place: Place, *, plain: bool = False) -> Planned:
    """`[reorg]`, and with `plain` `[reorg3d]`: cells to channels."""
    section, (channels, height, width) = place.section, place.input
    s = section.whole("stride", 1, low=1, high=LARGEST_SIDE)
    if height % s or width % s or (not plain and channels % (s * s)):
        raise section.problem(f"{s} does not divide the layer before, which is {place.input}", "stride")
    build: Callable[[], nn.Module] = partial(layers.SpaceToDepth if plain else layers.Reorg, s)
    return Planned((place.source,), Shape(channels * s * s, height // s, width // s), build)


def dropout(place: Place) -> Planned:
    """`[dropout]`, which only training sees."""
    probability = place.section.number("probability", 0.2)
    if not 0 <= probability < 1:
        raise place.section.problem(f"expected a number from 0 to below 1, found {probability:g}", "probability")
    return Planned((place.source,), place.input, partial(nn.Dropout, probability))


def softmax(place: Place) -> Planned:
    """`[softmax]`, the end of a classifier: what stands before it is divided by the temperature."""
    temperature = place.section.number("temperature", 1.0)
    if temperature <= 0:
        raise place.section.problem(f"expected a number above 0, found {temperature:g}", "temperature")
    if place.followed_by is not None and place.followed_by.kind != "cost":
        raise place.section.problem("is supported as the last layer only")
    return Planned((place.source,), place.input, partial(layers.Logits, temperature))


def cost(place: Place) -> Planned:
    """`[cost]`, which only Darknet's training sees."""
    if place.followed_by is not None:
        raise place.section.problem("is supported as the last layer only")
    return Planned((place.source,), place.input, nn.Identity)


def yolo(place: Place) -> Planned:
    """`[yolo]`: a head; no other layer may take what it gives."""
    section, given = place.section, place.input
    anchors, classes = len(mask_of(section)), section.whole("classes", 20, low=1, high=MOST_CHANNELS)
    wanted = anchors * (5 + classes)
    if given.channels != wanted:
        why = f"{anchors} anchors times (5 + {classes} classes)"
        raise section.problem(f"takes {given.channels} channels; expected {wanted}, which are {why}")
    return Planned((place.source,), given, partial(layers.YoloOutput, anchors))


RULES: dict[str, Callable[[Place], Planned]] = {
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
    "reorg3d": partial(reorg, plain=True),
    "dropout": dropout,
    "softmax": softmax,
    "cost": cost,
    "yolo": yolo,
}
