"""NVIDIA's TensorRT as an engine, through ONNX Runtime's execution provider."""

from __future__ import annotations

from cspdet.inference.engines.onnx_engine import OnnxEngine


class TensorRtEngine(OnnxEngine):
    """ONNX Runtime with TensorRT, where its provider is installed.

    `--backend auto` does not try it: it builds for longer than most runs take.
    """

    name = "tensorrt"
    devices = ("cuda",)
    precisions = ("fp32", "fp16")
    file_precisions = ("fp32", "fp16")
    auto_devices = ()
    provider = "tensorrt"
