"""Which slots of the head answer for which boxes: pure, vectorized, no loop over boxes or pictures.

A slot is one anchor at one cell of one scale. A box is given to the slot at the cell of its center whose anchor has the
most similar size over all scales (YOLOv3, section 2.1), and with `match_iou` to every other anchor that is similar
enough (Darknet's `iou_thresh`). Slots whose predicted box overlaps some box well are left unpunished, and so are slots
whose predicted box lies in a crowd.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from cspdet.boxes import area, intersection, wh_iou
from cspdet.config import ConfigModel
from cspdet.models.head import Anchors
from cspdet.types import Targets

# A detection counts as inside a crowd from half of its area on: COCO's lowest matching threshold, and COCO's measure.
CROWD_SHARE = 0.5


class AssignConfig(ConfigModel):
    """Which slots answer for which boxes."""

    match_iou: float | None = Field(None, gt=0, lt=1)  # anchors above this overlap answer too; null: only the best one
    ignore_iou: float = Field(0.7, ge=0.5, le=1)  # a slot whose box overlaps a truth by more is not punished


class Assignment(NamedTuple):
    """P positives in ascending order of (image, slot), each slot at most once."""

    image: Tensor  # (P,) int64
    slot: Tensor  # (P,) int64, 0 <= slot < S; scale after scale, and anchor, row, column within
    target: Tensor  # (P,) int64, index into the targets


class Slots(NamedTuple):
    """Where the slots of each scale stand in the flat order of S."""

    height: Tensor  # (L,) int64 cells
    width: Tensor  # (L,) int64 cells
    first: Tensor  # (L,) int64
    anchors: int  # A
    total: int  # S

    @classmethod
    def of(cls, sizes_hw: list[tuple[int, int]], anchors: int, device: torch.device) -> Slots:
        """From the (height, width) of each scale in cells."""
        height, width = torch.tensor(sizes_hw, device=device).T
        count = anchors * height * width
        total = sum(anchors * h * w for h, w in sizes_hw)
        return cls(height, width, count.cumsum(0) - count, anchors, total)


def assign(targets: Targets, anchors: Anchors, slots: Slots, match_iou: float | None = None) -> Assignment:
    """Give every box that is no crowd to its slots. Two boxes that want one slot: the better fitting size has it, then
    the first in order; the other keeps what other slots it has.
    """
    _levels, per_level = anchors.wh.shape[:2]
    size = targets.box_xyxy[:, 2:] - targets.box_xyxy[:, :2]
    similar = wh_iou(size, anchors.wh.flatten(0, 1))  # (N, L * A)
    wanted = torch.zeros_like(similar, dtype=torch.bool)
    wanted.scatter_(1, similar.argmax(dim=1, keepdim=True), True)
    if match_iou is not None:
        wanted |= similar > match_iou
    wanted &= ~targets.is_crowd[:, None]
    target, kind = wanted.nonzero(as_tuple=True)
    level, anchor = kind // per_level, kind % per_level

    center = (targets.box_xyxy[target, :2] + targets.box_xyxy[target, 2:]) / 2
    cell = (center / anchors.stride[level, None]).long()
    col = torch.minimum(cell[:, 0].clamp(min=0), slots.width[level] - 1)
    row = torch.minimum(cell[:, 1].clamp(min=0), slots.height[level] - 1)
    slot = slots.first[level] + (anchor * slots.height[level] + row) * slots.width[level] + col
    place = targets.image[target] * slots.total + slot

    best_first = similar[target, kind].argsort(descending=True, stable=True)
    by_place = best_first[place[best_first].argsort(stable=True)]
    place, target = place[by_place], target[by_place]
    first = torch.ones_like(place, dtype=torch.bool)
    first[1:] = place[1:] != place[:-1]
    place, target = place[first], target[first]
    return Assignment(place // slots.total, place % slots.total, target)


def unpunished(predicted_xyxy: Tensor, targets: Targets, anchors: Anchors, slots: Slots, ignore_iou: float) -> Tensor:
    """(B, S) bool: slots whose predicted box overlaps a truth by more than `ignore_iou`, or lies in a crowd.

    predicted_xyxy is (B, S, 4) in input pixels. Only pairs that can reach half overlap are compared: a box whose center
    lies outside a truth shares at most half of its own area with it, hence an IoU of at most 1/2; and the center of a
    slot's box stays within (scale_x_y - 1) / 2 cells of the slot's own cell.
    """
    ignored = torch.zeros(predicted_xyxy.shape[:2], dtype=torch.bool, device=predicted_xyxy.device)
    truth, flat = _reachable(targets, anchors, slots)
    predicted, box = predicted_xyxy.reshape(-1, 4)[flat], targets.box_xyxy[truth]
    shared = intersection(predicted, box)
    own = area(predicted)
    crowd = targets.is_crowd[truth]
    union = own + area(box) - shared
    covered = torch.where(crowd, shared > CROWD_SHARE * own, shared > ignore_iou * union)
    ignored.view(-1)[flat[covered]] = True
    return ignored


def _reachable(targets: Targets, anchors: Anchors, slots: Slots) -> tuple[Tensor, Tensor]:
    """All pairs of a truth and a slot of its picture whose box can have its center in the truth.

    Returns the truth's index and the slot's index into (B * S), each (pairs,).
    """
    margin = (anchors.scale_x_y - 1) / 2
    low = targets.box_xyxy[:, None, :2] / anchors.stride[:, None] - 1 - margin[:, None]  # (N, L, 2) cells x, y
    high = targets.box_xyxy[:, None, 2:] / anchors.stride[:, None] + margin[:, None]
    limit = torch.stack((slots.width, slots.height), dim=-1) - 1  # (L, 2)
    low_cell = torch.minimum(low.ceil().long().clamp(min=0), limit + 1)
    high_cell = torch.minimum(high.floor().long(), limit)
    span = (high_cell - low_cell + 1).clamp(min=0).flatten(0, 1)  # (N * L, 2) cells in x and y
    count = slots.anchors * span.prod(dim=-1)
    row_of_pair = torch.repeat_interleave(count)
    rank = torch.arange(len(row_of_pair), device=count.device) - (count.cumsum(0) - count)[row_of_pair]

    levels = len(slots.first)
    level, truth = row_of_pair % levels, row_of_pair // levels
    width, height = span[row_of_pair].unbind(-1)
    start = low_cell.flatten(0, 1)[row_of_pair]
    col = start[:, 0] + rank % width
    row = start[:, 1] + rank // width % height
    anchor = rank // (width * height)
    slot = slots.first[level] + (anchor * slots.height[level] + row) * slots.width[level] + col
    return truth, targets.image[truth] * slots.total + slot
