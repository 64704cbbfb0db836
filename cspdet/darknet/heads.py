"""The output levels of a detector: the sections [yolo] and [region], their layers, and the config of their anchors."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from cspdet.darknet.cfg import CfgSection, anchor_mask
from cspdet.darknet.layer_spec import LayerSpec, SectionContext
from cspdet.models.config import YoloHeadConfig

MAX_CLASSES = 2**20
NO_OBJECT_LOGIT = -30.0  # its sigmoid is 1e-13; a lower value would coarsen the scale of int8 quantization
NO_ANCHOR = (1e-3, 1e-3)  # width and height in pixels of an anchor that only fills up a level; it matches no box
MIN_REST = 1e-6  # lower limit of 1 - p for a class probability p, so that its logit is finite


class YoloOutput(nn.Module):
    """A `[yolo]` layer without decoding: (B, A * (5 + C), H, W) -> (B, A, H, W, 5 + C).

    `cspdet.models.postprocess` decodes the output.
    """

    def __init__(self, num_anchors: int):
        super().__init__()
        self.num_anchors = num_anchors

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        return x.view(batch, self.num_anchors, channels // self.num_anchors, height, width).permute(0, 1, 3, 4, 2)


class AnchorPadding(nn.Module):
    """Appends anchors without objects to the output of a level that has fewer anchors than the others.

    (B, A, H, W, 5 + C) -> (B, A + count, H, W, 5 + C).
    """

    values: Tensor  # (5 + C,) raw outputs of an anchor

    def __init__(self, count: int, num_classes: int):
        super().__init__()
        self.count = count
        values = [0.0] * (5 + num_classes)
        values[4] = NO_OBJECT_LOGIT
        self.register_buffer("values", torch.tensor(values), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width, outputs = x.shape
        padding = self.values.to(x.dtype).expand(batch, self.count, height, width, outputs)
        return torch.cat((x, padding), dim=1)


class RegionOutput(YoloOutput):
    """A `[region]` layer without decoding: (B, A * (5 + C), H, W) -> (B, A, H, W, 5 + C), in the format of `[yolo]`.

    The class probabilities of a `[region]` are a softmax over the classes. Each class output is replaced by the logit
    log(p / (1 - p)) of its probability p. The sigmoid of this logit is p, so the result is decoded like a `[yolo]`.
    """

    def forward(self, x: Tensor) -> Tensor:
        raw = super().forward(x)
        log_p = raw[..., 5:].float().log_softmax(dim=-1)
        logits = log_p - (1 - log_p.exp()).clamp(min=MIN_REST).log()
        return torch.cat((raw[..., :5], logits.to(raw.dtype)), dim=-1)


def yolo(context: SectionContext) -> LayerSpec:
    """Build a `[yolo]`: an output level of a detector."""
    return _head(context, YoloOutput)


def region(context: SectionContext) -> LayerSpec:
    """Build a `[region]`: the output level of YOLOv2. Its class probabilities must be a softmax."""
    section = context.section
    if "tree" in section:
        raise section.error("is not supported: classes in a hierarchy, as in YOLO9000", "tree")
    if section.get_int("softmax", 0) != 1:
        raise section.error("expected softmax=1: without softmax, versions of Darknet compute different scores")
    return _head(context, RegionOutput)


def _head(context: SectionContext, output: type[YoloOutput]) -> LayerSpec:
    section, in_shape = context.section, context.input_shape
    num_anchors = len(anchor_mask(section))
    num_classes = section.get_int("classes", 20, min_value=1, max_value=MAX_CLASSES)
    expected = num_anchors * (5 + num_classes)
    if in_shape.channels != expected:
        why = f"{num_anchors} anchors times (5 + {num_classes} classes)"
        raise section.error(f"has {in_shape.channels} input channels; expected {expected}: {why}")
    return LayerSpec((context.previous_index,), in_shape, partial(output, num_anchors))


def head_config(sections: list[CfgSection], strides: tuple[int, ...]) -> YoloHeadConfig:
    """Create the head config from the [yolo] and [region] sections of a detector.

    Args:
        sections: The sections, finest level first.
        strides: Stride of each level in input pixels.

    Raises:
        ConfigError: Anchors are invalid, or the sections decode sizes differently.
    """
    square = bool(sections[0].get_int("new_coords", 0))
    scales = []
    for section in sections:
        if bool(section.get_int("new_coords", 0)) != square:
            raise section.error("expected the same in all [yolo] sections", "new_coords")
        scale = section.get_float("scale_x_y", 1.0)
        if not 1 <= scale <= 2:
            raise section.error(f"expected a number from 1 to 2, found {scale:g}", "scale_x_y")
        scales.append(scale)
    levels = [_used_anchors(section, stride) for section, stride in zip(sections, strides, strict=True)]
    count = max(map(len, levels))
    anchors = tuple(level + (NO_ANCHOR,) * (count - len(level)) for level in levels)
    return YoloHeadConfig(
        anchors=anchors, scale_x_y=tuple(scales), wh_decoding="square" if square else "exponential"
    )  # fmt: skip


def _used_anchors(section: CfgSection, stride: int) -> tuple[tuple[float, float], ...]:
    """Return (width, height) of the anchors of a head in input pixels; those of a [region] are converted from cells."""
    total, sides = section.get_int("num", 1, min_value=1, max_value=1000), section.get_floats("anchors")
    if len(sides) < 2 * total:
        raise section.error(f"expected two numbers for each of num={total}, found {len(sides)}", "anchors")
    if min(sides[: 2 * total]) <= 0:
        raise section.error("expected widths and heights above 0", "anchors")
    mask = anchor_mask(section)
    if not all(0 <= i < total for i in mask):
        raise section.error(f"expected numbers from 0 to {total - 1}, found {', '.join(map(str, mask))}", "mask")
    unit = stride if section.section_type == "region" else 1
    return tuple((unit * sides[2 * i], unit * sides[2 * i + 1]) for i in mask)
