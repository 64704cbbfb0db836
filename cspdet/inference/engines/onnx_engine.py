"""ONNX Runtime, on the CPU or on CUDA, there also with TensorRT where its provider is installed."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cspdet.errors import CheckpointError, ConfigError
from cspdet.inference.engines.base import Engine, EnginePrecision, missing_package_error
from cspdet.inference.engines.onnx_export import INPUT_NAME
from cspdet.inference.metadata import ModelMetadata, parse_metadata

if TYPE_CHECKING:
    import onnxruntime

PROVIDERS = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
    "tensorrt": ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
}


class OnnxEngine(Engine):
    """A session over an ONNX model: bytes that were converted in memory, or a file that `cspdet export` wrote."""

    def __init__(
        self,
        model: bytes | Path,
        metadata: ModelMetadata,
        device: torch.device,
        *,
        name: str = "onnxruntime",
        precision: EnginePrecision = "fp32",
        threads: int | None = None,
    ):
        super().__init__(name, metadata, device, precision)
        self.session = open_session(model, "tensorrt" if name == "tensorrt" else device.type, precision, threads)
        self.session_device = device

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        outputs = self.session.run(None, {INPUT_NAME: images.contiguous().cpu().numpy()})
        return tuple(torch.from_numpy(values).to(self.device) for values in outputs)


def open_session(
    model: bytes | Path, provider: str, precision: EnginePrecision = "fp32", threads: int | None = None
) -> onnxruntime.InferenceSession:
    """A session on "cpu", "cuda" or "tensorrt" with as many threads as torch has, or `threads`.

    Raises:
        ConfigError: the package or its provider is not installed.
        CheckpointError: a damaged file.
    """
    onnxruntime = import_onnxruntime()
    providers = PROVIDERS[provider]
    if providers[0] not in onnxruntime.get_available_providers():
        have = ", ".join(onnxruntime.get_available_providers())
        raise ConfigError(f"--backend: this onnxruntime has no {providers[0]}; it has {have}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 3
    provider_options = [
        {"trt_fp16_enable": precision == "fp16"} if name.startswith("Tensorrt") else {} for name in providers
    ]
    source = str(model) if isinstance(model, Path) else model
    try:
        return onnxruntime.InferenceSession(source, options, providers, provider_options)
    except Exception as error:  # onnxruntime's errors share no other base
        where = model if isinstance(model, Path) else "the converted network"
        reason = str(error).splitlines()[0][:200]
        raise CheckpointError(f"{where}: onnxruntime cannot read it: {reason}") from None


def read_onnx_metadata(path: Path) -> ModelMetadata:
    """The facts in the metadata of an ONNX file.

    Raises:
        ConfigError: onnxruntime is not installed.
        CheckpointError: a damaged or foreign file.
    """
    metadata = open_session(path, "cpu", threads=1).get_modelmeta().custom_metadata_map
    return parse_metadata(metadata, str(path))


def import_onnxruntime() -> ModuleType:
    """The package, or a ConfigError that says how to get it."""
    try:
        import onnxruntime
    except ImportError:
        raise missing_package_error("onnxruntime", "export", "the backend onnxruntime") from None
    return onnxruntime
