"""Assignment by the predictions: SimOTA (Ge et al. 2021, "YOLOX", section 2.1) over anchors.

Every prior near a box's center, on every level and with every anchor, is a candidate. Its cost is the cross-entropy of
the classes, the negative logarithm of the overlap and a term of the distance. A box that its candidates already cover
well gets many positives, one that no candidate covers gets the cheapest. The choice follows what the network learns.

A prior's center cannot leave its cell by more than (scale_x_y - 1) / 2: a candidate further away overlaps less, so it
costs more and is chosen for large boxes only.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cspdet.boxes import iou
from cspdet.models.head import Anchors
from cspdet.structures import Targets
from cspdet.training.assigners.config import SimOTAConfig
from cspdet.training.assigners.priors import INVALID_INDEX, Assigner, Assignment, PriorLayout, resolve_conflicts

MIN_IOU = 1e-8  # its logarithm is finite
MIN_LOG_PROB = -100.0  # of a probability: no candidate is so wrong that the others' costs are lost beside it
SOFT_CENTER_BASE, SOFT_CENTER_RADIUS = 10.0, 3.0  # the soft center prior of RTMDet (Lyu et al. 2022, section 3.3)


class AssignCandidates(NamedTuple):
    """The priors near the center of each box, M for each: a window of the same size on every level."""

    flat_index: Tensor  # (N, M) int64, image * S + prior; INVALID_INDEX outside the image, and for crowds
    overlap: Tensor  # (N, M) IoU of the prior's box with the box, 0 where the index is invalid
    cost: Tensor  # (N, M), infinite where the index is invalid


class SimOTAAssigner(Assigner):
    """Positives by the cost of each candidate prior, from what the network predicts."""

    config: SimOTAConfig

    def assign(
        self,
        raw: tuple[Tensor, ...],
        predicted_xyxy: Tensor,
        targets: Targets,
        anchors: Anchors,
        layout: PriorLayout,
    ) -> Assignment:
        """Assign by cost; see `Assigner.assign`."""
        return assign_simota(raw, predicted_xyxy, targets, anchors, layout, self.config)


@torch.no_grad()
def assign_simota(
    raw: tuple[Tensor, ...],
    predicted_xyxy: Tensor,
    targets: Targets,
    anchors: Anchors,
    layout: PriorLayout,
    config: SimOTAConfig,
) -> Assignment:
    """Assign every box that is no crowd to its cheapest priors: as many as their overlaps sum up to, at least one.

    A prior that is a candidate of two boxes is assigned to the one with the lower cost, then to the first.

    Args:
        raw: The head's output of each level, (B, A, H_l, W_l, 5 + C); the choice carries no gradient.
        predicted_xyxy: (B, S, 4) what `decode_boxes` makes of them.
        targets: The boxes of the batch in input pixels.
        anchors: The anchors of the head.
        layout: The layout of the priors.
        config: Number and cost of candidates.
    """
    parts = [_candidates(raw, level, predicted_xyxy, targets, anchors, layout, config) for level in range(len(raw))]
    flat_index, overlap, cost = (torch.cat(part, dim=1) for part in zip(*parts, strict=True))
    k = dynamic_k(overlap, config.candidate_topk)
    max_k = min(config.candidate_topk, cost.shape[1])
    cost, cheapest = cost.sort(dim=1, stable=True)
    flat_index = flat_index.gather(1, cheapest)[:, :max_k]
    is_beyond_k = torch.arange(max_k, device=flat_index.device) >= k[:, None]
    flat_index = flat_index.masked_fill(is_beyond_k, INVALID_INDEX)
    return resolve_conflicts(flat_index, cost[:, :max_k].flatten().argsort(stable=True), layout)


def dynamic_k(overlap: Tensor, candidate_topk: int) -> Tensor:
    """Number of positives of each box: the integer part of the summed IoUs of the best candidates, at least 1.

    Args:
        overlap: (N, M) IoUs of the candidates.
        candidate_topk: How many of the best are summed.

    Returns:
        (N,) int64.
    """
    max_k = min(candidate_topk, overlap.shape[1])
    return overlap.topk(max_k, dim=1).values.sum(dim=1).long().clamp(1, max_k)


def _candidates(
    raw: tuple[Tensor, ...],
    level: int,
    predicted_xyxy: Tensor,
    targets: Targets,
    anchors: Anchors,
    layout: PriorLayout,
    config: SimOTAConfig,
) -> AssignCandidates:
    """Those of one level: for each box the cells around its center in reading order, and in each cell all anchors."""
    height, width = raw[level].shape[2:4]
    col, row, distance = _window(targets.box_xyxy, anchors.stride[level], (height, width), config.radius)
    inside = (col >= 0) & (col < width) & (row >= 0) & (row < height) & ~targets.is_crowd[:, None]
    col, row = col.clamp(0, width - 1), row.clamp(0, height - 1)  # (N, K)

    image = targets.image_index[:, None].expand_as(col)
    anchor = torch.arange(layout.num_anchors, device=col.device)
    prior = layout.offset[level] + (anchor * height + row[..., None]) * width + col[..., None]  # (N, K, A)
    flat_index = torch.where(inside[..., None], image[..., None] * layout.num_priors + prior, INVALID_INDEX)
    overlap = iou(predicted_xyxy[image[..., None], prior], targets.box_xyxy[:, None, None])
    overlap = overlap.nan_to_num(nan=0.0).masked_fill(flat_index == INVALID_INDEX, 0)

    rows = raw[level][image, :, row, col, 4:].float()  # (N, K, A, 1 + C)
    cost = class_cost(rows[..., 0], rows[..., 1:], targets.class_id[:, None, None])
    cost = cost - config.iou_weight * overlap.clamp(min=MIN_IOU).log()
    cost = cost + config.center_weight * SOFT_CENTER_BASE ** (distance[..., None] - SOFT_CENTER_RADIUS)
    cost = cost.nan_to_num(nan=torch.inf).masked_fill(flat_index == INVALID_INDEX, torch.inf)
    return AssignCandidates(flat_index.flatten(1), overlap.flatten(1), cost.flatten(1))


def _window(box_xyxy: Tensor, stride: Tensor, size_hw: tuple[int, int], radius: float) -> tuple[Tensor, Tensor, Tensor]:
    """Columns, rows and distances in cells (N, K) of the cells whose centers are nearer than `radius` to that of the
    box in x and in y. The window has the same K for all; cells of it that are too far get the column or row -1.
    """
    height, width = size_hw
    limit = torch.stack((torch.full_like(stride, width), torch.full_like(stride, height)))
    center = torch.minimum(((box_xyxy[:, :2] + box_xyxy[:, 2:]) / 2 / stride).clamp(min=0), limit)
    reach = torch.arange(math.ceil(2 * radius), device=box_xyxy.device)
    cell = (center - radius - 0.5).floor().long()[:, None] + 1 + reach[:, None]  # (N, side, 2)
    away = (cell + 0.5 - center[:, None]).abs()
    cell = torch.where(away < radius, cell, -1)
    side = len(reach)
    col, row = cell[:, None, :, 0].expand(-1, side, -1), cell[:, :, None, 1].expand(-1, -1, side)
    distance = (away[:, None, :, 0].square() + away[:, :, None, 1].square()).sqrt()
    return col.flatten(1), row.flatten(1), distance.flatten(1)


def class_cost(objectness: Tensor, classes: Tensor, class_id: Tensor) -> Tensor:
    """(...) cross-entropy of a prior's class prediction for a box, summed over the classes.

    The probability of a class is the root of objectness times class, as in YOLOX: neither alone gives a low cost.

    Args:
        objectness: (...) logits.
        classes: (..., C) logits.
        class_id: int64 that broadcasts to (...).
    """
    log_p = (F.logsigmoid(classes) + F.logsigmoid(objectness)[..., None]) / 2
    log_not = torch.log(-torch.expm1(log_p)).clamp(min=MIN_LOG_PROB)
    chosen = class_id.expand(objectness.shape)[..., None]
    of_class = log_p.clamp(min=MIN_LOG_PROB).gather(-1, chosen) - log_not.gather(-1, chosen)
    return -(log_not.sum(dim=-1) + of_class.squeeze(-1))
