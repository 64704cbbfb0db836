"""What an export holds: the network with its normalizations folded, and behind it as much of the decoding as wanted."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from cspdet.errors import ConfigError
from cspdet.inference.metadata import ModelMetadata, NmsConfig, OutputType, build_metadata
from cspdet.models.bundle import ModelBundle
from cspdet.models.fuse import fuse_conv_bn
from cspdet.models.head import Anchors
from cspdet.models.postprocess import decode

ExportPrecision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True)
class ExportConfig:
    """How a model is to be exported; `nms` None leaves NMS outside."""

    size_hw: tuple[int, int]
    outputs: Literal["raw", "decoded"] = "raw"
    nms: NmsConfig | None = None
    dynamic: bool = True  # batch, height and width stay free
    opset: int = 17
    precision: ExportPrecision = "fp32"
    calibration: Path | None = None  # a folder of pictures, for int8


class DecodedDetector(nn.Module):
    """(B, 3, H, W) -> boxes (B, S, 4), x1 y1 x2 y2 in input pixels, and scores (B, S, C)."""

    def __init__(self, network: nn.Module, anchors: Anchors):
        super().__init__()
        self.network, self.anchors = network, anchors

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return decode(self.network(images), self.anchors)


def export_metadata(bundle: ModelBundle, config: ExportConfig) -> ModelMetadata:
    """The facts of the file: those of the model, at the wanted size, with what the file's outputs are.

    Raises:
        ConfigError: a size that the network does not take, or wishes that only detectors have.
    """
    try:
        bundle.torch_network.check_size(config.size_hw)
    except ValueError as error:
        raise ConfigError(f"--size: {error}") from None
    metadata = build_metadata(bundle)
    outputs: OutputType = "logits"
    if metadata.task == "detector":
        outputs = "detections" if config.nms is not None else config.outputs
    elif config.nms is not None or config.outputs != "raw":
        raise ConfigError("--outputs and --nms: a classifier has logits, nothing to decode")
    changes = {
        "input": metadata.input.model_copy(update={"size": config.size_hw}),
        "outputs": outputs, "nms": config.nms, "precision": config.precision, "dynamic": config.dynamic,
    }  # fmt: skip
    return metadata.model_copy(update=changes)


def export_module(bundle: ModelBundle, outputs: OutputType) -> nn.Module:
    """The network to be written, on the CPU; the graph of NMS itself is added behind `decoded`."""
    network = (fuse_conv_bn(bundle.torch_network) or bundle.torch_network).to("cpu")
    if outputs in ("decoded", "detections"):
        return DecodedDetector(network, copy.deepcopy(bundle.detector.anchors).to("cpu")).eval()
    return network


def reference_outputs(bundle: ModelBundle, outputs: OutputType, images: Tensor) -> tuple[Tensor, ...]:
    """What the file has to give for `images`, (B, 3, H, W) float32: from the network as it was trained, not folded."""
    with torch.inference_mode():
        result = bundle.torch_network.cpu()(images)
        if isinstance(result, Tensor):
            return (result,)
        if outputs == "raw":
            return tuple(result)
        return decode(result, bundle.detector.anchors)
