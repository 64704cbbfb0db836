"""Box operations on tensors, independent of the coordinate frame."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

# Box sizes are exp(t) times the anchor. The limit exp(6), about 400 times the anchor, prevents overflow.
MAX_LOG_SIZE = 6.0


def decode_wh(t: Tensor, wh_decoding: Literal["exponential", "square"]) -> Tensor:
    """Decode the raw widths and heights of a YOLO head to multiples of the anchor size.

    Args:
        t: Raw outputs (tw, th), of any shape.
        wh_decoding: exponential: exp(t), with t clamped to at most 6 (YOLOv3); square: (2 sigmoid(t))^2 (Scaled-YOLOv4,
            YOLOv5).
    """
    return (2 * t.sigmoid()).square() if wh_decoding == "square" else t.clamp(max=MAX_LOG_SIZE).exp()


def xyxy_to_cxcywh(box_xyxy: Tensor) -> Tensor:
    """Convert (..., 4) boxes from corners (x1, y1, x2, y2) to center and size (cx, cy, w, h)."""
    low, high = box_xyxy[..., :2], box_xyxy[..., 2:]
    return torch.cat(((low + high) / 2, high - low), dim=-1)


def cxcywh_to_xyxy(box_cxcywh: Tensor) -> Tensor:
    """Convert (..., 4) boxes from center and size (cx, cy, w, h) to corners (x1, y1, x2, y2)."""
    center, half = box_cxcywh[..., :2], box_cxcywh[..., 2:] / 2
    return torch.cat((center - half, center + half), dim=-1)


def area(box_xyxy: Tensor) -> Tensor:
    """Return the areas (...) of (..., 4) boxes. If a width or height is negative, the area is 0."""
    size = (box_xyxy[..., 2:] - box_xyxy[..., :2]).clamp(min=0)
    return size[..., 0] * size[..., 1]


def intersection(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """Return the intersection areas (...) of two broadcastable (..., 4) box tensors."""
    low = torch.maximum(a_xyxy[..., :2], b_xyxy[..., :2])
    high = torch.minimum(a_xyxy[..., 2:], b_xyxy[..., 2:])
    size = (high - low).clamp(min=0)
    return size[..., 0] * size[..., 1]


def iou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """Return the IoU (...) of two broadcastable (..., 4) box tensors; the IoU of two empty boxes is 0."""
    shared = intersection(a_xyxy, b_xyxy)
    union = area(a_xyxy) + area(b_xyxy) - shared
    return shared / union.clamp(min=torch.finfo(union.dtype).tiny)


def wh_iou(a_wh: Tensor, b_wh: Tensor) -> Tensor:
    """Return the (N, M) IoU of (N, 2) and (M, 2) box sizes if all boxes have the same center.

    YOLOv3 matches boxes to anchors by this IoU.
    """
    shared = torch.minimum(a_wh[:, None], b_wh[None]).prod(dim=-1)
    union = a_wh.prod(dim=-1)[:, None] + b_wh.prod(dim=-1)[None] - shared
    return shared / union.clamp(min=torch.finfo(union.dtype).tiny)


def bbox_iou(a_xyxy: Tensor, b_xyxy: Tensor, variant: str) -> Tensor:
    """Return the IoU of P pairs of boxes minus a penalty; shapes (P, 4) and (P, 4) -> (P,).

    Equal boxes have no penalty and the result 1. `variant` selects the penalty:

    iou   no penalty
    giou  fraction of the enclosing box that neither box covers (Rezatofighi et al. 2019, eq. 1-5)
    diou  squared center distance / squared diagonal of the enclosing box (Zheng et al. 2020, eq. 7)
    ciou  penalty of diou plus a penalty for different aspect ratios (Zheng et al. 2020, eq. 8-11)
    """
    eps = 1e-7
    size_a, size_b = a_xyxy[..., 2:] - a_xyxy[..., :2], b_xyxy[..., 2:] - b_xyxy[..., :2]
    shared = intersection(a_xyxy, b_xyxy)
    union = size_a.prod(dim=-1) + size_b.prod(dim=-1) - shared
    overlap = shared / (union + eps)
    if variant == "iou":
        return overlap
    enclosing_wh = torch.maximum(a_xyxy[..., 2:], b_xyxy[..., 2:]) - torch.minimum(a_xyxy[..., :2], b_xyxy[..., :2])
    if variant == "giou":
        enclosing_area = enclosing_wh.prod(dim=-1)
        return overlap - (enclosing_area - union) / (enclosing_area + eps)
    shift = (a_xyxy[..., :2] + a_xyxy[..., 2:] - b_xyxy[..., :2] - b_xyxy[..., 2:]) / 2
    distance = shift.square().sum(dim=-1) / (enclosing_wh.square().sum(dim=-1) + eps)
    if variant == "diou":
        return overlap - distance
    if variant != "ciou":
        raise ValueError(f"variant must be iou, giou, diou or ciou; got {variant!r}")
    angle_a = torch.atan2(size_a[..., 0], size_a[..., 1] + eps)
    angle_b = torch.atan2(size_b[..., 0], size_b[..., 1] + eps)
    aspect = (4 / math.pi**2) * (angle_a - angle_b).square()
    with torch.no_grad():
        weight = aspect / (1 - overlap + aspect + eps)
    return overlap - distance - weight * aspect


def clip_boxes_to_image(box_xyxy: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Clip (..., 4) boxes to an image of `size_hw` (height, width) pixels."""
    height, width = size_hw
    limit = box_xyxy.new_tensor((width, height, width, height))
    return torch.minimum(box_xyxy.clamp(min=0), limit)
