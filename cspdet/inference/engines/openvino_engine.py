"""OpenVINO on the CPU, compiled for each shape that comes, in a precision that is always said."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cspdet.errors import CheckpointError, ConfigError
from cspdet.inference.engines.base import Engine, EnginePrecision, missing_package, pad, padded_batch
from cspdet.inference.facts import FORMAT_KEY, Facts, read_facts

if TYPE_CHECKING:
    import openvino

HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}  # int8: what was not quantized
RT_INFO = "cspdet"  # the section of a file's runtime information that holds its facts


class OpenVinoEngine(Engine):
    """A model that OpenVINO reads: ONNX in memory, or an .onnx or .xml that `cspdet export` wrote.

    Its own default is bf16 wherever the CPU has it; the hint makes it what `precision` says.
    """

    def __init__(
        self,
        model: bytes | Path,
        facts: Facts,
        *,
        precision: EnginePrecision = "fp32",
        threads: int | None = None,
    ):
        super().__init__("openvino", facts, torch.device("cpu"), precision)
        self.core = import_openvino().Core()
        self.model = read_model(model)
        supported = self.core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision in ("bf16", "fp16") and {"bf16": "BF16", "fp16": "FP16"}[precision] not in supported:
            raise ConfigError(f"--precision: OpenVINO has no {precision} on this CPU; it has {', '.join(supported)}")
        self.options = {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": str(threads or torch.get_num_threads()),
        }
        self.compiled: dict[tuple[int, int, int], openvino.CompiledModel] = {}

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        count, _, height, width = images.shape
        batch = padded_batch(count, (height, width), set(self.compiled))
        request = self._request((batch, height, width))
        # Copied out: the request's own memory is written over by the next call.
        results = request([pad(images, batch).contiguous().numpy()], share_inputs=True, share_outputs=False)
        outputs = tuple(torch.from_numpy(results[i]) for i in range(len(results)))
        return outputs if batch == count else self._first(outputs, count)

    def _request(self, shape: tuple[int, int, int]) -> openvino.CompiledModel:
        if shape not in self.compiled:
            batch, height, width = shape
            model = self.model
            if self.facts.dynamic:
                model = model.clone()
                model.reshape([batch, 3, height, width])
            self.compiled[shape] = self.core.compile_model(model, "CPU", self.options)
        return self.compiled[shape]


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


def read_openvino_facts(path: Path) -> Facts:
    """The facts in the runtime information of an .xml.

    Raises:
        ConfigError: OpenVINO is not installed.
        CheckpointError: a damaged or foreign file.
    """
    model = read_model(path)
    if not model.has_rt_info([RT_INFO, FORMAT_KEY]):
        return read_facts({}, str(path))
    keys = [key for key in Facts.model_fields if model.has_rt_info([RT_INFO, key])]
    return read_facts({key: str(model.get_rt_info([RT_INFO, key]).value) for key in keys}, str(path))


def write_openvino_facts(model: openvino.Model, facts: Facts) -> None:
    """Put the facts into the model's runtime information, which its .xml holds."""
    for key, value in facts.to_strings().items():
        assert key == FORMAT_KEY or json.loads(value) is not None
        model.set_rt_info(value, [RT_INFO, key])


def import_openvino() -> ModuleType:
    """The package, or a ConfigError that says how to get it."""
    try:
        import openvino
    except ImportError:
        raise missing_package("openvino", "openvino", "the backend openvino") from None
    return openvino
