"""Engine for TensorRT, used through ONNX Runtime's execution provider."""

from __future__ import annotations

from cspdet.inference.engines.onnx_engine import OnnxEngine


class TensorRtEngine(OnnxEngine):
    """Engine that runs ONNX Runtime with the TensorRT provider.

    `--backend auto` does not try this engine, because TensorRT takes longer to build the network than most runs take.
    """

    name = "tensorrt"
    devices = ("cuda",)
    precisions = ("fp32", "fp16")
    file_precisions = ("fp32", "fp16")
    auto_devices = ()
    provider = "tensorrt"
