"""OpenVINO on the CPU, compiled for each size that comes, in a precision that is always said."""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cspdet.errors import CheckpointError, ConfigError
from cspdet.inference.engines.base import Engine, EnginePrecision, missing_package_error
from cspdet.inference.engines.openvino_graph import fold_constants, split_channels_last
from cspdet.inference.engines.winograd import use_winograd
from cspdet.inference.metadata import FORMAT_KEY, ModelMetadata, parse_metadata

if TYPE_CHECKING:
    import openvino

PRECISION_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}  # int8: what was not quantized
RT_INFO_SECTION = "cspdet"  # the section of a file's runtime information that holds its facts


class OpenVinoEngine(Engine):
    """A model that OpenVINO reads: ONNX in memory, or an .onnx or .xml that `cspdet export` wrote.

    Its own default is bf16 wherever the CPU has it; the hint makes it what `precision` says.
    """

    def __init__(
        self,
        model: bytes | Path,
        metadata: ModelMetadata,
        *,
        precision: EnginePrecision = "fp32",
        threads: int | None = None,
    ):
        super().__init__("openvino", metadata, torch.device("cpu"), precision)
        self.core = import_openvino().Core()
        self.model = read_model(model)
        supported = self.core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision in ("bf16", "fp16") and {"bf16": "BF16", "fp16": "FP16"}[precision] not in supported:
            raise ConfigError(f"--precision: OpenVINO has no {precision} on this CPU; it has {', '.join(supported)}")
        self.threads = threads or torch.get_num_threads()
        self.precision_hint = PRECISION_HINTS[precision]
        self.num_streams = 1
        self.latency_models: dict[
            tuple[int, int], openvino.CompiledModel
        ] = {}  # by height and width: all cores at a picture
        self.throughput_models: dict[
            tuple[int, int], _ThroughputModel
        ] = {}  # several pictures at once, a share of the cores each
        self._lock = threading.Lock()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        if len(images) > 1:
            return self._forward_one_by_one(images)
        size_hw, image = (images.shape[2], images.shape[3]), images.contiguous().numpy()
        if self.num_streams > 1:
            return self._throughput_model(size_hw, self.num_streams).run_one(image)
        results = self._latency_model(size_hw)([image], share_inputs=True, share_outputs=False)
        return tuple(torch.from_numpy(results[i]) for i in range(len(results)))

    def forward_parallel(self, images: Tensor) -> list[tuple[Tensor, ...]]:
        """A picture a core instead of all cores at one picture after the other.

        Cores that share a picture wait for each other after every layer, the longer the more else they have to do:
        decoding and encoding of a video, say.
        """
        if self.num_streams > 1:  # other threads keep the other cores busy
            return super().forward_parallel(images)
        throughput_model = self._throughput_model((images.shape[2], images.shape[3]), len(images))
        return throughput_model.run(images.contiguous().numpy())

    def set_num_streams(self, num_streams: int) -> int:
        """As many as there are threads."""
        self.num_streams = min(num_streams, self.threads)
        return self.num_streams

    def _latency_model(self, size_hw: tuple[int, int]) -> openvino.CompiledModel:
        if size_hw not in self.latency_models:
            self.latency_models[size_hw] = self._compile(size_hw, streams=1)
        return self.latency_models[size_hw]

    def _throughput_model(self, size_hw: tuple[int, int], num_images: int) -> _ThroughputModel:
        """For up to so many pictures of this size at once, but no more than there are threads."""
        streams = min(num_images, self.threads)
        with self._lock:
            if size_hw not in self.throughput_models or self.throughput_models[size_hw].streams < streams:
                self.throughput_models[size_hw] = _ThroughputModel(self._compile(size_hw, streams), streams)
            return self.throughput_models[size_hw]

    def _compile(self, size_hw: tuple[int, int], streams: int) -> openvino.CompiledModel:
        model = self.model.clone()
        if self.metadata.dynamic:
            model.reshape([1, 3, *size_hw])
        split_channels_last(model)
        if self.precision == "fp32":  # with fewer bits the mixtures of rows would round too much away
            fold_constants(model)
            use_winograd(model)
        options = {
            "INFERENCE_PRECISION_HINT": self.precision_hint,
            "PERFORMANCE_HINT": "LATENCY" if streams == 1 else "THROUGHPUT",
            "NUM_STREAMS": str(streams),
            "INFERENCE_NUM_THREADS": str(self.threads),
        }
        return self.core.compile_model(model, "CPU", options)


class _ThroughputModel:
    """A model compiled for several pictures at once, with a request for each of them.

    The requests stay: the first run of a new one, whose memory the system has yet to give, takes twice as long.
    """

    def __init__(self, compiled: openvino.CompiledModel, streams: int):
        self.compiled, self.streams = compiled, streams
        self._idle: SimpleQueue[openvino.InferRequest] = SimpleQueue()
        for _ in range(streams):
            self._idle.put(compiled.create_infer_request())

    def run_one(self, image: np.ndarray) -> tuple[Tensor, ...]:
        """(1, 3, H, W) to its outputs; waits for a request while other threads have them all."""
        request = self._idle.get()
        try:
            request.infer([image], share_inputs=True)
            return _copy_outputs(request)
        finally:
            self._idle.put(request)

    def run(self, images: np.ndarray) -> list[tuple[Tensor, ...]]:
        """(B, 3, H, W) to the outputs of each picture."""
        requests = [self._idle.get()]
        with suppress(Empty):  # waiting for a second one while another thread waits for its second never ends
            while len(requests) < len(images):
                requests.append(self._idle.get_nowait())
        found: list[tuple[Tensor, ...]] = []
        try:
            for index in range(len(images) + len(requests)):
                request = requests[index % len(requests)]
                if index >= len(requests):
                    request.wait()
                    found.append(_copy_outputs(request))
                if index < len(images):
                    request.start_async([images[index : index + 1]], share_inputs=True)
        finally:
            for request in requests:
                self._idle.put(request)
        return found


def _copy_outputs(request: openvino.InferRequest) -> tuple[Tensor, ...]:
    """The outputs, copied: the request's own memory is written over by its next run."""
    return tuple(torch.from_numpy(tensor.data.copy()) for tensor in request.output_tensors)


def read_model(model: bytes | Path) -> openvino.Model:
    """Read ONNX from memory, or an .onnx or .xml file.

    Raises:
        ConfigError: OpenVINO is not installed.
        CheckpointError: a damaged file, or an .xml without its .bin.
    """
    core = import_openvino().Core()
    if isinstance(model, Path) and model.suffix == ".xml" and not model.with_suffix(".bin").is_file():
        raise CheckpointError(f"{model.with_suffix('.bin')}: no such file; it holds the weights of {model.name}")
    try:
        return core.read_model(str(model)) if isinstance(model, Path) else core.read_model(model, b"")
    except RuntimeError as error:
        where = model if isinstance(model, Path) else "the converted network"
        reason = next((line for line in reversed(str(error).splitlines()) if line.strip()), "")[:200]
        raise CheckpointError(f"{where}: OpenVINO cannot read it: {reason}") from None


def read_openvino_metadata(path: Path) -> ModelMetadata:
    """The facts in the runtime information of an .xml.

    Raises:
        ConfigError: OpenVINO is not installed.
        CheckpointError: a damaged or foreign file.
    """
    model = read_model(path)
    if not model.has_rt_info([RT_INFO_SECTION, FORMAT_KEY]):
        return parse_metadata({}, str(path))
    keys = [key for key in ModelMetadata.model_fields if model.has_rt_info([RT_INFO_SECTION, key])]
    return parse_metadata({key: str(model.get_rt_info([RT_INFO_SECTION, key]).value) for key in keys}, str(path))


def write_openvino_metadata(model: openvino.Model, metadata: ModelMetadata) -> None:
    """Put the facts into the model's runtime information, which its .xml holds."""
    for key, value in metadata.to_strings().items():
        assert key == FORMAT_KEY or json.loads(value) is not None
        model.set_rt_info(value, [RT_INFO_SECTION, key])


def import_openvino() -> ModuleType:
    """The package, or a ConfigError that says how to get it."""
    try:
        import openvino
    except ImportError:
        raise missing_package_error("openvino", "openvino", "the backend openvino") from None
    return openvino
