"""The loss of a YOLOv3 head: boxes and classes of the positives, objectness of every slot that is not ignored."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from cspdet.boxes import cxcywh_to_xyxy, generalized_iou, xyxy_to_cxcywh
from cspdet.config import ConfigModel
from cspdet.models.head import Anchors, Sizes, decode_boxes, relative_sizes
from cspdet.training.assign import AssignConfig, Slots, assign, unpunished
from cspdet.types import Targets


class LossConfig(ConfigModel):
    """Kinds and weights. `normalizer` divides the sums: by the batch's pictures as Darknet, or by the positives."""

    box: Literal["mse", "iou", "giou", "diou", "ciou"] = "ciou"
    box_weight: float = Field(5.0, ge=0)  # Darknet: iou_normalizer
    objectness_weight: float = Field(1.0, ge=0)  # Darknet: obj_normalizer
    class_weight: float = Field(1.0, ge=0)  # Darknet: cls_normalizer
    normalizer: Literal["positives", "images"] = "positives"
    objectness_goal: Literal["one", "iou"] = "one"  # what a positive's objectness should be: 1, or its box's IoU
    label_smoothing: float = Field(0.0, ge=0, lt=1)  # class goals s/2 and 1 - s/2, as Darknet's label_smooth_eps


class Losses(NamedTuple):
    """Weighted and normalized parts, scalars in fp32."""

    box: Tensor
    objectness: Tensor
    classes: Tensor

    @property
    def total(self) -> Tensor:
        return self.box + self.objectness + self.classes


def yolo_loss(
    raw: tuple[Tensor, ...], targets: Targets, anchors: Anchors, loss: LossConfig, rule: AssignConfig
) -> Losses:
    """Loss of raw scales (B, A, H_l, W_l, 5 + C) against targets in input pixels; computed in fp32.

    Without boxes, the box and class parts are 0 and objectness is pushed down everywhere.
    """
    device, images = raw[0].device, raw[0].shape[0]
    slots = Slots.of([(level.shape[2], level.shape[3]) for level in raw], raw[0].shape[1], device)
    positive = assign(targets, anchors, slots, rule.match_iou)
    with torch.no_grad():
        predicted = decode_boxes(tuple(level[..., :4].float() for level in raw), anchors)
        ignored = unpunished(predicted, targets, anchors, slots, rule.ignore_iou)

    rows, cell, anchor_wh, stride, scale = _gather(raw, positive.image, positive.slot, anchors, slots)
    goal_xyxy = targets.box_xyxy[positive.target]
    box, overlap = _box_loss(rows[:, :4], goal_xyxy, cell, anchor_wh, stride, scale, loss.box, anchors.sizes)
    if loss.box == "mse":
        size = torch.tensor([[raw[0].shape[3], raw[0].shape[2]]], device=device) * anchors.stride[0]
        share = ((goal_xyxy[:, 2:] - goal_xyxy[:, :2]) / size).prod(dim=-1)
        box = box * (2 - share)  # small boxes weigh more: Darknet's 2 - w h

    objectness = torch.cat([level[..., 4].flatten(1) for level in raw], dim=1).float()
    goal = torch.zeros_like(objectness)
    goal[positive.image, positive.slot] = overlap.clamp(min=0) if loss.objectness_goal == "iou" else 1.0
    weight = (~ignored).float()
    weight[positive.image, positive.slot] = 1.0
    background = F.binary_cross_entropy_with_logits(objectness, goal, weight, reduction="sum")

    classes = rows[:, 5:]
    class_goal = torch.full_like(classes, loss.label_smoothing / 2)
    class_goal.scatter_(1, targets.class_id[positive.target, None], 1 - loss.label_smoothing / 2)
    classify = F.binary_cross_entropy_with_logits(classes, class_goal, reduction="sum")

    count = max(1, len(rows)) if loss.normalizer == "positives" else images
    return Losses(
        loss.box_weight * box.sum() / count,
        loss.objectness_weight * background / count,
        loss.class_weight * classify / count,
    )


def _gather(
    raw: tuple[Tensor, ...], image: Tensor, slot: Tensor, anchors: Anchors, slots: Slots
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The positives' raw rows (P, 5 + C) in fp32, cells (P, 2) x y, anchors (P, 2), strides (P, 1), scale_x_y (P, 1).

    In the order of the positives of scale 0, then of scale 1 ...; which is the order of `slot` only within a picture,
    so everything that goes with the rows is put back into the positives' order.
    """
    level = torch.searchsorted(slots.first, slot, right=True) - 1
    rest = slot - slots.first[level]
    width, cells = slots.width[level], slots.height[level] * slots.width[level]
    anchor, row, col = rest // cells, rest % cells // width, rest % width
    parts, order = [], []
    for i, values in enumerate(raw):
        at = (level == i).nonzero().squeeze(1)
        parts.append(values[image[at], anchor[at], row[at], col[at]])
        order.append(at)
    rows = torch.cat(parts).float()[torch.cat(order).argsort()]
    cell = torch.stack((col, row), dim=-1).float()
    return rows, cell, anchors.wh[level, anchor], anchors.stride[level, None], anchors.scale_x_y[level, None]


def _box_loss(
    t: Tensor, goal_xyxy: Tensor, cell: Tensor, anchor_wh: Tensor, stride: Tensor, scale: Tensor, kind: str,
    sizes: Sizes,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(P,) loss a box, and the (P,) IoU of each with its goal, without gradient.

    `mse` is YOLOv3's: its gradients are goal minus prediction, in sigmoid(tx), sigmoid(ty), tw and th. For the sigmoids
    the function with that gradient is the cross-entropy. Square sizes are compared where Darknet does, in sigmoid(t).
    """
    fraction = t[:, :2].sigmoid() * scale - (scale - 1) / 2
    predicted = cxcywh_to_xyxy(
        torch.cat(((fraction + cell) * stride, relative_sizes(t[:, 2:], sizes) * anchor_wh), dim=-1)
    )
    with torch.no_grad():
        overlap = generalized_iou(predicted, goal_xyxy, "iou")
    if kind != "mse":
        return 1 - generalized_iou(predicted, goal_xyxy, kind), overlap
    goal = xyxy_to_cxcywh(goal_xyxy)
    goal_fraction = ((goal[:, :2] / stride - cell + (scale - 1) / 2) / scale).clamp(0, 1)
    center = F.binary_cross_entropy_with_logits(t[:, :2], goal_fraction, reduction="none")
    ratio = (goal[:, 2:] / anchor_wh).clamp(min=1e-6)
    size = (t[:, 2:].sigmoid() - ratio.sqrt() / 2 if sizes == "square" else t[:, 2:] - ratio.log()).square() / 2
    return center.sum(dim=-1) + size.sum(dim=-1), overlap
