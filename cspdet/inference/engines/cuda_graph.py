"""PyTorch on CUDA with the launches of a whole forward pass recorded once: at batch 1 they cost more than the work."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cspdet.errors import ConfigError
from cspdet.inference.engines.base import Engine, EnginePrecision, padded_batch
from cspdet.inference.engines.torch_engine import DTYPES, as_floats, prepared
from cspdet.inference.metadata import Facts

WARM_UP = 3  # passes before recording, as PyTorch asks for: they choose the kernels and fill the caches
MOST_GRAPHS = 8  # shapes that are kept; each holds the memory of its maps


@dataclass(frozen=True)
class _Recorded:
    """A graph with the tensors that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    images: Tensor
    raw: tuple[Tensor, ...]


class CudaGraphEngine(Engine):
    """A graph for each shape that comes; the results are copied out, so that the next call may overwrite them."""

    def __init__(self, model: nn.Module, facts: Facts, device: torch.device, precision: EnginePrecision = "fp32"):
        super().__init__("cuda-graph", facts, device, precision)
        if device.type != "cuda":
            raise ConfigError(f"--backend: cuda-graph needs a CUDA device, found {device}")
        self.model = prepared(model, device, precision)
        self.dtype = DTYPES[precision]
        self.recorded: dict[tuple[int, int, int], _Recorded] = {}

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        count, _, height, width = images.shape
        batch = padded_batch(count, (height, width), set(self.recorded))
        shape = (batch, height, width)
        if shape not in self.recorded:
            if len(self.recorded) >= MOST_GRAPHS:
                self.recorded.pop(next(iter(self.recorded)))
            self.recorded[shape] = self._record(shape)
        recorded = self.recorded[shape]
        recorded.images[:count].copy_(images)
        recorded.graph.replay()
        return tuple(values[:count].clone() for values in recorded.raw)

    def _record(self, shape: tuple[int, int, int]) -> _Recorded:
        batch, height, width = shape
        with torch.cuda.device(self.device):
            images = torch.zeros(batch, 3, height, width, dtype=self.dtype, device=self.device)
            images = images.contiguous(memory_format=torch.channels_last)
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP):
                    self.model(images)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                raw = as_floats(self.model(images))
        return _Recorded(graph, images, raw)
