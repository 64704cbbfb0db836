"""Engine for ONNX Runtime, on the CPU and on CUDA."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from cspdet.errors import CheckpointError, ConfigError, missing_package_error
from cspdet.inference.config import EnginePrecision
from cspdet.inference.engines.base import Engine
from cspdet.inference.engines.onnx_export import INPUT_NAME
from cspdet.inference.engines.source import EngineOptions, NetworkSource
from cspdet.inference.metadata import ModelMetadata, parse_metadata
from cspdet.io.text import is_text

if TYPE_CHECKING:
    import onnxruntime

PROVIDERS = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
    "tensorrt": ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
}


class OnnxEngine(Engine):
    """Engine that runs an ONNX Runtime session: of a network converted in memory, or of a file of `cspdet export`."""

    name = "onnxruntime"
    suffixes = (".onnx",)
    auto_devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")
    package = ("onnxruntime", "export")
    parallel_forward = True  # a session may run in several threads
    provider: ClassVar[str | None] = None  # None: the provider for the device type

    def __init__(self, model: bytes | Path, metadata: ModelMetadata, options: EngineOptions):
        super().__init__(metadata, options)
        self.session = open_session(model, self.provider or options.device.type, options.precision, options.threads)

    @classmethod
    def from_network(cls, source: NetworkSource, options: EngineOptions) -> Engine:
        """Convert the network to ONNX in memory and open a session."""
        import_onnxruntime()  # before the conversion, which takes seconds
        return cls(source.onnx_bytes, source.metadata, options)

    @classmethod
    def from_file(cls, path: Path, metadata: ModelMetadata, options: EngineOptions) -> Engine:
        """Open a session for an ONNX file; a file with fp16 weights runs in fp16."""
        precision: EnginePrecision = metadata.precision if metadata.precision != "fp32" else options.precision
        return cls(path, metadata, replace(options, precision=precision))

    @classmethod
    def read_metadata(cls, path: Path) -> ModelMetadata:
        """Read the metadata of an ONNX file with onnxruntime, or with the package onnx if onnxruntime is missing."""
        return read_onnx_metadata(path)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Run the session."""
        outputs = self.session.run(None, {INPUT_NAME: images.contiguous().cpu().numpy()})
        return tuple(torch.from_numpy(values).to(self.device) for values in outputs)


def open_session(
    model: bytes | Path, provider: str, precision: EnginePrecision = "fp32", threads: int | None = None
) -> onnxruntime.InferenceSession:
    """Open a session of ONNX Runtime.

    Args:
        model: An ONNX model in memory, or the path of a file.
        provider: cpu, cuda or tensorrt.
        precision: With fp16, TensorRT computes in half precision; other providers ignore the precision.
        threads: Number of CPU threads; None: the number that torch uses.

    Raises:
        ConfigError: The package or the provider is not installed.
        CheckpointError: The file is corrupt.
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
    # onnxruntime takes only paths in UTF-8
    source = (str(model) if is_text(str(model)) else model.read_bytes()) if isinstance(model, Path) else model
    try:
        return onnxruntime.InferenceSession(source, options, providers, provider_options)
    except Exception as error:  # the errors of onnxruntime have no other common base class
        where = model if isinstance(model, Path) else "the converted network"
        reason = str(error).splitlines()[0][:200]
        raise CheckpointError(f"{where}: onnxruntime cannot read it: {reason}") from None


def read_onnx_metadata(path: Path) -> ModelMetadata:
    """Read the metadata of an ONNX file, with onnxruntime or with the package onnx.

    OpenVINO also runs .onnx files, but cannot read their metadata. Without onnxruntime, the package onnx reads the
    metadata.

    Raises:
        ConfigError: Neither onnxruntime nor onnx is installed.
        CheckpointError: The file is corrupt, or was not written by `cspdet export`.
    """
    try:
        strings = open_session(path, "cpu", threads=1).get_modelmeta().custom_metadata_map
    except ConfigError:
        try:
            import onnx
        except ImportError:
            raise ConfigError(
                f"{path}: reading .onnx needs onnxruntime or onnx: pip install 'cspdet[export]'"
            ) from None  # fmt: skip
        model = onnx.load(str(path), load_external_data=False)
        strings = {entry.key: entry.value for entry in model.metadata_props}
    except UnicodeDecodeError:
        raise CheckpointError(f"{path}: metadata: expected UTF-8 text") from None
    return parse_metadata(strings, str(path))


def import_onnxruntime() -> ModuleType:
    """Import onnxruntime. If it is missing, raise ConfigError with the command that installs it."""
    try:
        import onnxruntime
    except ImportError as error:
        raise missing_package_error("onnxruntime", "export", "the backend onnxruntime", error) from None
    return onnxruntime
