"""Engine for PyTorch with CUDA graphs: the kernel launches of a forward pass are recorded once and replayed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cspdet.errors import ConfigError
from cspdet.inference.config import EnginePrecision
from cspdet.inference.engines.base import Engine
from cspdet.inference.engines.batching import select_batch_size
from cspdet.inference.engines.source import EngineOptions, NetworkSource
from cspdet.inference.engines.torch_engine import DTYPES, prepare_for_inference, to_float_outputs, torch_precisions
from cspdet.inference.metadata import ModelMetadata

WARMUP_PASSES = 3  # forward passes before recording, required by PyTorch: they select kernels and fill caches
MAX_GRAPHS = 8  # maximum number of cached graphs, one per shape; each keeps the memory of its feature maps


@dataclass(frozen=True)
class _CapturedGraph:
    """A recorded CUDA graph, with the tensors that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    images: Tensor
    raw: tuple[Tensor, ...]


class CudaGraphEngine(Engine):
    """Engine that records a CUDA graph for each input shape and replays it.

    At batch size 1, launching the kernels costs more time than running them. Outputs are copied, because the next call
    overwrites the memory of the graph. A call on another CUDA stream waits for the copy of the previous call.
    """

    name = "cuda-graph"
    devices = ("cuda",)
    auto_devices = ("cuda",)

    def __init__(self, network: nn.Module, metadata: ModelMetadata, options: EngineOptions):
        super().__init__(metadata, options)
        if options.device.type != "cuda":
            raise ConfigError(f"--backend: cuda-graph needs a CUDA device, found {options.device}")
        self.model = prepare_for_inference(network, options)
        self.dtype = DTYPES[options.precision]
        self.captured: dict[tuple[int, int, int], _CapturedGraph] = {}
        self._copied = torch.cuda.Event()

    @classmethod
    def network_precisions(cls, device: torch.device) -> tuple[EnginePrecision, ...]:
        """Return the precisions that eager torch supports on a device."""
        return torch_precisions(device)

    @classmethod
    def from_network(cls, source: NetworkSource, options: EngineOptions) -> Engine:
        """Create the engine; a graph is recorded at the first call with each input shape."""
        return cls(source.network, source.metadata, options)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Replay the graph of the input shape; record it first if this is the first call with the shape."""
        count, _, height, width = images.shape
        batch = select_batch_size(count, (height, width), set(self.captured))
        shape = (batch, height, width)
        if shape not in self.captured:
            if len(self.captured) >= MAX_GRAPHS:
                self.captured.pop(next(iter(self.captured)))
            self.captured[shape] = self._capture(shape)
        captured = self.captured[shape]
        stream = torch.cuda.current_stream(self.device)
        stream.wait_event(self._copied)
        captured.images[:count].copy_(images)
        captured.graph.replay()
        outputs = tuple(values[:count].clone() for values in captured.raw)
        self._copied.record(stream)
        return outputs

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
            # "thread_local": the calls of other threads to CUDA do not end the recording
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                raw = to_float_outputs(self.model(images))
        return _CapturedGraph(graph, images, raw)
