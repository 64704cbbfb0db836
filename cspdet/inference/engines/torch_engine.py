"""PyTorch itself as an engine, and its compiler."""

from __future__ import annotations

import logging
import time
import warnings

import torch
from torch import Tensor, nn

from cspdet.errors import ConfigError
from cspdet.inference.engines.base import Engine, EnginePrecision, pad_batch, select_batch_size
from cspdet.inference.engines.prepack import prepack
from cspdet.inference.metadata import ModelMetadata
from cspdet.models.fuse import fuse_conv_bn

log = logging.getLogger("cspdet")

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def prepare_for_inference(model: nn.Module, device: torch.device, precision: EnginePrecision) -> nn.Module:
    """A copy of a network for inference: normalizations folded, channels last, in the precision, on the device.

    Raises:
        ConfigError: a precision that torch does not compute these networks in there.
    """
    if precision not in DTYPES or (precision == "fp16" and device.type == "cpu"):
        raise ConfigError(
            f"--precision: torch on {device.type} computes in "
            f"{'fp32 or bf16' if device.type == 'cpu' else 'fp32, bf16 or fp16'}; found {precision}"
        )
    fused = fuse_conv_bn(model)
    if precision != "fp32" and fused is None:
        raise ConfigError(f"--precision: this network cannot be converted to {precision}; use fp32")
    network: nn.Module = fused or model
    return network.eval().to(device, DTYPES[precision]).to(memory_format=torch.channels_last)


class TorchEngine(Engine):
    """Eager PyTorch: folded, channels last, on a CPU with packed weights."""

    def __init__(
        self, model: nn.Module, metadata: ModelMetadata, device: torch.device, precision: EnginePrecision = "fp32"
    ):
        super().__init__("torch", metadata, device, precision)
        self.model = prepare_for_inference(model, device, precision)
        if device.type == "cpu":
            self.model = prepack(self.model, metadata.size_hw) or self.model
        self.dtype = DTYPES[precision]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return as_floats(self.model(images.to(self.dtype, memory_format=torch.channels_last)))


class CompiledEngine(Engine):
    """torch.compile, frozen, for each shape that comes: the first call of a shape takes up to minutes."""

    def __init__(
        self, model: nn.Module, metadata: ModelMetadata, device: torch.device, precision: EnginePrecision = "fp32"
    ):
        super().__init__("torch-compile", metadata, device, precision)
        self.eager_model = prepare_for_inference(model, device, precision)
        self.dtype = DTYPES[precision]
        self.compiled_model = torch.compile(
            self.eager_model, dynamic=False, options={"freezing": True} if device.type == "cpu" else None
        )
        self.compiled_shapes: set[tuple[int, int, int]] = set()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        count, _, height, width = images.shape
        batch = select_batch_size(count, (height, width), self.compiled_shapes)
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler's remarks about itself
            raw = self.compiled_model(pad_batch(images, batch).to(self.dtype, memory_format=torch.channels_last))
        if (batch, height, width) not in self.compiled_shapes:
            self.compiled_shapes.add((batch, height, width))
            log.info("torch-compile: %d x %dx%d in %.1f s", batch, height, width, time.perf_counter() - start)
        return self._drop_padding(as_floats(raw), count)


class TorchScriptEngine(Engine):
    """A TorchScript file that `cspdet export` wrote."""

    def __init__(self, script: torch.jit.ScriptModule, metadata: ModelMetadata, device: torch.device):
        super().__init__("torch", metadata, device, "fp32")
        self.script = script.to(device).eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return as_floats(self.script(images))


def as_floats(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What a network gave, as a tuple of float32 tensors."""
    outputs = (result,) if isinstance(result, Tensor) else tuple(result)
    return tuple(values.float() for values in outputs)
