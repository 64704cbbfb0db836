"""One .onnx file: the network, its facts as metadata, and NMS behind it where it is wanted."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import torch

from cspdet.checkpoints.loading import LoadedClassifier, LoadedModel
from cspdet.darknet.write.graph import Wanted, facts_for, network_for
from cspdet.errors import ConfigError
from cspdet.export.nms import add_nms
from cspdet.export.quantize import quantized, to_half
from cspdet.export.verify import check, check_inputs
from cspdet.inference.engines.base import missing_package
from cspdet.inference.engines.onnx_engine import OnnxEngine, import_onnxruntime
from cspdet.inference.engines.onnx_export import output_names, to_onnx
from cspdet.inference.metadata import Facts
from cspdet.io.atomic import temporary

if TYPE_CHECKING:
    import onnx


def write_onnx(loaded: LoadedModel | LoadedClassifier, wanted: Wanted, target: Path) -> float:
    """Write `target`; returns the largest difference from the network, as a share of the largest output.

    Raises:
        UserError: a package is missing, the network cannot be written so, or the file differs; nothing is left then.
    """
    import_onnxruntime()
    facts = facts_for(loaded, wanted)
    inputs = check_inputs(loaded, facts, wanted.calibration)
    model = build_onnx(loaded, wanted, facts)
    with temporary(target) as draft:
        draft.write_bytes(model.SerializeToString())
        precision = "int8" if facts.precision == "int8" else "fp32"
        engine = OnnxEngine(draft, facts, torch.device("cpu"), precision=precision)  # type: ignore[arg-type]
        return check(engine, loaded, inputs, str(target))


def build_onnx(loaded: LoadedModel | LoadedClassifier, wanted: Wanted, facts: Facts) -> onnx.ModelProto:
    """The model with its metadata, in memory.

    Raises:
        UserError: as `write_onnx`.
    """
    onnx = import_onnx()
    if wanted.precision == "fp16" and facts.outputs not in ("raw", "logits"):
        raise ConfigError("--precision fp16: 10 bits are too few for pixels; use --outputs raw, without --nms")
    if wanted.precision == "int8" and wanted.calibration is None:
        raise ConfigError("--precision int8: expected --calibration DIR, a folder of pictures like those to come")
    network = network_for(loaded, facts.outputs)
    plain = "decoded" if facts.outputs == "detections" else facts.outputs
    names = output_names(plain, facts.strides)
    data = to_onnx(
        network, facts.size_hw, names, step=max(facts.strides), dynamic=facts.dynamic, opset=wanted.opset
    )  # fmt: skip
    model = onnx.load_from_string(data)
    if wanted.precision == "int8":
        assert wanted.calibration is not None
        model = quantized(model, facts, wanted.calibration)
    elif wanted.precision == "fp16":
        model = to_half(model)
    if facts.nms is not None:
        model = add_nms(model, facts.nms)
    model.producer_name, model.producer_version = "cspdet", facts.program.split()[-1]
    onnx.helper.set_model_props(model, facts.to_strings())
    onnx.checker.check_model(model)
    return model


def import_onnx() -> ModuleType:
    """The package, or a ConfigError that says how to get it."""
    try:
        import onnx
    except ImportError:
        raise missing_package("onnx", "export", "--format onnx") from None
    return onnx
