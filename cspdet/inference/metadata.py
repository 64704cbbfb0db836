"""What must be known of a network beside its numbers to use it: class names and ids, input, head.

Every engine has these facts, and every exported file carries them, so that a file alone is enough.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from cspdet import __version__
from cspdet.config.base import ConfigModel
from cspdet.config.input import InputConfig
from cspdet.config.loader import parse_config
from cspdet.errors import CheckpointError, ConfigError
from cspdet.models.bundle import ModelBundle
from cspdet.models.classifier import BackboneClassifier
from cspdet.models.config import EvalConfig, NormalizeConfig, YoloHeadConfig
from cspdet.models.detector import ComposedDetector
from cspdet.models.head import Anchors
from cspdet.structures import Categories

FORMAT: Literal["cspdet 1"] = "cspdet 1"
FORMAT_KEY = "format"

OutputType = Literal["raw", "decoded", "detections", "logits"]


class PixelsConfig(ConfigModel):
    """What the input tensor holds. `mean` and `std` are applied inside the network; nothing is left to do outside."""

    layout: Literal["NCHW"] = "NCHW"
    order: Literal["RGB"] = "RGB"
    range: tuple[float, float] = (0.0, 1.0)
    normalize: NormalizeConfig = NormalizeConfig()


class NmsConfig(ConfigModel):
    """The limits that an exported file with NMS inside was made with; it cannot give more than these leave."""

    min_score: float = Field(0.25, ge=0, lt=1)
    nms_iou: float = Field(0.6, ge=0, le=1)
    max_detections: int = Field(100, ge=1)


class ModelMetadata(ConfigModel):
    """All that is known of a network without running it."""

    format: Literal["cspdet 1"] = FORMAT
    program: str = f"cspdet {__version__}"
    name: str
    task: Literal["detector", "classifier"]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    input: InputConfig
    pixels: PixelsConfig = PixelsConfig()
    outputs: OutputType = "raw"
    strides: tuple[int, ...]
    head: YoloHeadConfig | None = None  # of a detector: anchors, how centers and sizes are to be read
    eval: EvalConfig = EvalConfig()
    nms: NmsConfig | None = None
    precision: Literal["fp32", "fp16", "int8"] = "fp32"  # of the weights
    dynamic: bool = True  # whether batch and size are free; if not, a batch of 1 of input.size

    @model_validator(mode="after")
    def _check_consistency(self) -> ModelMetadata:
        if len(self.class_names) != len(self.category_ids):
            raise ValueError(f"expected {len(self.class_names)} category ids, found {len(self.category_ids)}")
        if self.task == "detector" and (self.head is None or len(self.head.anchors) != len(self.strides)):
            raise ValueError("a detector has a head with anchors for each of its strides")
        if (self.outputs == "detections") != (self.nms is not None):
            raise ValueError("nms goes with outputs 'detections', and only with them")
        return self

    @property
    def classes(self) -> Categories:
        return Categories(self.class_names, self.category_ids)

    @property
    def data(self) -> None:
        """An exported file names no data."""
        return None

    @property
    def size_hw(self) -> tuple[int, int]:
        return self.input.size

    def anchors(self) -> Anchors:
        """What decoding needs, on the CPU."""
        assert self.head is not None, "only detectors have anchors"
        return Anchors(self.head, self.strides)

    def to_strings(self) -> dict[str, str]:
        """One JSON value a key, as exported files keep them."""
        plain = self.model_dump(mode="json", exclude_none=True)
        return {key: value if key == FORMAT_KEY else json.dumps(value, ensure_ascii=False)
                for key, value in plain.items()}  # fmt: skip


def parse_metadata(strings: Mapping[str, str], where: str) -> ModelMetadata:
    """The facts in the metadata of the file `where`.

    Raises:
        CheckpointError: the file is not one of `cspdet export`, or its metadata were changed.
    """
    if strings.get(FORMAT_KEY) != FORMAT:
        found = repr(strings[FORMAT_KEY]) if FORMAT_KEY in strings else "none"
        raise CheckpointError(
            f"{where}: is no file of `cspdet export`: expected metadata of format {FORMAT!r}, found {found}; "
            "class names, anchors and input size are not known without"
        )
    values: dict[str, Any] = {FORMAT_KEY: FORMAT}
    for key in ModelMetadata.model_fields:
        if key in strings and key != FORMAT_KEY:
            try:
                values[key] = json.loads(strings[key])
            except ValueError:
                raise CheckpointError(f"{where}: metadata {key}: expected JSON, found {strings[key][:60]!r}") from None
    try:
        return parse_config(values, ModelMetadata, f"{where}: metadata")
    except ConfigError as error:
        raise CheckpointError(*error.problems) from None


def build_metadata(bundle: ModelBundle) -> ModelMetadata:
    """The metadata of a model that was loaded with its config.

    Raises:
        CheckpointError: an exported file, which brings its own.
    """
    config, network = bundle.config, bundle.torch_network
    is_detector = bundle.task == "detection"
    anchors = bundle.detector.anchors if is_detector else None
    return ModelMetadata(
        name=bundle.name,
        task="detector" if is_detector else "classifier",
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
    """The config that these anchors were built from."""
    return YoloHeadConfig(
        anchors=tuple(tuple((float(w), float(h)) for w, h in level) for level in anchors.wh.tolist()),
        scale_x_y=tuple(round(scale, 6) for scale in anchors.scale_x_y.tolist()),
        wh_decoding=anchors.wh_decoding,
    )


def _normalize_config(model: object) -> NormalizeConfig:
    if not isinstance(model, (ComposedDetector, BackboneClassifier)):
        return NormalizeConfig()
    red, green, blue = (float(value) for value in model.mean.flatten().tolist())
    deviation = tuple(float(value) for value in model.std.flatten().tolist())
    return NormalizeConfig(mean=(red, green, blue), std=(deviation[0], deviation[1], deviation[2]))
