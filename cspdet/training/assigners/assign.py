"""Which slots of the head answer for which boxes: pure, vectorized, no loop over boxes or pictures.

A slot is one anchor at one cell of one scale. The static rule, `assign`, gives a box to the slot at the cell of its
center whose anchor has the most similar size over all scales (YOLOv3, section 2.1); with `match_iou` to every other
anchor that is similar enough (Darknet's `iou_thresh`), with `match_ratio` to those whose sides are, and with
`neighbors` in the next cells too. The dynamic rule (`cspdet.training.assigners.simota`)
looks at what the slots predict.

By either rule, slots whose predicted box overlaps some box well are left unpunished, and so are slots whose predicted
box lies in a crowd.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cspdet.boxes import area, intersection, wh_iou
from cspdet.errors import ConfigError
from cspdet.models.head import Anchors
from cspdet.structures import Targets
from cspdet.training.config import AnchorIoUConfig, AssignerConfigBase

# A detection counts as inside a crowd from half of its area on: COCO's lowest matching threshold, and COCO's measure.
CROWD_IOF_THRESHOLD = 0.5
# A center up to half a cell outside its cell is 1.5 cells from the far side: s sigmoid(t) - (s - 1) / 2 needs s = 2.
NEIGHBOR_MIN_SCALE_X_Y = 2.0
INVALID_INDEX = -1  # in place of a place: this pair of a box and a slot is not wanted


def validate_assigner(assigner: AssignerConfigBase, scale_x_y: tuple[float, ...]) -> None:
    """Whether a head can answer for what it is given; to be asked once, before training.

    scale_x_y   the head's, one a scale

    Raises:
        ConfigError: `neighbors` hands out centers that lie outside of what a cell can predict.
    """
    if not isinstance(assigner, AnchorIoUConfig):
        return
    if assigner.neighbors > 1 and min(scale_x_y) < NEIGHBOR_MIN_SCALE_X_Y:
        found = ", ".join(f"{scale:g}" for scale in scale_x_y)
        raise ConfigError(
            f"train.assigner.neighbors: {assigner.neighbors} gives cells boxes with centers up to half a cell outside, which "
            f"model.head.scale_x_y must let them reach: expected {NEIGHBOR_MIN_SCALE_X_Y:g} for every scale, found [{found}]"
        )


class Assignment(NamedTuple):
    """P positives in ascending order of (image, slot), each slot at most once."""

    image: Tensor  # (P,) int64
    prior: Tensor  # (P,) int64, 0 <= slot < S; scale after scale, and anchor, row, column within
    target: Tensor  # (P,) int64, index into the targets


class PriorLayout(NamedTuple):
    """Where the slots of each scale stand in the flat order of S."""

    height: Tensor  # (L,) int64 cells
    width: Tensor  # (L,) int64 cells
    offset: Tensor  # (L,) int64
    num_anchors: int  # A
    num_priors: int  # S

    @classmethod
    def from_level_sizes(cls, sizes_hw: list[tuple[int, int]], num_anchors: int, device: torch.device) -> PriorLayout:
        """From the (height, width) of each scale in cells."""
        # Filled on the device: copying a list there would wait for everything that the device still has to do.
        height, width = torch.stack([torch.full((), n, device=device) for size in sizes_hw for n in size]).view(-1, 2).T
        count = num_anchors * height * width
        num_priors = sum(num_anchors * h * w for h, w in sizes_hw)
        return cls(height, width, count.cumsum(0) - count, num_anchors, num_priors)


def assign(
    targets: Targets,
    anchors: Anchors,
    layout: PriorLayout,
    match_iou: float | None = None,
    match_ratio: float | None = None,
    neighbors: int = 1,
) -> Assignment:
    """Give every box that is no crowd to its slots, by the static rule.

    Two boxes that want one slot: the one with its center in the slot's cell has it, then the better fitting size, then
    the first in order; the other keeps what other slots it has.
    """
    levels, per_level = anchors.wh.shape[:2]
    box = targets.box_xyxy
    size_iou, matched = _match_anchors(box[:, 2:] - box[:, :2], anchors.wh.flatten(0, 1), match_iou, match_ratio)
    matched &= ~targets.is_crowd[:, None]

    anchor_index = torch.arange(levels * per_level, device=box.device)
    level, anchor = anchor_index // per_level, anchor_index % per_level
    center = (box[:, None, :2] + box[:, None, 2:]) / 2 / anchors.stride[level, None]  # (N, L * A, 2) cells x, y
    cell = _candidate_cells(center, neighbors)  # (N, L * A, neighbors, 2)
    limit = torch.stack((layout.width, layout.height), dim=-1)[level, None]  # (L * A, 1, 2)
    center_cell = torch.minimum(cell[:, :, :1].clamp(min=0), limit - 1)
    cell = torch.cat((center_cell, cell[:, :, 1:]), dim=2)
    inside = ((cell >= 0) & (cell < limit)).all(dim=-1)

    row_of_anchor = anchor[:, None] * layout.height[level, None] + cell[..., 1]
    prior = layout.offset[level, None] + row_of_anchor * layout.width[level, None] + cell[..., 0]
    flat_index = targets.image_index[:, None, None] * layout.num_priors + prior
    flat_index = torch.where(matched[:, :, None] & inside, flat_index, INVALID_INDEX)  # (N, L * A, neighbors)
    rank = size_iou[:, :, None].expand_as(flat_index).flatten().argsort(descending=True, stable=True)
    if neighbors > 1:
        is_neighbor_cell = (torch.arange(neighbors, device=box.device) > 0).expand_as(flat_index).flatten()
        rank = rank[is_neighbor_cell[rank].argsort(stable=True)]
    return resolve_conflicts(flat_index, rank, layout)


def _match_anchors(
    box_wh: Tensor, anchor_wh: Tensor, match_iou: float | None, match_ratio: float | None
) -> tuple[Tensor, Tensor]:
    """(N, 2) and (K, 2) pixels to the IoU of the sizes (N, K), and which anchors a box wants (N, K)."""
    size_iou = wh_iou(box_wh, anchor_wh)
    matched = torch.zeros_like(size_iou, dtype=torch.bool)
    matched.scatter_(1, size_iou.argmax(dim=1, keepdim=True), True)
    if match_iou is not None:
        matched |= size_iou > match_iou
    if match_ratio is not None:
        ratio = box_wh[:, None] / anchor_wh
        matched |= ((ratio < match_ratio) & (ratio * match_ratio > 1)).all(dim=-1)
    return size_iou, matched


def _candidate_cells(center: Tensor, neighbors: int) -> Tensor:
    """(..., 2) centers in cells x, y to the (..., neighbors, 2) cells that answer: the own one, then the nearest beside
    it and the nearest above or below.
    """
    center_cell = center.long()
    if neighbors == 1:
        return center_cell[..., None, :]
    step = torch.where(center - center_cell < 0.5, -1, 1)
    step_x = torch.stack((step[..., 0], torch.zeros_like(step[..., 0])), dim=-1)
    return torch.stack((center_cell, center_cell + step_x, center_cell + step - step_x), dim=-2)


def resolve_conflicts(flat_index: Tensor, priority: Tensor, layout: PriorLayout) -> Assignment:
    """Settle who has the slots that several boxes want.

    place       (N, ...) int64: for each box, the slots that it wants as image * S + slot, or NOWHERE
    best_first  (elements of `place`,) int64: which of these go first, as indices into the flat `place`
    """
    candidates_per_box = flat_index[0].numel() if len(flat_index) else 1
    flat = flat_index.flatten()
    order = priority[flat[priority].argsort(stable=True)]
    sorted_index = flat[order]
    first = sorted_index > INVALID_INDEX
    first[1:] &= sorted_index[1:] != sorted_index[:-1]
    chosen = order[first.nonzero().squeeze(1)]
    return Assignment(flat[chosen] // layout.num_priors, flat[chosen] % layout.num_priors, chosen // candidates_per_box)


def ignore_mask(
    predicted_xyxy: Tensor, targets: Targets, anchors: Anchors, layout: PriorLayout, ignore_iou: float
) -> Tensor:
    """(B, S) bool: slots whose predicted box overlaps a truth by more than `ignore_iou`, or lies in a crowd.

    predicted_xyxy is (B, S, 4) in input pixels. Only pairs that can reach half overlap are compared: a box whose center
    lies outside a truth shares at most half of its own area with it, hence an IoU of at most 1/2; and the center of a
    slot's box stays within (scale_x_y - 1) / 2 cells of the slot's own cell.
    """
    images, total = predicted_xyxy.shape[:2]
    # One place more than there are slots, for the pairs that do not count: picking the rest would wait for the device.
    ignored = torch.zeros(images * total + 1, dtype=torch.bool, device=predicted_xyxy.device)
    gt, flat = _candidate_pairs(targets, anchors, layout)
    predicted, box = predicted_xyxy.reshape(-1, 4)[flat], targets.box_xyxy[gt]
    intersection_area = intersection(predicted, box)
    predicted_area = area(predicted)
    crowd = targets.is_crowd[gt]
    union = predicted_area + area(box) - intersection_area
    covered = torch.where(
        crowd, intersection_area > CROWD_IOF_THRESHOLD * predicted_area, intersection_area > ignore_iou * union
    )
    ignored[torch.where(covered, flat, images * total)] = True
    return ignored[:-1].view(images, total)


def _candidate_pairs(targets: Targets, anchors: Anchors, layout: PriorLayout) -> tuple[Tensor, Tensor]:
    """All pairs of a truth and a slot of its picture whose box can have its center in the truth.

    Returns the truth's index and the slot's index into (B * S), each (pairs,).
    """
    margin = (anchors.scale_x_y - 1) / 2
    low = targets.box_xyxy[:, None, :2] / anchors.stride[:, None] - 1 - margin[:, None]  # (N, L, 2) cells x, y
    high = targets.box_xyxy[:, None, 2:] / anchors.stride[:, None] + margin[:, None]
    limit = torch.stack((layout.width, layout.height), dim=-1) - 1  # (L, 2)
    low_cell = torch.minimum(low.ceil().long().clamp(min=0), limit + 1)
    high_cell = torch.minimum(high.floor().long(), limit)
    span = (high_cell - low_cell + 1).clamp(min=0).flatten(0, 1)  # (N * L, 2) cells in x and y
    count = layout.num_anchors * span.prod(dim=-1)
    row_of_pair = torch.repeat_interleave(count)
    rank = torch.arange(len(row_of_pair), device=count.device) - (count.cumsum(0) - count)[row_of_pair]

    levels = len(layout.offset)
    level, gt = row_of_pair % levels, row_of_pair // levels
    width, height = span[row_of_pair].unbind(-1)
    start = low_cell.flatten(0, 1)[row_of_pair]
    col = start[:, 0] + rank % width
    row = start[:, 1] + rank // width % height
    anchor = rank // (width * height)
    prior = layout.offset[level] + (anchor * layout.height[level] + row) * layout.width[level] + col
    return gt, targets.image_index[gt] * layout.num_priors + prior
