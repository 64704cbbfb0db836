"""Networks as the OpenVINO engine reads them, and what their graphs give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cspdet.inference.engines.convert import OPSET, trace_to_onnx
from cspdet.inference.engines.openvino_engine import read_model

SOME_SIDE = 8  # of the picture to trace with, where a side is left free


def graph_of(network: nn.Module, size: tuple[int, ...], names: tuple[str, ...] = ("raw",)) -> Any:
    """From ONNX for any size, then for pictures of `size` (B, C, H, W), where -1 stays free; one name an output."""
    pytest.importorskip("openvino")
    image = torch.rand(*(side if side > 0 else SOME_SIDE for side in size))
    model = read_model(trace_to_onnx(network.eval(), image, list(names), True, OPSET))
    model.reshape(list(size))
    return model


def outputs_of(model: Any, image: Tensor) -> list[np.ndarray]:
    """What the graph makes of a picture in fp32, with one thread."""
    openvino = pytest.importorskip("openvino")
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": "1"}
    results = openvino.Core().compile_model(model, "CPU", options)([image.numpy()])
    return [results[index] for index in range(len(results))]


def kinds_of(model: Any) -> list[str]:
    """The operations' kinds, in the order in which they are computed."""
    return [node.get_type_name() for node in model.get_ordered_ops()]
