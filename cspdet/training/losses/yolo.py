"""YOLOv3 loss: box and class loss of the positives, objectness loss of all priors that are not ignored."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cspdet.boxes import bbox_iou, cxcywh_to_xyxy, decode_wh, xyxy_to_cxcywh
from cspdet.models.config import WhDecoding
from cspdet.models.head import Anchors
from cspdet.models.postprocess import decode_boxes
from cspdet.structures import Targets
from cspdet.training.assigners.priors import Assigner, Assignment, PriorLayout
from cspdet.training.losses.base import AllReduce, DetectionLoss, LossContext, no_reduction
from cspdet.training.losses.class_weights import class_weights
from cspdet.training.losses.config import YoloLossConfig
from cspdet.training.losses.focal import focal_cross_entropy


class Losses(NamedTuple):
    """Weighted and normalized loss terms, fp32 scalars."""

    box: Tensor
    objectness: Tensor
    classes: Tensor

    @property
    def total(self) -> Tensor:
        """The sum of the terms."""
        return self.box + self.objectness + self.classes


class PositivePredictions(NamedTuple):
    """Raw predictions of the P positives, with the cell, anchor, stride and `scale_x_y` of each positive."""

    values: Tensor  # (P, 5 + C) raw outputs, fp32
    cell: Tensor  # (P, 2) column, row
    anchor_wh: Tensor  # (P, 2) input pixels
    stride: Tensor  # (P, 1) input pixels
    scale_x_y: Tensor  # (P, 1)


class YoloLoss(DetectionLoss):
    """Box, objectness and class loss of a YOLO head; `YoloLossConfig` has the options."""

    part_names = ("box", "objectness", "class")
    config: YoloLossConfig

    def __init__(self, config: YoloLossConfig, context: LossContext):
        """Compute the class weights; raise ConfigError if their number is not the number of classes."""
        super().__init__(config, context)
        weight = class_weights(config, context.class_counts, context.categories.names)
        self.class_weight = None if weight is None else weight.to(context.device)

    def __call__(
        self, raw: tuple[Tensor, ...], targets: Targets, anchors: Anchors, all_reduce_sum: AllReduce
    ) -> Losses:
        """Compute the box, objectness and class terms of this process's part of a batch."""
        assigner = self.context.assigner
        return yolo_loss(raw, targets, anchors, self.config, assigner, self.class_weight, all_reduce_sum)


def yolo_loss(
    raw: tuple[Tensor, ...],
    targets: Targets,
    anchors: Anchors,
    loss: YoloLossConfig,
    assigner: Assigner,
    class_weight: Tensor | None = None,
    all_reduce_sum: AllReduce = no_reduction,
) -> Losses:
    """Compute the YOLOv3 loss in fp32.

    For a batch without boxes, the box and class terms are 0 and all objectness targets are 0.

    Args:
        raw: Raw head outputs, one (B, A, H_l, W_l, 5 + C) per level.
        targets: Ground-truth boxes of the batch, in input pixels.
        anchors: Anchors of the head.
        loss: Types and weights of the loss terms.
        assigner: Selects the positives.
        class_weight: (C,) class weights from `class_weights`; None: equal weights.
        all_reduce_sum: Sums a tensor over all processes; called once, for the normalizer (positives or images of the
            whole batch). The losses of the processes add up to the loss of the whole batch, so their gradients must be
            summed, not averaged.
    """
    with torch.no_grad():
        predicted = decode_boxes(tuple(level[..., :4].float() for level in raw), anchors)
        layout, positive, ignored = assigner(raw, predicted, targets, anchors)

    positive_preds = _gather_positives(raw, positive, anchors, layout)
    target_xyxy, class_id = targets.box_xyxy[positive.target], targets.class_id[positive.target]
    box, overlap = _box_loss(positive_preds, target_xyxy, loss.box, anchors.wh_decoding)
    if loss.box == "mse":
        size = torch.stack((layout.width[0], layout.height[0])) * anchors.stride[0]
        area_fraction = ((target_xyxy[:, 2:] - target_xyxy[:, :2]) / size).prod(dim=-1)
        box = box * (2 - area_fraction)  # higher weight for small boxes, as in Darknet: 2 - w * h
    objectness = _objectness_loss(raw, positive, overlap, ignored, loss)
    classes = _class_loss(positive_preds.values[:, 5:], class_id, class_weight, loss)

    # The tensor is filled on the device, because a copy from the host would synchronize with the GPU.
    local_count = len(positive.prior) if loss.normalizer == "positives" else raw[0].shape[0]
    count = all_reduce_sum(torch.full((), float(local_count), device=raw[0].device)).clamp(min=1)
    return Losses(
        loss.box_weight * box.sum() / count,
        loss.objectness_weight * objectness / count,
        loss.class_weight * classes / count,
    )


def _gather_positives(
    raw: tuple[Tensor, ...], positive: Assignment, anchors: Anchors, layout: PriorLayout
) -> PositivePredictions:
    """Gather the raw predictions of the positives, in the order of `positive`."""
    level = torch.searchsorted(layout.offset, positive.prior, right=True) - 1
    rest = positive.prior - layout.offset[level]
    width, cells = layout.width[level], layout.height[level] * layout.width[level]
    anchor, row, col = rest // cells, rest % cells // width, rest % width
    values = raw[0].new_zeros((len(level), raw[0].shape[-1]))
    for i, scale in enumerate(raw):
        # Read every level at all positives, with clamped indices, and keep the values of the positives on that level:
        # selecting those positives with a boolean mask would synchronize with the GPU.
        read = scale[positive.image, anchor, row.clamp(max=scale.shape[2] - 1), col.clamp(max=scale.shape[3] - 1)]
        values = torch.where((level == i)[:, None], read, values)
    cell = torch.stack((col, row), dim=-1).float()
    return PositivePredictions(
        values.float(), cell, anchors.wh[level, anchor], anchors.stride[level, None], anchors.scale_x_y[level, None]
    )


def _objectness_loss(
    raw: tuple[Tensor, ...], positive: Assignment, overlap: Tensor, ignored: Tensor, loss: YoloLossConfig
) -> Tensor:
    """Compute the objectness loss, summed over all priors that are not ignored; the target of negatives is 0."""
    objectness = torch.cat([level[..., 4].flatten(1) for level in raw], dim=1).float()
    target = torch.zeros_like(objectness)
    target[positive.image, positive.prior] = overlap.clamp(min=0) if loss.objectness_target == "iou" else 1.0
    weight = (~ignored).float()
    weight[positive.image, positive.prior] = 1.0
    return _cross_entropy(objectness, target, weight, loss, loss.focal in ("objectness", "both"))


def _class_loss(classes: Tensor, class_id: Tensor, class_weight: Tensor | None, loss: YoloLossConfig) -> Tensor:
    """Compute the classification loss of logits (P, C) and classes (P,), summed over the positives."""
    target = torch.full_like(classes, loss.label_smoothing / 2)
    target.scatter_(1, class_id[:, None], 1 - loss.label_smoothing / 2)
    weight = None if class_weight is None else class_weight.to(classes)[class_id, None].expand_as(classes)
    return _cross_entropy(classes, target, weight, loss, loss.focal in ("class", "both"))


def _cross_entropy(logits: Tensor, target: Tensor, weight: Tensor | None, loss: YoloLossConfig, focal: bool) -> Tensor:
    if not focal:
        return F.binary_cross_entropy_with_logits(logits, target, weight, reduction="sum")
    each = focal_cross_entropy(logits, target, loss.focal_gamma, loss.focal_alpha)
    return each.sum() if weight is None else (each * weight).sum()


def _box_loss(
    positive_preds: PositivePredictions, target_xyxy: Tensor, loss_type: str, wh_decoding: WhDecoding
) -> tuple[Tensor, Tensor]:
    """Return the (P,) box loss of the positives, and the (P,) IoU of predicted and target boxes without gradient.

    `mse` is the loss of YOLOv3 on the raw outputs: the cross-entropy of sigmoid(tx) and sigmoid(ty), plus half of the
    squared errors of tw and th. With `wh_decoding` "square", sigmoid(tw) and sigmoid(th) replace tw and th.
    """
    values, cell, anchor_wh, stride, scale = positive_preds
    t = values[:, :4]
    fraction = t[:, :2].sigmoid() * scale - (scale - 1) / 2
    predicted = cxcywh_to_xyxy(
        torch.cat(((fraction + cell) * stride, decode_wh(t[:, 2:], wh_decoding) * anchor_wh), dim=-1)
    )
    with torch.no_grad():
        overlap = bbox_iou(predicted, target_xyxy, "iou")
    if loss_type != "mse":
        return 1 - bbox_iou(predicted, target_xyxy, loss_type), overlap
    target_cxcywh = xyxy_to_cxcywh(target_xyxy)
    target_fraction = ((target_cxcywh[:, :2] / stride - cell + (scale - 1) / 2) / scale).clamp(0, 1)
    center = F.binary_cross_entropy_with_logits(t[:, :2], target_fraction, reduction="none")
    ratio = (target_cxcywh[:, 2:] / anchor_wh).clamp(min=1e-6)
    size = (t[:, 2:].sigmoid() - ratio.sqrt() / 2 if wh_decoding == "square" else t[:, 2:] - ratio.log()).square() / 2
    return center.sum(dim=-1) + size.sum(dim=-1), overlap
