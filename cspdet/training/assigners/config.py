"""The configs of the built-in label assigners. Imports no torch: `build` imports the assigner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from cspdet.config.base import ComponentConfig

if TYPE_CHECKING:
    from cspdet.training.assigners.anchor_iou import AnchorIoUAssigner
    from cspdet.training.assigners.simota import SimOTAAssigner


class AssignerConfigBase(ComponentConfig):
    """Base of every label assigner's config."""

    ignore_iou: float = Field(
        0.7,
        ge=0.5,
        le=1,
        description="Negatives whose predicted box overlaps a ground-truth box by more than this IoU are ignored in "
        "the objectness loss (Darknet: ignore_thresh).",
    )


class AnchorIoUConfig(AssignerConfigBase):
    """Assignment by anchor shape: every box is assigned to its most similar anchor, at the cell of its center."""

    name: Literal["anchor_iou"] = Field("anchor_iou", description="Name of the assigner.")
    match_iou: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Also assign to anchors whose shape overlaps the box by more than this IoU (Darknet: iou_thresh); "
        "null: no such anchors.",
    )
    match_ratio: float | None = Field(
        None,
        gt=1,
        description="Also assign to anchors whose width and height are within this factor of the box's; null: no such "
        "anchors.",
    )
    neighbors: Literal[1, 3] = Field(
        1,
        description="Cells per box and scale: 1, that of the center; 3, also its nearest horizontal and vertical "
        "neighbors.",
    )

    def build(self) -> AnchorIoUAssigner:
        """Build the assigner."""
        from cspdet.training.assigners.anchor_iou import AnchorIoUAssigner

        return AnchorIoUAssigner(self)


class SimOTAConfig(AssignerConfigBase):
    """Assignment by the predictions, SimOTA (YOLOX, section 2.1); see `cspdet.training.assigners.simota`."""

    name: Literal["simota"] = Field("simota", description="Name of the assigner.")
    candidate_topk: int = Field(
        10, ge=1, description="A box gets as many positives as the IoUs of this many best candidates sum up to."
    )
    radius: float = Field(
        2.5, gt=0.5, le=16, description="Candidates have their cell's center within this many cells of the box center."
    )
    iou_weight: float = Field(3.0, ge=0, description="Weight of -log(IoU) in the cost, relative to the class term.")
    center_weight: float = Field(
        1.0, ge=0, description="Weight of 10^(distance in cells - 3) in the cost, relative to the class term."
    )

    def build(self) -> SimOTAAssigner:
        """Build the assigner."""
        from cspdet.training.assigners.simota import SimOTAAssigner

        return SimOTAAssigner(self)
