"""Configs of the built-in label assigners. This module does not import torch; `build` imports the assigner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from cspdet.config.base import ComponentConfig

if TYPE_CHECKING:
    from cspdet.training.assigners.anchor_iou import AnchorIoUAssigner
    from cspdet.training.assigners.simota import SimOTAAssigner


class AssignerConfigBase(ComponentConfig):
    """Base class of the label assigner configs."""

    ignore_iou: float = Field(
        0.7,
        ge=0.5,
        le=1,
        description="Negatives whose predicted box overlaps a ground-truth box by more than this IoU are ignored in "
        "the objectness loss (Darknet: ignore_thresh).",
    )


class AnchorIoUConfig(AssignerConfigBase):
    """Config of anchor-IoU assignment: a box is matched to the anchor with the highest IoU of width and height.

    The match is in the grid cell that contains the center of the box.
    """

    name: Literal["anchor_iou"] = Field("anchor_iou", description="Name of the assigner.")
    match_iou: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Also assign anchors whose size has an IoU with the box above this threshold (Darknet: "
        "iou_thresh); null: none.",
    )
    match_ratio: float | None = Field(
        None,
        gt=1,
        description="Also assign anchors whose width and height are within this factor of the box's; null: none.",
    )
    neighbors: Literal[1, 3] = Field(
        1,
        description="Grid cells per box and level: 1, the cell of the center; 3, also its nearest horizontal and "
        "vertical neighbors.",
    )

    def build(self) -> AnchorIoUAssigner:
        """Build the assigner."""
        from cspdet.training.assigners.anchor_iou import AnchorIoUAssigner

        return AnchorIoUAssigner(self)


class SimOTAConfig(AssignerConfigBase):
    """Config of prediction-based assignment, SimOTA (YOLOX, section 2.1)."""

    name: Literal["simota"] = Field("simota", description="Name of the assigner.")
    candidate_topk: int = Field(
        10, ge=1, description="Number of highest candidate IoUs whose sum is the number of positives of a box."
    )
    radius: float = Field(
        2.5,
        gt=0.5,
        le=16,
        description="Candidates are priors with a cell center within this many cells of the box center.",
    )
    iou_weight: float = Field(3.0, ge=0, description="Weight of -log(IoU) in the cost, relative to the class term.")
    center_weight: float = Field(
        1.0, ge=0, description="Weight of 10^(distance in cells - 3) in the cost, relative to the class term."
    )

    def build(self) -> SimOTAAssigner:
        """Build the assigner."""
        from cspdet.training.assigners.simota import SimOTAAssigner

        return SimOTAAssigner(self)
