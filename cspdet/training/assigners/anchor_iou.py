"""Assignment by anchor shape (YOLOv3, section 2.1): the most similar anchor over all levels, at the center's cell.

`match_iou` adds every other anchor that is similar enough (Darknet's `iou_thresh`), `match_ratio` those with similar
sides, and `neighbors` the nearest cells.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cspdet.boxes import wh_iou
from cspdet.errors import ConfigError
from cspdet.models.head import Anchors
from cspdet.structures import Targets
from cspdet.training.assigners.config import AnchorIoUConfig
from cspdet.training.assigners.priors import INVALID_INDEX, Assigner, Assignment, PriorLayout, resolve_conflicts

# A center up to half a cell outside its cell is 1.5 cells from the far side: s sigmoid(t) - (s - 1) / 2 needs s = 2.
NEIGHBOR_MIN_SCALE_X_Y = 2.0


class AnchorIoUAssigner(Assigner):
    """Selects positives by the similarity of boxes and anchors, independent of the predictions."""

    config: AnchorIoUConfig

    def assign(
        self,
        raw: tuple[Tensor, ...],
        predicted_xyxy: Tensor,
        targets: Targets,
        anchors: Anchors,
        layout: PriorLayout,
    ) -> Assignment:
        """Assign by anchor shape; see `Assigner.assign`."""
        config = self.config
        return assign_by_anchor_iou(
            targets, anchors, layout, config.match_iou, config.match_ratio, config.neighbors
        )  # fmt: skip

    def check_head(self, scale_x_y: tuple[float, ...]) -> None:
        """Raise ConfigError where `neighbors` assigns centers that a cell cannot predict."""
        if self.config.neighbors > 1 and min(scale_x_y) < NEIGHBOR_MIN_SCALE_X_Y:
            found = ", ".join(f"{scale:g}" for scale in scale_x_y)
            raise ConfigError(
                f"train.assigner.neighbors: {self.config.neighbors} assigns boxes to cells half a cell from their "
                f"center, which model.head.scale_x_y must reach: expected {NEIGHBOR_MIN_SCALE_X_Y:g} for every level, "
                f"found [{found}]"
            )


def assign_by_anchor_iou(
    targets: Targets,
    anchors: Anchors,
    layout: PriorLayout,
    match_iou: float | None = None,
    match_ratio: float | None = None,
    neighbors: int = 1,
) -> Assignment:
    """Assign every box that is no crowd to its priors.

    A prior that is a candidate of two boxes is assigned to the one with its center in the prior's cell, then to the one
    with the more similar size, then to the first; the other keeps its other priors.

    Args:
        targets: The boxes of the batch in input pixels.
        anchors: The anchors of the head.
        layout: The layout of the priors.
        match_iou: Also assign to anchors whose size has a higher IoU; None: no such anchors.
        match_ratio: Also assign to anchors with both sides within this factor; None: no such anchors.
        neighbors: Cells per box and level: 1 or 3.
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
    """(N, 2) and (K, 2) pixels to the IoU of the sizes (N, K), and which anchors a box is matched with (N, K)."""
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
    """(..., 2) centers in cells x, y to the (..., neighbors, 2) candidate cells: that of the center, then the nearest
    horizontal and the nearest vertical neighbor.
    """
    center_cell = center.long()
    if neighbors == 1:
        return center_cell[..., None, :]
    step = torch.where(center - center_cell < 0.5, -1, 1)
    step_x = torch.stack((step[..., 0], torch.zeros_like(step[..., 0])), dim=-1)
    return torch.stack((center_cell, center_cell + step_x, center_cell + step - step_x), dim=-2)
