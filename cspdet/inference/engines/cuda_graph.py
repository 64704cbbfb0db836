"""PyTorch on CUDA with the launches of a whole forward pass recorded once: at batch 1 they cost more than the work."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cspdet.errors import ConfigError
from cspdet.inference.engines.base import Engine, EnginePrecision, select_batch_size
from cspdet.inference.engines.torch_engine import DTYPES, as_floats, prepare_for_inference
from cspdet.inference.metadata import ModelMetadata

WARMUP_PASSES = 3  # passes before recording, as PyTorch asks for: they choose the kernels and fill the caches
MAX_GRAPHS = 8  # shapes that are kept; each holds the memory of its maps


@dataclass(frozen=True)
class _CapturedGraph:
    """A graph with the tensors that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    images: Tensor
    raw: tuple[Tensor, ...]


class CudaGraphEngine(Engine):
    """A graph for each shape that comes; the results are copied out, so that the next call may overwrite them."""

    def __init__(
        self, model: nn.Module, metadata: ModelMetadata, device: torch.device, precision: EnginePrecision = "fp32"
    ):
        super().__init__("cuda-graph", metadata, device, precision)
        if device.type != "cuda":
            raise ConfigError(f"--backend: cuda-graph needs a CUDA device, found {device}")
        self.model = prepare_for_inference(model, device, precision)
        self.dtype = DTYPES[precision]
        self.captured: dict[tuple[int, int, int], _CapturedGraph] = {}

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        count, _, height, width = images.shape
        batch = select_batch_size(count, (height, width), set(self.captured))
        shape = (batch, height, width)
        if shape not in self.captured:
            if len(self.captured) >= MAX_GRAPHS:
                self.captured.pop(next(iter(self.captured)))
            self.captured[shape] = self._capture(shape)
        captured = self.captured[shape]
        captured.images[:count].copy_(images)
        captured.graph.replay()
        return tuple(values[:count].clone() for values in captured.raw)

    def _capture(self, shape: tuple[int, int, int]) -> _CapturedGraph:
        batch, height, width = shape
        with torch.cuda.device(self.device):
            images = torch.zeros(batch, 3, height, width, dtype=self.dtype, device=self.device)
            images = images.contiguous(memory_format=torch.channels_last)
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARMUP_PASSES):
                    self.model(images)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                raw = as_floats(self.model(images))
        return _CapturedGraph(graph, images, raw)
