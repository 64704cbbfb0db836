"""Common parts of the assigners: prior layout, assignment, conflict resolution, ignore mask.

A prior is an anchor at a grid cell of a level. Priors are numbered level after level, and within a level by anchor, row
and column; S is their number. All functions are vectorized, without a loop over boxes or images.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cspdet.boxes import area, intersection
from cspdet.models.head import Anchors
from cspdet.structures import Targets

# A detection counts as inside a crowd from half of its area on: COCO's lowest matching threshold, and COCO's measure.
CROWD_IOF_THRESHOLD = 0.5
INVALID_INDEX = -1  # in place of a flat index: this pair of a box and a prior is no candidate


class Assignment(NamedTuple):
    """P positives in ascending order of (image, prior), each prior at most once."""

    image: Tensor  # (P,) int64
    prior: Tensor  # (P,) int64, 0 <= prior < S
    target: Tensor  # (P,) int64, index into the targets


class PriorLayout(NamedTuple):
    """Sizes and offsets of the levels in the flat order of the priors."""

    height: Tensor  # (L,) int64 cells
    width: Tensor  # (L,) int64 cells
    offset: Tensor  # (L,) int64
    num_anchors: int  # A
    num_priors: int  # S

    @classmethod
    def from_level_sizes(cls, sizes_hw: list[tuple[int, int]], num_anchors: int, device: torch.device) -> PriorLayout:
        """Lay out the priors of a head.

        Args:
            sizes_hw: Height and width of each level in cells.
            num_anchors: Anchors per cell, A.
            device: Where the tensors are.
        """
        # Filled on the device: copying a list there would wait for everything that the device still has to do.
        height, width = torch.stack([torch.full((), n, device=device) for size in sizes_hw for n in size]).view(-1, 2).T
        count = num_anchors * height * width
        num_priors = sum(num_anchors * h * w for h, w in sizes_hw)
        return cls(height, width, count.cumsum(0) - count, num_anchors, num_priors)


class Assigner(ABC):
    """Selects the positives of a batch. A user-defined assigner is a subclass with a nested `Config`.

    Attributes:
        config: The assigner's config; `config.ignore_iou` is the threshold of the ignore mask.
    """

    def __init__(self, config: Any):
        self.config = config

    def __call__(
        self, raw: tuple[Tensor, ...], predicted_xyxy: Tensor, targets: Targets, anchors: Anchors
    ) -> tuple[PriorLayout, Assignment, Tensor]:
        """Choose the positives and the ignored priors of a batch; called without gradient.

        Args:
            raw: The head's output of each level, (B, A, H_l, W_l, 5 + C).
            predicted_xyxy: (B, S, 4) the decoded boxes in input pixels.
            targets: The boxes of the batch in input pixels.
            anchors: The anchors of the head.

        Returns:
            The layout of the priors, the positives, and the ignore mask (B, S) bool.
        """
        sizes_hw = [(level.shape[2], level.shape[3]) for level in raw]
        layout = PriorLayout.from_level_sizes(sizes_hw, raw[0].shape[1], raw[0].device)
        positive = self.assign(raw, predicted_xyxy, targets, anchors, layout)
        return layout, positive, ignore_mask(predicted_xyxy, targets, anchors, layout, self.config.ignore_iou)

    @abstractmethod
    def assign(
        self,
        raw: tuple[Tensor, ...],
        predicted_xyxy: Tensor,
        targets: Targets,
        anchors: Anchors,
        layout: PriorLayout,
    ) -> Assignment:
        """Assign every box that is no crowd to its priors; called without gradient.

        Args:
            raw: The head's output of each level, (B, A, H_l, W_l, 5 + C).
            predicted_xyxy: (B, S, 4) the decoded boxes in input pixels.
            targets: The boxes of the batch in input pixels.
            anchors: The anchors of the head.
            layout: The layout of the priors.
        """

    def check_head(self, scale_x_y: tuple[float, ...]) -> None:  # noqa: B027 optional
        """Check that a head can predict what it is assigned; called once, before training.

        Args:
            scale_x_y: The head's, one per level.

        Raises:
            ConfigError: it cannot.
        """


def resolve_conflicts(flat_index: Tensor, priority: Tensor, layout: PriorLayout) -> Assignment:
    """Assign each prior that is a candidate of several boxes to the one with the highest priority.

    Args:
        flat_index: (N, ...) int64, the candidates of each box as image * S + prior, or INVALID_INDEX.
        priority: (elements of `flat_index`,) int64, indices into the flat `flat_index`, highest priority first.
        layout: The layout of the priors.
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
    """Find the priors whose predicted box overlaps a ground-truth box by more than `ignore_iou`, or lies in a crowd.

    Only pairs that can reach half overlap are compared: a box whose center lies outside a ground-truth box has at most
    half of its own area in it, and an IoU of at most 1/2; and the center of a prior's box stays within
    (scale_x_y - 1) / 2 cells of the prior's own cell.

    Args:
        predicted_xyxy: (B, S, 4) the decoded boxes in input pixels.
        targets: The boxes of the batch in input pixels.
        anchors: The anchors of the head.
        layout: The layout of the priors.
        ignore_iou: The threshold (Darknet: ignore_thresh).

    Returns:
        (B, S) bool.
    """
    images, total = predicted_xyxy.shape[:2]
    # One element more than there are priors, for the pairs that do not count: selecting the rest would
    # wait for the device.
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
    """All pairs of a ground-truth box and a prior of its image whose box can have its center in it.

    Returns:
        The index of the ground-truth box and the prior's index into (B * S), each (pairs,).
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
