"""Anchor-IoU label assignment (YOLOv3, section 2.1).

Box and anchor are compared by the IoU of their sizes with a common center (size IoU). Each ground-truth box is assigned
to the anchor with the highest size IoU of all levels, in the grid cell that contains the box center. Three options add
positives: `match_iou` adds all anchors above an IoU threshold (Darknet: `iou_thresh`), `match_ratio` adds all anchors
with similar side lengths, `neighbors` adds the nearest adjacent cells.
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

# With neighbor cells, a box center lies up to half a cell outside the cell of its prior. The decoded offset
# s sigmoid(t) - (s - 1) / 2 covers [-0.5, 1.5] only for s >= 2.
NEIGHBOR_MIN_SCALE_X_Y = 2.0


class AnchorIoUAssigner(Assigner):
    """Assigner that selects positives by the IoU of box size and anchor size, independent of the predictions."""

    config: AnchorIoUConfig

    def assign(
        self,
        raw: tuple[Tensor, ...],
        predicted_xyxy: Tensor,
        targets: Targets,
        anchors: Anchors,
        layout: PriorLayout,
    ) -> Assignment:
        """Assign each non-crowd ground-truth box to priors by anchor IoU."""
        config = self.config
        return assign_by_anchor_iou(
            targets, anchors, layout, config.match_iou, config.match_ratio, config.neighbors
        )  # fmt: skip

    def check_head(self, scale_x_y: tuple[float, ...]) -> None:
        """Check that the head can decode box centers from the neighbor cells.

        Raises:
            ConfigError: `neighbors` is 3 and `scale_x_y` is below 2 on some level.
        """
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
    """Assign each non-crowd ground-truth box to one or more priors.

    If several boxes match the same prior, a box with its center in the cell of the prior is preferred, then the box
    with the highest size IoU, then the first box. A box that loses a prior keeps its others.

    Args:
        targets: Ground-truth boxes of the batch, in input pixels.
        anchors: Anchors of the head.
        layout: Layout of the priors.
        match_iou: Also assign anchors with a size IoU above this threshold; None: none.
        match_ratio: Also assign anchors whose width and height differ from the box by less than this factor; None:
            none.
        neighbors: Cells per box and level: 1 (the cell of the center) or 3 (also the nearest cells in x and in y).
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
    """Match box sizes (N, 2) with anchor sizes (K, 2), both in pixels.

    Returns:
        (N, K) IoU of the sizes with a common center, and (N, K) bool: whether the box is assigned to the anchor.
    """
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
    """Return the cells (x, y) to which a box can be assigned, given its center.

    The first cell contains the center. The second and third are the adjacent cells nearest to the center, in x and in
    y.

    Args:
        center: (..., 2) box centers in units of cells.
        neighbors: Number of cells per box, 1 or 3.

    Returns:
        (..., neighbors, 2) int64.
    """
    center_cell = center.long()
    if neighbors == 1:
        return center_cell[..., None, :]
    step = torch.where(center - center_cell < 0.5, -1, 1)
    step_x = torch.stack((step[..., 0], torch.zeros_like(step[..., 0])), dim=-1)
    return torch.stack((center_cell, center_cell + step_x, center_cell + step - step_x), dim=-2)
