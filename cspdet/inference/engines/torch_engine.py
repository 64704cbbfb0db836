"""Engine for eager PyTorch, for networks and TorchScript files."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from cspdet.errors import CheckpointError, ConfigError
from cspdet.inference.config import EnginePrecision
from cspdet.inference.engines.base import Engine
from cspdet.inference.engines.cpu_kernels.prepack import prepack
from cspdet.inference.engines.source import EngineOptions, NetworkSource
from cspdet.inference.metadata import FORMAT_KEY, ModelMetadata, parse_metadata
from cspdet.models.fuse import fuse_conv_bn

DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class TorchEngine(Engine):
    """Engine that runs eager PyTorch with fused batch norms, channels-last tensors and, on a CPU, packed weights."""

    name = "torch"
    suffixes = (".torchscript", ".ts")
    parallel_forward = True
    auto_devices = ("cpu", "cuda")

    def __init__(self, network: nn.Module, metadata: ModelMetadata, options: EngineOptions):
        super().__init__(metadata, options)
        self.model = prepare_for_inference(network, options)
        if options.device.type == "cpu" and options.cpu_kernels:
            self.model = prepack(self.model, metadata.size_hw) or self.model
        self.dtype = DTYPES[options.precision]

    @classmethod
    def network_precisions(cls, device: torch.device) -> tuple[EnginePrecision, ...]:
        """Return fp32 and bf16, and for CUDA also fp16."""
        return torch_precisions(device)

    @classmethod
    def from_network(cls, source: NetworkSource, options: EngineOptions) -> Engine:
        """Create the engine for a network."""
        return cls(source.network, source.metadata, options)

    @classmethod
    def from_file(cls, path: Path, metadata: ModelMetadata, options: EngineOptions) -> Engine:
        """Load a TorchScript file."""
        script, _ = _load_torchscript(path, str(options.device))
        return TorchScriptEngine(script, metadata, options)

    @classmethod
    def read_metadata(cls, path: Path) -> ModelMetadata:
        """Read the metadata of a TorchScript file."""
        return _load_torchscript(path, "cpu")[1]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Run the network in the engine's precision."""
        return to_float_outputs(self.model(images.to(self.dtype, memory_format=torch.channels_last)))


class TorchScriptEngine(Engine):
    """Engine that runs a TorchScript file of `cspdet export`."""

    name = "torch"

    def __init__(self, script: torch.jit.ScriptModule, metadata: ModelMetadata, options: EngineOptions):
        super().__init__(metadata, options)
        self.script = script.to(options.device).eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Run the script."""
        return to_float_outputs(self.script(images))


def torch_precisions(device: torch.device) -> tuple[EnginePrecision, ...]:
    """Return the precisions that torch supports on a device."""
    return ("fp32", "bf16") if device.type == "cpu" else ("fp32", "bf16", "fp16")


def prepare_for_inference(network: nn.Module, options: EngineOptions) -> nn.Module:
    """Prepare a network for inference: fuse batch norms, then set device, precision and memory format.

    Raises:
        ConfigError: The network cannot be converted to the precision.
    """
    fused = fuse_conv_bn(network)
    if fused is None and options.precision != "fp32":
        raise ConfigError(f"--precision: this network cannot be converted to {options.precision}; use fp32")
    prepared: nn.Module = fused or network
    return prepared.eval().to(options.device, DTYPES[options.precision]).to(memory_format=torch.channels_last)


def to_float_outputs(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Convert the output of a network to a tuple of float32 tensors."""
    tensors = (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)
    return tuple(values.float() for values in tensors)


def _load_torchscript(path: Path, device: str) -> tuple[torch.jit.ScriptModule, ModelMetadata]:
    extra_files: dict[str, str | bytes] = dict.fromkeys((FORMAT_KEY, *ModelMetadata.model_fields), "")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns that TorchScript is deprecated
            with path.open("rb") as file:  # torch takes only paths in UTF-8
                script = torch.jit.load(file, map_location=device, _extra_files=extra_files)
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0][:120]
        raise CheckpointError(f"{path}: not a TorchScript file, or corrupt ({reason})") from None
    strings = {
        key: value.decode(errors="replace") if isinstance(value, bytes) else value
        for key, value in extra_files.items()
        if value
    }
    return script, parse_metadata(strings, str(path))
