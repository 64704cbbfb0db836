"""Configs of detectors, classifiers and post-processing. This module does not import torch; `build` does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from cspdet.config.base import ConfigModel
from cspdet.config.input import Workers
from cspdet.config.registry import component
from cspdet.errors import did_you_mean
from cspdet.models.backbones import BACKBONES
from cspdet.models.base_config import BackboneConfigBase, NeckConfigBase
from cspdet.models.necks import NECKS
from cspdet.structures import FeatureSpec

if TYPE_CHECKING:
    from cspdet.models.classifier import BackboneClassifier
    from cspdet.models.detector import ComposedDetector
    from cspdet.models.head import YoloHead

WH = tuple[float, float]
RGB = tuple[float, float, float]
WhDecoding = Literal["exponential", "square"]

BackboneConfig = Annotated[BackboneConfigBase, component(BACKBONES)]
NeckConfig = Annotated[NeckConfigBase, component(NECKS)]


class NormalizeConfig(ConfigModel):
    """Input normalization: (image - mean) / std per channel, on images in [0, 1]."""

    mean: RGB = Field((0.0, 0.0, 0.0), description="Mean of each RGB channel, for values in [0, 1]; Darknet: 0.")
    std: RGB = Field((1.0, 1.0, 1.0), description="Standard deviation of each RGB channel, above 0; Darknet: 1.")

    @field_validator("std")
    @classmethod
    def _check_positive(cls, std: RGB) -> RGB:
        if min(std) <= 0:
            raise ValueError(f"expected values above 0, found {list(std)}")
        return std


class YoloHeadConfig(ConfigModel):
    """Config of the YOLOv3 head: anchors and decoding of boxes; the default values are YOLOv3's."""

    name: Literal["yolo"] = Field("yolo", description="Name of the head.")
    anchors: tuple[tuple[WH, ...], ...] = Field(
        (
            ((10, 13), (16, 30), (33, 23)),
            ((30, 61), (62, 45), (59, 119)),
            ((116, 90), (156, 198), (373, 326)),
        ),
        description="Anchors as [width, height] in input pixels: one list per scale, finest scale first.",
    )
    scale_x_y: tuple[float, ...] = Field(
        (1.0, 1.0, 1.0),
        description="Scale of the sigmoid of the box center, one per scale, from 1 to 2; above 1, centers can reach "
        "the borders of their grid cell.",
    )
    wh_decoding: WhDecoding = Field(
        "exponential",
        description="Box size as a factor of the anchor: exp(t), or (2 sigmoid(t))^2 (Darknet: new_coords=1).",
    )

    @model_validator(mode="after")
    def _check_consistency(self) -> YoloHeadConfig:
        if len({len(level) for level in self.anchors}) != 1 or not self.anchors[0]:
            raise ValueError(
                "anchors: expected the same number of anchors on every scale, found "
                f"{[len(level) for level in self.anchors]}"
            )
        if any(side <= 0 for level in self.anchors for wh in level for side in wh):
            raise ValueError("anchors: expected widths and heights above 0 pixels")
        if len(self.scale_x_y) != len(self.anchors):
            raise ValueError(
                f"scale_x_y: expected {len(self.anchors)} values, one per scale; found {len(self.scale_x_y)}"
            )
        if any(not 1 <= scale <= 2 for scale in self.scale_x_y):
            raise ValueError(f"scale_x_y: expected values from 1 to 2, found {list(self.scale_x_y)}")
        return self

    def build(self, inputs: tuple[FeatureSpec, ...], num_classes: int) -> YoloHead:
        """Build the head with random weights.

        Args:
            inputs: The feature maps of the neck, finest first.
            num_classes: Number of classes of the data.

        Raises:
            ValueError: The numbers of feature maps and anchor lists differ.
        """
        from cspdet.models.head import YoloHead

        return YoloHead(self, inputs, num_classes)


class DetectorConfig(ConfigModel):
    """Config of a detector: backbone, neck and head. The number of classes is read from the data."""

    backbone: BackboneConfig = Field(description="The backbone, by name, with its keys.")
    neck: NeckConfig = Field(description="The neck, by name, with its keys.")
    head: YoloHeadConfig = Field(YoloHeadConfig(), description="The head.")
    normalize: NormalizeConfig = Field(NormalizeConfig(), description="Normalization of the input images.")

    def build(self, num_classes: int, *, pretrained: bool = True) -> ComposedDetector:
        """Build the network with random weights from torch's global random generator.

        Args:
            num_classes: Number of classes of the data.
            pretrained: Whether to load pretrained weights if the backbone has `pretrained: true`. Use False if a
                checkpoint is loaded afterwards.

        Raises:
            ValueError: Backbone, neck and head are incompatible.
            ConfigError: A timm backbone is not available.
        """
        from cspdet.models.backbones.timm_backbone import load_pretrained
        from cspdet.models.detector import ComposedDetector

        backbone = self.backbone.build()
        neck = self.neck.build(backbone.out_specs)
        detector = ComposedDetector(backbone, neck, self.head.build(neck.out_specs, num_classes), self.normalize)
        if pretrained:
            load_pretrained(detector)
        return detector


class ClassifierConfig(ConfigModel):
    """Config of a classifier: backbone, global average pooling and linear layer."""

    backbone: BackboneConfig = Field(description="The backbone, by name, with its keys.")
    num_classes: int = Field(1000, ge=1, description="Number of classes.")
    normalize: NormalizeConfig = Field(NormalizeConfig(), description="Normalization of the input images.")

    def build(self, *, pretrained: bool = True) -> BackboneClassifier:
        """Build the network with random weights; see `DetectorConfig.build`."""
        from cspdet.models.backbones.timm_backbone import load_pretrained
        from cspdet.models.classifier import BackboneClassifier

        classifier = BackboneClassifier(self.backbone.build(), self.num_classes, self.normalize)
        if pretrained:
            load_pretrained(classifier)
        return classifier


class PostprocessConfig(ConfigModel):
    """Settings of post-processing: score threshold, class-wise NMS, limit of detections, box voting, clipping."""

    min_score: float = Field(0.25, ge=0, le=1, description="Score threshold; detections have a higher score.")
    nms_iou: float = Field(
        0.6,
        ge=0,
        le=1,
        description="NMS IoU threshold: of two boxes of a class with a higher IoU, the one with the lower score is "
        "removed.",
    )
    vote_iou: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Box voting: each kept box is replaced by the score-weighted average of the candidates of its "
        "class with an IoU above this value; null: no voting.",
    )
    max_detections: int = Field(100, ge=1, description="Maximum number of detections per image.")
    clip_boxes: bool = Field(True, description="Clip boxes to the image border; Darknet's `map` command does not.")


# Names of thresholds in other programs
THRESHOLD_ALIASES = {
    **dict.fromkeys(("conf", "confidence", "conf_thres", "score_thr", "score_threshold", "threshold"), "min_score"),
    **dict.fromkeys(("iou", "iou_thres", "iou_threshold", "nms_threshold", "max_iou"), "nms_iou"),
    **dict.fromkeys(("max_det", "max_dets"), "max_detections"),
}


def replace_thresholds(config: PostprocessConfig, values: Mapping[str, object]) -> PostprocessConfig:
    """Return a copy of a config with other thresholds and limits. `values` maps their names to the new values.

    Raises:
        ValueError: A name is unknown, or a value is outside its range.
    """
    names = PostprocessConfig.model_fields
    problems = [
        f"unknown threshold {name!r}{did_you_mean(THRESHOLD_ALIASES.get(name, name), names)}; "
        f"expected {', '.join(names)}"
        for name in values
        if name not in names
    ]
    if problems:
        raise ValueError("; ".join(problems))
    try:
        return type(config).model_validate({**config.model_dump(), **values})
    except ValidationError as error:
        problems = [f"{e['loc'][0]}: {e['msg'].lower()}, got {e['input']!r}" for e in error.errors()]
        raise ValueError("; ".join(problems)) from None


class EvalConfig(PostprocessConfig):
    """Settings for the evaluation of a detector: post-processing, batch size and evaluator.

    Exported files contain these settings.
    """

    batch_size: int = Field(16, ge=1, description="Images per batch in evaluation.")
    min_score: float = Field(0.001, ge=0, lt=1, description="Score threshold of the evaluated detections.")
    evaluator: Literal["auto", "pycocotools", "hotcoco"] = Field(
        "auto", description="COCO evaluator; auto: hotcoco if it is installed (same metrics, faster), else pycocotools."
    )
    workers: Workers = Field("auto", description="Number of loader processes; 0: none; auto: by cores and device.")


class ClassifierEvalConfig(ConfigModel):
    """Settings for the evaluation of a classifier: resizing and cropping of images, batch size and workers."""

    resize: int | None = Field(
        None, ge=1, description="Short side of the resized image in pixels; null: longer input side / `crop`."
    )
    crop: float = Field(
        0.887, gt=0, le=1, description="Crop side as a fraction of the resized short side: 256 of 288 pixels."
    )
    ten_crop: bool = Field(
        False, description="Average over the four corner crops, the center crop and their mirror images."
    )
    batch_size: int = Field(32, ge=1, description="Images per batch in evaluation.")
    workers: Workers = Field("auto", description="Loader processes; 0: none; auto: by cores and device.")
