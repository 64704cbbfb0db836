"""Which engine runs a MODEL: the one that was asked for, or the fastest that agrees with PyTorch."""

from __future__ import annotations

import importlib.util
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import get_args

import torch
from torch import nn

from cspdet.checkpoints.loading import load_model
from cspdet.device import select_device
from cspdet.errors import CheckpointError, ConfigError, UserError, did_you_mean
from cspdet.inference.engines.base import Engine, EnginePrecision
from cspdet.inference.engines.cuda_graph import CudaGraphEngine
from cspdet.inference.engines.exported import BACKENDS_BY_SUFFIX, is_exported, load_exported, read_exported_metadata
from cspdet.inference.engines.onnx_engine import OnnxEngine, import_onnxruntime
from cspdet.inference.engines.onnx_export import output_names, to_onnx
from cspdet.inference.engines.openvino_engine import OpenVinoEngine, import_openvino
from cspdet.inference.engines.parity import parity_error, probe_inputs
from cspdet.inference.engines.torch_engine import CompiledEngine, TorchEngine
from cspdet.inference.metadata import ModelMetadata, build_metadata
from cspdet.models import Detector
from cspdet.models.bundle import ModelBundle
from cspdet.models.fuse import fuse_conv_bn

log = logging.getLogger("cspdet")

BACKENDS = ("auto", "torch", "torch-compile", "onnxruntime", "openvino", "cuda-graph", "tensorrt")
PRECISIONS: tuple[EnginePrecision, ...] = get_args(EnginePrecision)
# What `auto` tries. torch.compile and TensorRT are not among them: they build for longer than most runs take.
AUTO_CANDIDATES = {"cpu": ("torch", "onnxruntime", "openvino"), "cuda": ("torch", "cuda-graph", "onnxruntime")}
BACKEND_PACKAGES = {"onnxruntime": "onnxruntime", "openvino": "openvino"}

MIN_TIMING_SECONDS = 0.5  # of forward passes a candidate, after one to warm up; at least
MIN_TIMING_PASSES = 3


def load_engine(
    model: str | Path,
    *,
    weights: str | Path | None = None,
    overrides: Sequence[str] = (),
    backend: str = "auto",
    precision: str = "fp32",
    device: str | torch.device = "auto",
    size: tuple[int, int] | None = None,
    threads: int | None = None,
) -> Engine:
    """A detector in an engine, from any MODEL: a checkpoint, a config, or an exported file.

    backend    one of BACKENDS; auto takes the fastest installed one that agrees with torch
    precision  fp32, bf16, fp16 (CUDA), or int8 (files that were exported so)
    size       (height, width) in place of the model's own
    threads    of the CPU; None: as many as torch has

    Raises:
        UserError: no such model, backend, precision, device or size, or a package that is missing.
    """
    check_backend_and_precision(backend, precision)
    chosen = device if isinstance(device, torch.device) else select_device(device)
    if is_exported(model):
        return build_exported_engine(
            Path(model), weights=weights, overrides=overrides, backend=backend, precision=precision, device=chosen,
            size=size, threads=threads,
        )  # fmt: skip
    bundle = load_model(model, weights=weights, overrides=overrides, task="detection")
    return build_engine(bundle, chosen, backend=backend, precision=precision, size=size, threads=threads)


def check_backend_and_precision(backend: str, precision: str) -> EnginePrecision:
    """Raise ConfigError unless both are known words."""
    problems = []
    if backend not in BACKENDS:
        problems.append(
            f"--backend: unknown {backend!r}{did_you_mean(backend, BACKENDS)}; there are: {', '.join(BACKENDS)}"
        )
    if precision not in PRECISIONS:
        known_precisions = ", ".join(PRECISIONS)
        problems.append(
            f"--precision: unknown {precision!r}{did_you_mean(precision, PRECISIONS)}; there are: {known_precisions}"
        )
    if problems:
        raise ConfigError(*problems)
    return next(known for known in PRECISIONS if known == precision)


def build_engine(
    bundle: ModelBundle,
    device: torch.device,
    *,
    backend: str = "torch",
    precision: str = "fp32",
    size: tuple[int, int] | None = None,
    threads: int | None = None,
) -> Engine:
    """A network that was loaded, in an engine; the other arguments are those of `load_engine`.

    Raises:
        ConfigError: a backend or precision that this machine or network does not have.
    """
    if size is not None:
        bundle = bundle.with_input_size(size, "--size")
    return build_engine_from_network(
        bundle.torch_network, build_metadata(bundle), device, backend=backend, precision=precision, threads=threads
    )


def build_engine_from_network(
    model: nn.Module,
    metadata: ModelMetadata,
    device: torch.device,
    *,
    backend: str = "torch",
    precision: str = "fp32",
    threads: int | None = None,
) -> Engine:
    """Any network of which the facts are known, a classifier too, in an engine; `auto` looks at detectors alone.

    Raises:
        ConfigError: a backend or precision that this machine or network does not have.
    """
    engine_precision = check_backend_and_precision(backend, precision)
    _set_threads(threads)
    if engine_precision == "int8":
        raise ConfigError(
            "--precision: int8 needs calibration pictures; `cspdet export MODEL --format onnx --precision int8 "
            "--calibration DIR` writes a file that runs so"
        )
    builder = _EngineBuilder(model, metadata, device, engine_precision, threads)
    if backend == "auto":
        engine = _build_auto_engine(builder)
    else:
        engine = builder.build(backend)
    log.info("%s: %s", metadata.name, engine)
    return engine


def _set_threads(threads: int | None) -> None:
    if threads is None:
        return
    if threads < 1:
        raise ConfigError(f"--threads: expected 1 or more, found {threads}")
    torch.set_num_threads(threads)


class _EngineBuilder:
    """Makes the engines of one network; what is converted is converted once."""

    def __init__(
        self,
        model: nn.Module,
        metadata: ModelMetadata,
        device: torch.device,
        precision: EnginePrecision,
        threads: int | None,
    ):
        self.model, self.metadata, self.device = model, metadata, device
        self.precision, self.threads = precision, threads
        self._onnx_bytes: bytes | None = None

    def build(self, backend: str, precision: EnginePrecision | None = None) -> Engine:
        """Raises ConfigError where it cannot be."""
        model, metadata, device = self.model, self.metadata, self.device
        precision = precision or self.precision
        if backend == "torch":
            return TorchEngine(model, metadata, device, precision)
        if backend == "torch-compile":
            return CompiledEngine(model, metadata, device, precision)
        if backend == "cuda-graph":
            return CudaGraphEngine(model, metadata, device, precision)
        if backend == "openvino":
            if device.type != "cpu":
                raise ConfigError(f"--backend: openvino runs on the CPU here, found {device}")
            import_openvino()
            return OpenVinoEngine(self.onnx_bytes(), metadata, precision=precision, threads=self.threads)
        if backend == "tensorrt" and device.type != "cuda":
            raise ConfigError(f"--backend: tensorrt needs a CUDA device, found {device}")
        possible = ("fp32", "fp16") if backend == "tensorrt" else ("fp32",)
        if precision not in possible:
            raise ConfigError(f"--precision: {backend} computes in {' or '.join(possible)}, found {precision}")
        import_onnxruntime()
        return OnnxEngine(self.onnx_bytes(), metadata, device, name=backend, precision=precision, threads=self.threads)

    def onnx_bytes(self) -> bytes:
        if self._onnx_bytes is None:
            folded = (fuse_conv_bn(self.model) or self.model).to("cpu")
            names = output_names(self.metadata.outputs, self.metadata.strides)
            self._onnx_bytes = to_onnx(
                folded, self.metadata.size_hw, names, size_divisor=max(self.metadata.strides), dynamic=True
            )
        return self._onnx_bytes


def _build_auto_engine(builder: _EngineBuilder) -> Engine:
    """The candidate with the quickest forward pass of one picture, of those that agree with torch in fp32."""
    network: nn.Module = builder.model
    if not isinstance(network, Detector):  # something that stands in for one, in Python that only torch runs
        return builder.build("torch")
    reference = builder.build("torch", "fp32")
    candidates: dict[str, Callable[[], Engine]] = {}
    for name in AUTO_CANDIDATES.get(builder.device.type, ("torch",)):
        if name in BACKEND_PACKAGES and importlib.util.find_spec(BACKEND_PACKAGES[name]) is None:
            log.info("auto: %s is not installed", name)
        elif name == "torch" and builder.precision == "fp32":
            candidates[name] = lambda: reference
        else:
            candidates[name] = partial(builder.build, name)
    return select_fastest(candidates, reference)


def select_fastest(candidates: dict[str, Callable[[], Engine]], reference: Engine) -> Engine:
    """Try each candidate: build, compare with the reference, time. What fails is told with its reason.

    Raises:
        ConfigError: none is left.
    """
    images = probe_inputs(reference.size_hw)
    expected = [reference(image.to(reference.device)) for image in images]
    times: dict[str, tuple[float, Engine]] = {}
    problems = []
    for name, build in candidates.items():
        try:
            engine = build()
            problem = None
            if engine is not reference:
                found = [engine(image) for image in images]
                problem = parity_error(found, expected, reference.anchors, engine.precision, reference.size_hw)
        except (UserError, RuntimeError, ImportError) as error:
            problem = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        if problem is None:
            times[name] = (time_forward(engine), engine)
        else:
            problems.append(f"{name}: {problem}")
            log.warning("auto: %s is left out: %s", name, problem)
    if not times:
        raise ConfigError("--backend auto: no engine can do this", *problems)
    listed = ", ".join(f"{name} {1000 * seconds:.1f} ms" for name, (seconds, _) in times.items())
    log.info("auto: %s", listed)
    return min(times.values(), key=lambda timed: timed[0])[1]


def time_forward(engine: Engine) -> float:
    """The quickest of several forward passes of one picture of the engine's own size, after one that warms up."""
    (image, _) = probe_inputs(engine.size_hw)
    image = image.to(engine.device)
    engine(image)
    engine.synchronize()
    seconds: list[float] = []
    while len(seconds) < MIN_TIMING_PASSES or sum(seconds) < MIN_TIMING_SECONDS:
        start = time.perf_counter()
        engine(image)
        engine.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def build_exported_engine(
    path: Path,
    *,
    weights: str | Path | None,
    overrides: Sequence[str],
    backend: str,
    precision: str,
    device: torch.device,
    size: tuple[int, int] | None,
    threads: int | None,
) -> Engine:
    """As `load_engine`, for a file that `cspdet export` wrote."""
    engine_precision = check_backend_and_precision(backend, precision)
    _set_threads(threads)
    if weights is not None:
        raise CheckpointError(f"{path}: an exported file brings its own weights; --weights goes with a config (.yaml)")
    if overrides:
        raise ConfigError(f"{path}: an exported file has no config that {overrides[0]!r} could override")
    metadata = read_exported_metadata(path)
    if metadata.task != "detector":
        raise CheckpointError(f"{path}: expected a detector, found a {metadata.task}")
    if backend == "auto":
        engine = _load_auto_engine(path, engine_precision, device, threads)
    else:
        engine = load_exported(path, backend, precision=engine_precision, device=device, threads=threads)
    if size is not None:
        try:
            engine.check_size(size)
        except ValueError as error:
            raise ConfigError(f"--size: {path.name}: {error}") from None
        input_ = engine.metadata.input.model_copy(update={"size": size})
        engine.metadata = engine.metadata.model_copy(update={"input": input_})
    log.info("%s: %s", path.name, engine)
    return engine


def _load_auto_engine(path: Path, precision: EnginePrecision, device: torch.device, threads: int | None) -> Engine:
    readers = [
        name
        for name in BACKENDS_BY_SUFFIX[path.suffix]
        if name != "tensorrt"
        and (name not in BACKEND_PACKAGES or importlib.util.find_spec(BACKEND_PACKAGES[name]) is not None)
        and not (name == "openvino" and device.type != "cpu")
    ]
    if precision != "fp32":  # there is nothing in the file to compare with
        usable = [name for name in readers if name == "openvino"] or readers
        return load_exported(path, usable[0] if usable else "onnxruntime", precision=precision, device=device)

    def load(name: str) -> Engine:
        return load_exported(path, name, precision=precision, device=device, threads=threads)

    if len(readers) < 2:
        return load(readers[0] if readers else BACKENDS_BY_SUFFIX[path.suffix][0])
    reference = load(readers[0])
    if reference.metadata.outputs != "raw":
        return reference
    candidates: dict[str, Callable[[], Engine]] = {name: partial(load, name) for name in readers[1:]}
    candidates[readers[0]] = lambda: reference
    return select_fastest(candidates, reference)
