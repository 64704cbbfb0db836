"""Engine for OpenVINO on the CPU; the model is compiled for each input size."""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cspdet.errors import CheckpointError, ConfigError, missing_package_error
from cspdet.inference.engines.base import Engine
from cspdet.inference.engines.cpu_kernels.openvino_graph import fold_constants
from cspdet.inference.engines.cpu_kernels.winograd import use_winograd
from cspdet.inference.engines.onnx_engine import read_onnx_metadata
from cspdet.inference.engines.source import EngineOptions, NetworkSource
from cspdet.inference.metadata import FORMAT_KEY, ModelMetadata, parse_metadata

if TYPE_CHECKING:
    import openvino

PRECISION_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}  # int8: of other layers
CPU_CAPABILITIES = {"bf16": "BF16", "fp16": "FP16"}  # names of the capabilities in OpenVINO
RT_INFO_SECTION = "cspdet"  # the section of the runtime information in a file that contains its metadata


class OpenVinoEngine(Engine):
    """Engine that runs OpenVINO: a network converted to ONNX in memory, or an .onnx or .xml file of `cspdet export`.

    The precision hint is set to `precision`, because OpenVINO computes in bf16 by default if the CPU supports it.

    Attributes:
        latency_models: Compiled models, by (height, width), that use all cores for one image at a time.
        throughput_models: Compiled models, by (height, width), that run several images in parallel.
    """

    name = "openvino"
    devices = ("cpu",)
    precisions = ("fp32", "bf16", "fp16")
    file_precisions = ("fp32", "bf16", "fp16", "int8")
    suffixes = (".onnx", ".xml")
    auto_devices = ("cpu",)
    package = ("openvino", "openvino")
    parallel_forward = True

    def __init__(self, model: bytes | Path, metadata: ModelMetadata, options: EngineOptions):
        super().__init__(metadata, options)
        self.core = import_openvino().Core()
        self.model = read_model(model)
        supported = self.core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        precision = options.precision
        if CPU_CAPABILITIES.get(precision, supported[0]) not in supported:
            raise ConfigError(f"--precision: OpenVINO has no {precision} on this CPU; it has {', '.join(supported)}")
        self.threads = options.threads or torch.get_num_threads()
        self.precision_hint = PRECISION_HINTS[precision]
        self.cpu_kernels = options.cpu_kernels
        self.num_streams = 1
        self.latency_models: dict[tuple[int, int], _RequestPool] = {}
        self.throughput_models: dict[tuple[int, int], _RequestPool] = {}
        self._lock = threading.Lock()

    @classmethod
    def from_network(cls, source: NetworkSource, options: EngineOptions) -> Engine:
        """Convert the network to ONNX in memory; OpenVINO compiles it at the first call with each input size."""
        import_openvino()  # before the conversion, which takes seconds
        return cls(source.onnx_bytes, source.metadata, options)

    @classmethod
    def from_file(cls, path: Path, metadata: ModelMetadata, options: EngineOptions) -> Engine:
        """Read an .onnx or .xml file; a quantized file always runs in int8."""
        return cls(path, metadata, replace(options, precision="int8") if metadata.precision == "int8" else options)

    @classmethod
    def read_metadata(cls, path: Path) -> ModelMetadata:
        """Read the metadata of an .onnx or .xml file."""
        return read_onnx_metadata(path) if path.suffix == ".onnx" else read_openvino_metadata(path)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Run one image on all cores, or on one stream after `set_num_streams`; run several images in parallel."""
        if len(images) > 1:
            return self._forward_one_by_one(images)
        size_hw, image = (images.shape[2], images.shape[3]), images.contiguous().numpy()
        if self.num_streams > 1:
            return self._throughput_model(size_hw, self.num_streams).run_one(image)
        return self._latency_model(size_hw).run_one(image)

    def forward_parallel(self, images: Tensor) -> list[tuple[Tensor, ...]]:
        """Run the images in parallel, with one core per image.

        If all threads share one image, they synchronize after every layer. This overhead grows under load, for example
        while a video is decoded and encoded at the same time.
        """
        if self.num_streams > 1:  # other threads keep the other cores busy
            return super().forward_parallel(images)
        throughput_model = self._throughput_model((images.shape[2], images.shape[3]), len(images))
        return throughput_model.run(images.contiguous().numpy())

    def set_num_streams(self, num_streams: int) -> int:
        """Prepare for calls from several threads at the same time; return min(`num_streams`, `threads`)."""
        self.num_streams = min(num_streams, self.threads)
        return self.num_streams

    def _latency_model(self, size_hw: tuple[int, int]) -> _RequestPool:
        with self._lock:
            if size_hw not in self.latency_models:
                self.latency_models[size_hw] = self._compile(size_hw, streams=1)
            return self.latency_models[size_hw]

    def _throughput_model(self, size_hw: tuple[int, int], num_images: int) -> _RequestPool:
        """Return the compiled model that runs min(`num_images`, `threads`) images of this size in parallel."""
        streams = min(num_images, self.threads)
        with self._lock:
            if size_hw not in self.throughput_models or self.throughput_models[size_hw].streams < streams:
                self.throughput_models[size_hw] = self._compile(size_hw, streams)
            return self.throughput_models[size_hw]

    def _compile(self, size_hw: tuple[int, int], streams: int) -> _RequestPool:
        model = self.model.clone()
        if self.metadata.dynamic:
            model.reshape([1, 3, *size_hw])
        if self.cpu_kernels and self.precision == "fp32":  # Winograd is not accurate enough at lower precision
            fold_constants(model)
            use_winograd(model)
        options = {
            "INFERENCE_PRECISION_HINT": self.precision_hint,
            "PERFORMANCE_HINT": "LATENCY" if streams == 1 else "THROUGHPUT",
            "NUM_STREAMS": str(streams),
            "INFERENCE_NUM_THREADS": str(self.threads),
        }
        return _RequestPool(self.core.compile_model(model, "CPU", options), streams)


class _RequestPool:
    """A compiled model with one inference request for each image that it runs at once; no two threads share a request.

    Requests are reused, because the first run of a new request allocates its memory and takes twice as long.
    """

    def __init__(self, compiled: openvino.CompiledModel, streams: int):
        self.compiled, self.streams = compiled, streams
        self._idle: SimpleQueue[openvino.InferRequest] = SimpleQueue()
        for _ in range(streams):
            self._idle.put(compiled.create_infer_request())

    def run_one(self, image: np.ndarray) -> tuple[Tensor, ...]:
        """Run one image (1, 3, H, W) and return its outputs; wait if other threads use all requests."""
        request = self._idle.get()
        try:
            request.infer([image], share_inputs=True)
            return _copy_outputs(request)
        finally:
            self._idle.put(request)

    def run(self, images: np.ndarray) -> list[tuple[Tensor, ...]]:
        """Run a batch (B, 3, H, W) and return the outputs of each image."""
        requests = [self._idle.get()]
        with suppress(Empty):  # no waiting: two threads that each hold one request would deadlock
            while len(requests) < len(images):
                requests.append(self._idle.get_nowait())
        outputs: list[tuple[Tensor, ...]] = []
        try:
            for index in range(len(images) + len(requests)):
                request = requests[index % len(requests)]
                if index >= len(requests):
                    request.wait()
                    outputs.append(_copy_outputs(request))
                if index < len(images):
                    request.start_async([images[index : index + 1]], share_inputs=True)
        finally:
            for request in requests:
                self._idle.put(request)
        return outputs


def _copy_outputs(request: openvino.InferRequest) -> tuple[Tensor, ...]:
    """Return copies of the outputs, because the next run of the request overwrites their memory."""
    return tuple(torch.from_numpy(tensor.data.copy()) for tensor in request.output_tensors)


def read_model(model: bytes | Path) -> openvino.Model:
    """Read a model: ONNX in memory, or an .onnx or .xml file.

    Raises:
        ConfigError: OpenVINO is not installed.
        CheckpointError: The file is corrupt, or the .bin file of an .xml file is missing.
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
    """Read the metadata from the runtime information of an .xml file.

    Raises:
        ConfigError: OpenVINO is not installed.
        CheckpointError: The file is corrupt, or was not written by `cspdet export`.
    """
    model = read_model(path)
    if not model.has_rt_info([RT_INFO_SECTION, FORMAT_KEY]):
        return parse_metadata({}, str(path))
    keys = [key for key in ModelMetadata.model_fields if model.has_rt_info([RT_INFO_SECTION, key])]
    return parse_metadata({key: str(model.get_rt_info([RT_INFO_SECTION, key]).value) for key in keys}, str(path))


def write_openvino_metadata(model: openvino.Model, metadata: ModelMetadata) -> None:
    """Store the metadata in the model's runtime information, which OpenVINO saves in the .xml file."""
    for key, value in metadata.to_strings().items():
        assert key == FORMAT_KEY or json.loads(value) is not None
        model.set_rt_info(value, [RT_INFO_SECTION, key])


def import_openvino() -> ModuleType:
    """Import openvino. If it is missing, raise ConfigError with the command that installs it."""
    try:
        import openvino
    except ImportError as error:
        raise missing_package_error("openvino", "openvino", "the backend openvino", error) from None
    return openvino
