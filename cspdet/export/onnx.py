"""One .onnx file: the network, its facts as metadata, and NMS behind it where it is wanted."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import torch

from cspdet.darknet.write.graph import ExportConfig, export_metadata, export_module
from cspdet.errors import ConfigError
from cspdet.export.nms import add_nms
from cspdet.export.quantize import convert_to_fp16, quantize_int8
from cspdet.export.verify import verification_inputs, verify_export
from cspdet.inference.engines.base import missing_package_error
from cspdet.inference.engines.onnx_engine import OnnxEngine, import_onnxruntime
from cspdet.inference.engines.onnx_export import output_names, to_onnx
from cspdet.inference.metadata import ModelMetadata
from cspdet.io.atomic import atomic_write
from cspdet.models.bundle import ModelBundle

if TYPE_CHECKING:
    import onnx


def write_onnx(bundle: ModelBundle, config: ExportConfig, target: Path) -> float:
    """Write `target`; returns the largest difference from the network, as a share of the largest output.

    Raises:
        UserError: a package is missing, the network cannot be written so, or the file differs; nothing is left then.
    """
    import_onnxruntime()
    metadata = export_metadata(bundle, config)
    inputs = verification_inputs(bundle, metadata, config.calibration)
    model = build_onnx(bundle, config, metadata)
    with atomic_write(target) as tmp_path:
        tmp_path.write_bytes(model.SerializeToString())
        precision = "int8" if metadata.precision == "int8" else "fp32"
        engine = OnnxEngine(tmp_path, metadata, torch.device("cpu"), precision=precision)  # type: ignore[arg-type]
        return verify_export(engine, bundle, inputs, str(target))


def build_onnx(bundle: ModelBundle, config: ExportConfig, metadata: ModelMetadata) -> onnx.ModelProto:
    """The model with its metadata, in memory.

    Raises:
        UserError: as `write_onnx`.
    """
    onnx = import_onnx()
    if config.precision == "fp16" and metadata.outputs not in ("raw", "logits"):
        raise ConfigError("--precision fp16: 10 bits are too few for pixels; use --outputs raw, without --nms")
    if config.precision == "int8" and config.calibration is None:
        raise ConfigError("--precision int8: expected --calibration DIR, a folder of pictures like those to come")
    network = export_module(bundle, metadata.outputs)
    model_outputs = "decoded" if metadata.outputs == "detections" else metadata.outputs
    names = output_names(model_outputs, metadata.strides)
    data = to_onnx(
        network, metadata.size_hw, names, size_divisor=max(metadata.strides), dynamic=metadata.dynamic, opset=config.opset
    )  # fmt: skip
    model = onnx.load_from_string(data)
    if config.precision == "int8":
        assert config.calibration is not None
        model = quantize_int8(model, metadata, config.calibration)
    elif config.precision == "fp16":
        model = convert_to_fp16(model)
    if metadata.nms is not None:
        model = add_nms(model, metadata.nms)
    model.producer_name, model.producer_version = "cspdet", metadata.program.split()[-1]
    onnx.helper.set_model_props(model, metadata.to_strings())
    onnx.checker.check_model(model)
    return model


def import_onnx() -> ModuleType:
    """The package, or a ConfigError that says how to get it."""
    try:
        import onnx
    except ImportError:
        raise missing_package_error("onnx", "export", "--format onnx") from None
    return onnx
