"""Export to ONNX: the network with metadata and, if requested, NMS."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from cspdet.errors import ConfigError, missing_package_error
from cspdet.exporters.base import ExportConfig
from cspdet.exporters.graph import GraphFormat, export_module
from cspdet.exporters.nms import add_nms, nms_probe
from cspdet.exporters.quantize import convert_to_fp16, quantize_int8
from cspdet.inference.engines.base import Engine
from cspdet.inference.engines.onnx_engine import OnnxEngine, import_onnxruntime
from cspdet.inference.engines.onnx_export import DEFAULT_OPSET, output_names, to_onnx
from cspdet.inference.engines.source import EngineOptions
from cspdet.inference.metadata import ModelMetadata, NmsConfig
from cspdet.io.integrity import CHECKSUM_KEY, UNSET_CHECKSUM
from cspdet.models.bundle import ModelBundle

if TYPE_CHECKING:
    import onnx


class OnnxFormat(GraphFormat):
    """Export format of ONNX: an .onnx file, verified with onnxruntime."""

    suffixes = (".onnx",)
    options = frozenset({"outputs", "nms", "dynamic", "opset", "precision", "calibration"})

    def check_packages(self) -> None:
        """Raise ConfigError if onnxruntime is not installed."""
        import_onnxruntime()

    def write(self, bundle: ModelBundle, config: ExportConfig, metadata: ModelMetadata, path: Path) -> None:
        """Write the model; see `GraphFormat.write`."""
        path.write_bytes(build_onnx(bundle, config, metadata).SerializeToString())

    def load(self, path: Path, metadata: ModelMetadata) -> Engine:
        """Load the file into an engine of onnxruntime."""
        return OnnxEngine.from_file(path, metadata, EngineOptions())

    def load_nms_probe(self, path: Path, metadata: ModelMetadata, nms: NmsConfig) -> Engine:
        """Load the file with other NMS thresholds into onnxruntime; see `GraphFormat.load_nms_probe`."""
        probe = nms_probe(import_onnx().load(str(path)), nms)
        return OnnxEngine(probe.SerializeToString(), metadata, EngineOptions())


def build_onnx(bundle: ModelBundle, config: ExportConfig, metadata: ModelMetadata) -> onnx.ModelProto:
    """Build the ONNX model with its metadata, without writing a file.

    Raises:
        UserError: A package is missing, or ONNX export does not support the network or an option.
    """
    onnx = import_onnx()
    if config.precision == "fp16" and metadata.outputs not in ("raw", "logits"):
        raise ConfigError(
            "--precision fp16: 10 mantissa bits are too few for pixel coordinates; use --outputs raw, without --nms"
        )
    if config.precision == "int8" and config.calibration is None:
        raise ConfigError("--precision int8: expected --calibration DIR too, a folder of representative images")
    network = export_module(bundle, metadata.outputs)
    model_outputs = "decoded" if metadata.outputs == "detections" else metadata.outputs
    names = output_names(model_outputs, metadata.strides)
    opset = config.opset or DEFAULT_OPSET
    data = to_onnx(
        network, metadata.size_hw, names, size_divisor=max(metadata.strides), dynamic=metadata.dynamic, opset=opset
    )  # fmt: skip
    model = onnx.load_from_string(data)
    if config.precision == "int8":
        assert config.calibration is not None
        model = quantize_int8(model, metadata, config.calibration)
    elif config.precision == "fp16":
        model = convert_to_fp16(model)
    elif not metadata.dynamic:
        model = fold_constants(model)
    if metadata.nms is not None:
        model = add_nms(model, metadata.nms)
    model.producer_name, model.producer_version = "cspdet", metadata.program.split()[-1]
    onnx.helper.set_model_props(model, {**metadata.to_strings(), CHECKSUM_KEY: UNSET_CHECKSUM})
    onnx.checker.check_model(model)
    return model


def fold_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace nodes that do not depend on the image, such as shape computations, by constants.

    OpenCV 4 cannot run such nodes. If onnxruntime is not installed, the model is returned unchanged.
    """
    if not OnnxEngine.is_installed():
        return model
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC  # standard ONNX nodes only
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "folded.onnx")
        onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        return import_onnx().load(options.optimized_model_filepath)


def import_onnx() -> ModuleType:
    """Import the package `onnx`. If it is missing, raise a ConfigError with the command that installs it."""
    try:
        import onnx
    except ImportError as error:
        raise missing_package_error("onnx", "export", "--format onnx", error) from None
    return onnx
