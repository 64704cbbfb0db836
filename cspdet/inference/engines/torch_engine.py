"""PyTorch itself as an engine, and its compiler."""

from __future__ import annotations

import logging
import time
import warnings

import torch
from torch import Tensor, nn

from cspdet.errors import ConfigError
from cspdet.inference.engines.base import Engine, EnginePrecision, pad, padded_batch
from cspdet.inference.engines.prepack import pack
from cspdet.inference.metadata import Facts
from cspdet.models.fuse import fold

log = logging.getLogger("cspdet")

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def prepared(model: nn.Module, device: torch.device, precision: EnginePrecision) -> nn.Module:
    """A copy of a network for inference: normalizations folded, channels last, in the precision, on the device.

    Raises:
        ConfigError: a precision that torch does not compute these networks in there.
    """
    if precision not in DTYPES or (precision == "fp16" and device.type == "cpu"):
        raise ConfigError(
            f"--precision: torch on {device.type} computes in "
            f"{'fp32 or bf16' if device.type == 'cpu' else 'fp32, bf16 or fp16'}; found {precision}"
        )
    folded = fold(model)
    if precision != "fp32" and folded is model:
        raise ConfigError(f"--precision: this network cannot be converted to {precision}; use fp32")
    return folded.eval().to(device, DTYPES[precision]).to(memory_format=torch.channels_last)


class TorchEngine(Engine):
    """Eager PyTorch: folded, channels last, on a CPU with packed weights."""

    def __init__(self, model: nn.Module, facts: Facts, device: torch.device, precision: EnginePrecision = "fp32"):
        super().__init__("torch", facts, device, precision)
        self.model = prepared(model, device, precision)
        if device.type == "cpu":
            self.model = pack(self.model, facts.size_hw)
        self.dtype = DTYPES[precision]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return as_floats(self.model(images.to(self.dtype, memory_format=torch.channels_last)))


class CompiledEngine(Engine):
    """torch.compile, frozen, for each shape that comes: the first call of a shape takes up to minutes."""

    def __init__(self, model: nn.Module, facts: Facts, device: torch.device, precision: EnginePrecision = "fp32"):
        super().__init__("torch-compile", facts, device, precision)
        self.plain = prepared(model, device, precision)
        self.dtype = DTYPES[precision]
        self.compiled = torch.compile(
            self.plain, dynamic=False, options={"freezing": True} if device.type == "cpu" else None
        )
        self.built: set[tuple[int, int, int]] = set()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        count, _, height, width = images.shape
        batch = padded_batch(count, (height, width), self.built)
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler's remarks about itself
            raw = self.compiled(pad(images, batch).to(self.dtype, memory_format=torch.channels_last))
        if (batch, height, width) not in self.built:
            self.built.add((batch, height, width))
            log.info("torch-compile: %d x %dx%d in %.1f s", batch, height, width, time.perf_counter() - start)
        return self._first(as_floats(raw), count)


class ScriptEngine(Engine):
    """A TorchScript file that `cspdet export` wrote."""

    def __init__(self, script: torch.jit.ScriptModule, facts: Facts, device: torch.device):
        super().__init__("torch", facts, device, "fp32")
        self.script = script.to(device).eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return as_floats(self.script(images))


def as_floats(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What a network gave, as a tuple of float32 tensors."""
    outputs = (result,) if isinstance(result, Tensor) else tuple(result)
    return tuple(values.float() for values in outputs)
