"""Metadata of a model: all information that is needed to run it in addition to the weights.

The metadata contains the classes, the input, the head and other values. Every engine has metadata, and every exported
file stores it, so that no other file is needed. Files of format `cspdet 1` can also be read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator
from torch import nn

from cspdet import __version__
from cspdet.config.base import ConfigModel
from cspdet.config.input import InputConfig
from cspdet.config.loader import parse_config
from cspdet.errors import CheckpointError, ConfigError
from cspdet.io.checkpoint import newer_version_hint
from cspdet.models.bundle import ModelBundle, TaskName
from cspdet.models.config import EvalConfig, NormalizeConfig, YoloHeadConfig
from cspdet.models.head import Anchors
from cspdet.structures import Categories

FORMAT: Literal["cspdet 2"] = "cspdet 2"
FORMAT_KEY = "format"

FORMAT_1 = "cspdet 1"  # converted with `cspdet.config.aliases`

OutputType = Literal["raw", "decoded", "detections", "logits"]


class PixelsConfig(ConfigModel):
    """Format of the input tensor. The network itself applies `mean` and `std`."""

    layout: Literal["NCHW"] = Field("NCHW", description="Order of the axes.")
    order: Literal["RGB"] = Field("RGB", description="Order of the color channels.")
    range: tuple[float, float] = Field((0.0, 1.0), description="Smallest and largest pixel value.")
    normalize: NormalizeConfig = Field(
        NormalizeConfig(), description="Mean and standard deviation that the network itself applies."
    )

    @field_validator("range")
    @classmethod
    def _check_range(cls, limits: tuple[float, float]) -> tuple[float, float]:
        if limits != (0.0, 1.0):
            raise ValueError(f"expected [0, 1], found {list(limits)}")
        return limits


class NmsConfig(ConfigModel):
    """Thresholds of the NMS in an exported file; stricter thresholds can be applied to its outputs."""

    min_score: float = Field(0.25, ge=0, lt=1, description="Score threshold.")
    nms_iou: float = Field(0.6, ge=0, le=1, description="NMS IoU threshold.")
    max_detections: int = Field(100, ge=1, description="Maximum number of detections per image.")


class ModelMetadata(ConfigModel):
    """Description of a network: classes, input, outputs, head, evaluation settings and precision."""

    format: Literal["cspdet 2"] = Field(FORMAT, description="Format of the metadata.")
    program: str = Field(f"cspdet {__version__}", description="The program that wrote it.")
    name: str = Field(description="Name of the model.")
    task: TaskName = Field(description="detection or classification.")
    class_names: tuple[str, ...] = Field(min_length=1, description="Names of the classes, by class index.")
    category_ids: tuple[int, ...] = Field(description="Category ids of the annotations, by class index.")
    input: InputConfig = Field(description="Input size, and how images are fit into it.")
    pixels: PixelsConfig = Field(PixelsConfig(), description="The content of the input tensor.")
    outputs: OutputType = Field(
        "raw", description="raw: one tensor per level; decoded: boxes and scores; detections: after NMS; logits."
    )
    strides: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        min_length=1, description="Input pixels per cell of each level, finest first."
    )
    head: YoloHeadConfig | None = Field(None, description="Anchors of a detector, and how its outputs are decoded.")
    eval: EvalConfig = Field(EvalConfig(), description="Settings with which a detector is evaluated.")
    nms: NmsConfig | None = Field(None, description="Limits of a file with built-in NMS.")
    precision: Literal["fp32", "fp16", "int8"] = Field("fp32", description="Precision of the weights.")
    dynamic: bool = Field(True, description="Free batch and image size; false: one image of `input.size`.")

    @model_validator(mode="after")
    def _check_consistency(self) -> ModelMetadata:
        if len(self.class_names) != len(self.category_ids):
            raise ValueError(f"expected {len(self.class_names)} category ids, found {len(self.category_ids)}")
        if self.task == "detection" and (self.head is None or len(self.head.anchors) != len(self.strides)):
            raise ValueError("a detector has a head with anchors for each of its strides")
        if (self.outputs == "detections") != (self.nms is not None):
            raise ValueError("nms is required for outputs 'detections', and not allowed for other outputs")
        return self

    @property
    def classes(self) -> Categories:
        """Names and category ids of the classes."""
        return Categories(self.class_names, self.category_ids)

    @property
    def data(self) -> None:
        """Always None, because an exported file does not refer to a dataset."""
        return None

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the input, in pixels."""
        return self.input.size

    def anchors(self) -> Anchors:
        """Create the anchors of a detector, on the CPU."""
        assert self.head is not None, "only detectors have anchors"
        return Anchors(self.head, self.strides)

    def to_strings(self) -> dict[str, str]:
        """Convert the metadata to one JSON string per key, which is the form stored in exported files."""
        plain = self.model_dump(mode="json", exclude_none=True)
        return {key: value if key == FORMAT_KEY else json.dumps(value, ensure_ascii=False)
                for key, value in plain.items()}  # fmt: skip


def _check_format(strings: Mapping[str, str], where: str) -> None:
    if strings.get(FORMAT_KEY) not in (FORMAT, FORMAT_1):
        found = repr(strings[FORMAT_KEY]) if FORMAT_KEY in strings else "none"
        raise CheckpointError(
            f"{where}: not a file of `cspdet export`: expected metadata of format {FORMAT!r}, found {found}; "
            "the metadata contains the class names, anchors and input size"
            + newer_version_hint(strings.get(FORMAT_KEY), strings.get("program"))
        )


def parse_metadata(strings: Mapping[str, str], where: str) -> ModelMetadata:
    """Parse the metadata of an exported file.

    Args:
        strings: One JSON value per key, in format `cspdet 2` or `cspdet 1`.
        where: Name of the file, for error messages.

    Raises:
        CheckpointError: The file was not written by `cspdet export`, or its metadata is invalid.
    """
    _check_format(strings, where)
    values: dict[str, Any] = {}
    for key in ModelMetadata.model_fields:
        if key in strings and key != FORMAT_KEY:
            try:
                values[key] = json.loads(strings[key])
            except (ValueError, RecursionError):
                raise CheckpointError(f"{where}: metadata {key}: expected JSON, found {strings[key][:60]!r}") from None
    try:
        required = ModelMetadata.model_fields.keys() - {"eval"}
        return parse_config({FORMAT_KEY: FORMAT, **values}, ModelMetadata, f"{where}: metadata", required=required)
    except ConfigError as error:
        raise CheckpointError(*error.problems) from None


def build_metadata(bundle: ModelBundle) -> ModelMetadata:
    """Create the metadata of a network that was loaded with its config.

    Raises:
        CheckpointError: The bundle is an exported file, which already has metadata.
    """
    config, network = bundle.config, bundle.torch_network
    is_detector = bundle.task == "detection"
    anchors = bundle.detector.anchors if is_detector else None
    return ModelMetadata(
        name=bundle.name,
        task=bundle.task,
        class_names=bundle.categories.names,
        category_ids=bundle.categories.category_ids,
        input=config.input,
        pixels=PixelsConfig(normalize=_normalize_config(network)),
        outputs="raw" if is_detector else "logits",
        strides=anchors.strides if anchors is not None else tuple(network.strides),
        head=None if anchors is None else head_config_from_anchors(anchors),
        eval=config.eval if is_detector else EvalConfig(),
    )


def head_config_from_anchors(anchors: Anchors) -> YoloHeadConfig:
    """Return the head config from which the anchors were created."""
    return YoloHeadConfig(
        anchors=tuple(tuple((float(w), float(h)) for w, h in level) for level in anchors.wh.tolist()),
        scale_x_y=tuple(round(scale, 6) for scale in anchors.scale_x_y.tolist()),
        wh_decoding=anchors.wh_decoding,
    )


def _normalize_config(network: nn.Module) -> NormalizeConfig:
    """Return the input normalization of a network; a network built from a Darknet cfg has the default."""
    mean, std = getattr(network, "mean", None), getattr(network, "std", None)
    if mean is None or std is None:
        return NormalizeConfig()
    red, green, blue = (float(value) for value in mean.flatten().tolist())
    deviation = tuple(float(value) for value in std.flatten().tolist())
    return NormalizeConfig(mean=(red, green, blue), std=(deviation[0], deviation[1], deviation[2]))
