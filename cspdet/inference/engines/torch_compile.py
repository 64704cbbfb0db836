"""Engine for torch.compile."""

from __future__ import annotations

import logging
import time
import warnings

import torch
from torch import Tensor, nn

from cspdet.inference.config import EnginePrecision
from cspdet.inference.engines.base import Engine
from cspdet.inference.engines.batching import pad_batch, select_batch_size
from cspdet.inference.engines.source import EngineOptions, NetworkSource
from cspdet.inference.engines.torch_engine import DTYPES, prepare_for_inference, to_float_outputs, torch_precisions
from cspdet.inference.metadata import ModelMetadata

log = logging.getLogger("cspdet")


class CompiledEngine(Engine):
    """Engine that compiles the network with torch.compile and frozen weights, for each input shape.

    The first call with a shape can take minutes. `--backend auto` does not try this engine, because compiling takes
    longer than most runs.
    """

    name = "torch-compile"

    def __init__(self, network: nn.Module, metadata: ModelMetadata, options: EngineOptions):
        super().__init__(metadata, options)
        self.eager_model = prepare_for_inference(network, options)
        self.dtype = DTYPES[options.precision]
        self.compiled_model = torch.compile(
            self.eager_model, dynamic=False, options={"freezing": True} if options.device.type == "cpu" else None
        )
        self.compiled_shapes: set[tuple[int, int, int]] = set()

    @classmethod
    def network_precisions(cls, device: torch.device) -> tuple[EnginePrecision, ...]:
        """Return the precisions that eager torch supports on a device."""
        return torch_precisions(device)

    @classmethod
    def from_network(cls, source: NetworkSource, options: EngineOptions) -> Engine:
        """Create the engine; the network is compiled at the first call with each input shape."""
        return cls(source.network, source.metadata, options)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Run the compiled network; if it is compiled for a larger batch, pad the batch."""
        count, _, height, width = images.shape
        batch_size = select_batch_size(count, (height, width), self.compiled_shapes)
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler warns about its own internals
            padded = pad_batch(images, batch_size).to(self.dtype, memory_format=torch.channels_last)
            outputs = to_float_outputs(self.compiled_model(padded))
        if (batch_size, height, width) not in self.compiled_shapes:
            self.compiled_shapes.add((batch_size, height, width))
            log.info("torch-compile: %d x %dx%d in %.1f s", batch_size, height, width, time.perf_counter() - start)
        return tuple(values[:count] for values in outputs)
