"""Config of what follows a network's forward pass. Imports neither torch nor torchvision."""

from __future__ import annotations

from pydantic import Field

from cspdet.config.base import ConfigModel


class PostprocessConfig(ConfigModel):
    """How raw outputs become detections: score threshold, class-wise NMS, limit, box voting, clipping."""

    min_score: float = Field(0.25, ge=0, le=1, description="Score threshold; detections score above it.")
    nms_iou: float = Field(
        0.6,
        ge=0,
        le=1,
        description="NMS IoU threshold: of two boxes of a class that overlap more, the worse is removed.",
    )
    vote_iou: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Box voting: each kept box becomes the score-weighted average of the candidates of its class that "
        "overlap it by more than this IoU; null: no voting.",
    )
    max_detections: int = Field(100, ge=1, description="Maximum number of detections per image.")
    clip_boxes: bool = Field(True, description="Clip boxes to the image border; Darknet's `map` command does not.")
