"""What an export holds: the network with its normalizations folded, and behind it as much of the decoding as wanted."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from cspdet.checkpoints.loading import LoadedClassifier, LoadedModel
from cspdet.errors import ConfigError
from cspdet.inference.metadata import Facts, NmsConfig, Outputs, facts_of
from cspdet.models.fuse import fold
from cspdet.models.head import Anchors, decode

ExportPrecision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True)
class Wanted:
    """How a model is to be exported; `nms` None leaves NMS outside."""

    size_hw: tuple[int, int]
    outputs: Literal["raw", "decoded"] = "raw"
    nms: NmsConfig | None = None
    dynamic: bool = True  # batch, height and width stay free
    opset: int = 17
    precision: ExportPrecision = "fp32"
    calibration: Path | None = None  # a folder of pictures, for int8


class Decoded(nn.Module):
    """(B, 3, H, W) -> boxes (B, S, 4), x1 y1 x2 y2 in input pixels, and scores (B, S, C)."""

    def __init__(self, network: nn.Module, anchors: Anchors):
        super().__init__()
        self.network, self.anchors = network, anchors

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return decode(self.network(images), self.anchors)


def facts_for(loaded: LoadedModel | LoadedClassifier, wanted: Wanted) -> Facts:
    """The facts of the file: those of the model, at the wanted size, with what the file's outputs are.

    Raises:
        ConfigError: a size that the network does not take, or wishes that only detectors have.
    """
    try:
        loaded.model.check_size(wanted.size_hw)
    except ValueError as error:
        raise ConfigError(f"--size: {error}") from None
    facts = facts_of(loaded)
    outputs: Outputs = "logits"
    if facts.task == "detector":
        outputs = "detections" if wanted.nms is not None else wanted.outputs
    elif wanted.nms is not None or wanted.outputs != "raw":
        raise ConfigError("--outputs and --nms: a classifier has logits, nothing to decode")
    changes = {
        "input": facts.input.model_copy(update={"size": wanted.size_hw}),
        "outputs": outputs, "nms": wanted.nms, "precision": wanted.precision, "dynamic": wanted.dynamic,
    }  # fmt: skip
    return facts.model_copy(update=changes)


def network_for(loaded: LoadedModel | LoadedClassifier, outputs: Outputs) -> nn.Module:
    """The network to be written, on the CPU; the graph of NMS itself is added behind `decoded`."""
    network = fold(loaded.model).to("cpu")
    if outputs in ("decoded", "detections"):
        assert isinstance(loaded, LoadedModel)
        return Decoded(network, copy.deepcopy(loaded.model.anchors).to("cpu")).eval()
    return network


def reference(loaded: LoadedModel | LoadedClassifier, outputs: Outputs, images: Tensor) -> tuple[Tensor, ...]:
    """What the file has to give for `images`, (B, 3, H, W) float32: from the network as it was trained, not folded."""
    with torch.inference_mode():
        result = loaded.model.cpu()(images)
        if isinstance(result, Tensor):
            return (result,)
        if outputs == "raw":
            return tuple(result)
        assert isinstance(loaded, LoadedModel)
        return decode(result, loaded.model.anchors)
