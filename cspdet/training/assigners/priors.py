"""Assigner interface and its shared parts: prior layout, conflict resolution, ignore mask.

A prior is one anchor at one grid cell of one level. The S priors of an image are numbered by level, then by anchor, row
and column. All functions are vectorized, without a loop over boxes or images.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cspdet.boxes import area, intersection
from cspdet.models.head import Anchors
from cspdet.structures import Targets

# A predicted box is in a crowd region if more than half of its area is. COCO also uses intersection over the area of
# the detection for crowds, and 0.5 is its lowest matching threshold.
CROWD_IOF_THRESHOLD = 0.5
INVALID_INDEX = -1  # flat index of a (box, prior) pair that is not a candidate


class Assignment(NamedTuple):
    """The P positives of a batch, sorted by (image, prior); each prior occurs at most once."""

    image: Tensor  # (P,) int64
    prior: Tensor  # (P,) int64, 0 <= prior < S
    target: Tensor  # (P,) int64, index of the ground-truth box in the targets


class PriorLayout(NamedTuple):
    """Layout of the priors: grid sizes of the L levels, and their offsets in the flat order of the priors."""

    height: Tensor  # (L,) int64, in cells
    width: Tensor  # (L,) int64, in cells
    offset: Tensor  # (L,) int64, index of the first prior of each level
    num_anchors: int  # A, per cell
    num_priors: int  # S, per image

    @classmethod
    def from_level_sizes(cls, sizes_hw: list[tuple[int, int]], num_anchors: int, device: torch.device) -> PriorLayout:
        """Lay out the priors of a head.

        Args:
            sizes_hw: Height and width of each level in cells.
            num_anchors: Anchors per cell, A.
            device: Device of the tensors.
        """
        # The tensors are filled on the device, because a copy from the host would synchronize with the GPU.
        height, width = torch.stack([torch.full((), n, device=device) for size in sizes_hw for n in size]).view(-1, 2).T
        count = num_anchors * height * width
        num_priors = sum(num_anchors * h * w for h, w in sizes_hw)
        return cls(height, width, count.cumsum(0) - count, num_anchors, num_priors)


class Assigner(ABC):
    """Base class of the label assigners, which select the positives of a batch.

    A user-defined assigner is a subclass with a nested `Config`.

    Attributes:
        config: The assigner's config; `config.ignore_iou` is the threshold of the ignore mask.
    """

    def __init__(self, config: Any):
        self.config = config

    def __call__(
        self, raw: tuple[Tensor, ...], predicted_xyxy: Tensor, targets: Targets, anchors: Anchors
    ) -> tuple[PriorLayout, Assignment, Tensor]:
        """Select the positives and the ignored priors of a batch; called without gradients.

        Args:
            raw: Raw head outputs, one (B, A, H_l, W_l, 5 + C) per level.
            predicted_xyxy: (B, S, 4) decoded boxes, in input pixels.
            targets: Ground-truth boxes of the batch, in input pixels.
            anchors: Anchors of the head.

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
        """Assign each non-crowd ground-truth box to priors; called without gradients.

        Args:
            raw: Raw head outputs, one (B, A, H_l, W_l, 5 + C) per level.
            predicted_xyxy: (B, S, 4) decoded boxes, in input pixels.
            targets: Ground-truth boxes of the batch, in input pixels.
            anchors: Anchors of the head.
            layout: Layout of the priors.
        """

    def check_head(self, scale_x_y: tuple[float, ...]) -> None:  # noqa: B027 optional
        """Raise an error if the head cannot decode the assigned boxes; called once, before training.

        Args:
            scale_x_y: `scale_x_y` of the head, one per level.

        Raises:
            ConfigError: The head cannot decode the assigned boxes.
        """


def resolve_conflicts(flat_index: Tensor, priority: Tensor, layout: PriorLayout) -> Assignment:
    """Assign each candidate prior to one box; if several boxes have this candidate, the first in `priority` gets it.

    Args:
        flat_index: (N, ...) int64, candidate priors of each of N boxes, as image * S + prior, or INVALID_INDEX.
        priority: int64 permutation of the indices of the flattened `flat_index`, highest priority first.
        layout: Layout of the priors.
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
    """Return the mask of priors that are ignored in the objectness loss unless they are positives.

    A prior is ignored if the IoU of its predicted box with a ground-truth box is above `ignore_iou`, or if more than
    half of the predicted box lies in a crowd region. A predicted center is at most (scale_x_y - 1) / 2 cells outside
    its prior's cell. Priors whose predicted center cannot be inside a ground-truth box are not compared with this box,
    because at most half of their predicted box lies in it, so the IoU is at most 0.5.

    Args:
        predicted_xyxy: (B, S, 4) decoded boxes, in input pixels.
        targets: Ground-truth boxes of the batch, in input pixels.
        anchors: Anchors of the head.
        layout: Layout of the priors.
        ignore_iou: IoU threshold (Darknet: ignore_thresh).

    Returns:
        (B, S) bool.
    """
    images, total = predicted_xyxy.shape[:2]
    # Pairs below the threshold write to an extra last element: boolean indexing would synchronize with the GPU.
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
    """Find the pairs of a ground-truth box and a prior of the same image whose decoded center can be inside the box.

    Returns (P,) int64 box indices, and (P,) int64 indices into the B * S priors of all images.
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
