"""Configs of the built-in detection losses. This module does not import torch; `build` imports the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Discriminator, Field, Tag

from cspdet.config.base import ComponentConfig

if TYPE_CHECKING:
    from cspdet.training.losses.base import LossContext
    from cspdet.training.losses.yolo import YoloLoss


def _text_or_list(value: object) -> str:
    return "text" if isinstance(value, str) else "list"


# The union is discriminated by the type of the value, so that an error is reported once and not for both members.
ClassWeights = Annotated[
    Annotated[Literal["none", "auto"], Tag("text")] | Annotated[tuple[Annotated[float, Field(gt=0)], ...], Tag("list")],
    Discriminator(_text_or_list),
]


class LossConfigBase(ComponentConfig):
    """Base class of the loss configs."""


class YoloLossConfig(LossConfigBase):
    """Config of the loss of a YOLO head: box regression, objectness and classification."""

    name: Literal["yolo"] = Field("yolo", description="Name of the loss.")
    box: Literal["mse", "iou", "giou", "diou", "ciou"] = Field("ciou", description="Type of the box loss.")
    box_weight: float = Field(5.0, ge=0, description="Weight of the box loss (Darknet: iou_normalizer).")
    objectness_weight: float = Field(1.0, ge=0, description="Weight of the objectness loss (Darknet: obj_normalizer).")
    class_weight: float = Field(1.0, ge=0, description="Weight of the classification loss (Darknet: cls_normalizer).")
    normalizer: Literal["positives", "images"] = Field(
        "positives", description="Divide the loss sums by the number of positives, or of images as in Darknet."
    )
    objectness_target: Literal["one", "iou"] = Field(
        "one", description="Objectness target of a positive: 1, or the IoU of its box with the ground truth."
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Class targets become s/2 and 1 - s/2 (Darknet: label_smooth_eps)."
    )
    focal: Literal["none", "objectness", "class", "both"] = Field(
        "none", description="Loss terms that use the focal loss (Lin et al. 2017) instead of cross-entropy."
    )
    focal_gamma: float = Field(
        2.0,
        ge=0,
        description="Focusing exponent of the focal loss: 0 is cross-entropy, higher values down-weight easy examples.",
    )
    focal_alpha: float | None = Field(
        0.25, gt=0, lt=1, description="Focal loss: weight of positives, 1 - alpha of negatives; null: all 1."
    )
    class_weights: ClassWeights = Field(
        "none",
        description="Class weights of the classification loss: none; auto: higher for rarer classes; or a list in the "
        "order of the classes.",
    )

    def build(self, context: LossContext) -> YoloLoss:
        """Build the loss."""
        from cspdet.training.losses.yolo import YoloLoss

        return YoloLoss(self, context)
