"""SimOTA label assignment (Ge et al. 2021, "YOLOX", section 2.1), extended to several anchors per cell.

The candidates of a ground-truth box are all priors near its center, on every level and with every anchor. The cost of a
candidate is the classification cross-entropy, plus the weighted -log(IoU), plus a distance term. The k candidates with
the lowest costs become positives; k is the sum of the highest candidate IoUs, at least 1.

A predicted center is at most (scale_x_y - 1) / 2 cells outside the prior's cell. Candidates whose predicted center
cannot reach the box center have a lower IoU and a higher cost, and are selected for large boxes only.
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

MIN_IOU = 1e-8  # keeps log(IoU) finite
MIN_LOG_PROB = -100.0  # bounds the class cost, so that the other terms are not lost in rounding
SOFT_CENTER_BASE, SOFT_CENTER_RADIUS = 10.0, 3.0  # the soft center prior of RTMDet (Lyu et al. 2022, section 3.3)


class AssignCandidates(NamedTuple):
    """Candidate priors: M for each of N boxes. The window of candidate cells has one size for all levels and boxes."""

    flat_index: Tensor  # (N, M) int64, image * S + prior; INVALID_INDEX outside the grid and for crowd boxes
    overlap: Tensor  # (N, M) IoU of the predicted box with the ground-truth box; 0 for an invalid index
    cost: Tensor  # (N, M), infinite for an invalid index


class SimOTAAssigner(Assigner):
    """Assigner that selects the candidate priors with the lowest costs; the costs depend on the predictions."""

    config: SimOTAConfig

    def assign(
        self,
        raw: tuple[Tensor, ...],
        predicted_xyxy: Tensor,
        targets: Targets,
        anchors: Anchors,
        layout: PriorLayout,
    ) -> Assignment:
        """Assign each non-crowd ground-truth box to priors with SimOTA."""
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
    """Assign each non-crowd ground-truth box to its k candidate priors with the lowest costs.

    `dynamic_k` computes k. If several boxes select the same prior, the box with the lowest cost gets it; on a tie, the
    first box.

    Args:
        raw: Raw head outputs, one (B, A, H_l, W_l, 5 + C) per level.
        predicted_xyxy: (B, S, 4) boxes decoded from `raw` by `decode_boxes`, in input pixels.
        targets: Ground-truth boxes of the batch, in input pixels.
        anchors: Anchors of the head.
        layout: Layout of the priors.
        config: Radius, top-k and cost weights.
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
    """Compute the number of positives of each box: the sum of its highest candidate IoUs, rounded down, at least 1.

    Args:
        overlap: (N, M) IoUs of the candidates.
        candidate_topk: Number of IoUs that are summed.

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
    """Return the candidate priors on one level: all anchors of the cells around each box center, row by row."""
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
    """Return the cells whose centers are within `radius` cells of the box center, in x and in y.

    Returns:
        Column, row and distance to the box center, (N, K) tensors in units of cells. K is the same for all boxes; the
        column or row is -1 for a window position outside the radius.
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
    """Compute the classification cost: binary cross-entropy with the class of the box, summed over the classes.

    As in YOLOX, the probability of a class is sqrt(objectness * class probability).

    Args:
        objectness: (...) logits.
        classes: (..., C) logits.
        class_id: int64 class of the box, broadcastable to (...).

    Returns:
        (...) cost.
    """
    log_p = (F.logsigmoid(classes) + F.logsigmoid(objectness)[..., None]) / 2
    log_not = torch.log(-torch.expm1(log_p)).clamp(min=MIN_LOG_PROB)
    chosen = class_id.expand(objectness.shape)[..., None]
    of_class = log_p.clamp(min=MIN_LOG_PROB).gather(-1, chosen) - log_not.gather(-1, chosen)
    return -(log_not.sum(dim=-1) + of_class.squeeze(-1))
