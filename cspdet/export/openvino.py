"""OpenVINO's .xml with its .bin, the facts in the runtime information."""

from __future__ import annotations

from pathlib import Path

import torch

from cspdet.darknet.write.graph import ExportConfig, export_metadata, export_module
from cspdet.errors import ConfigError
from cspdet.export.onnx import build_onnx
from cspdet.export.verify import verification_inputs, verify_export
from cspdet.inference.engines.exported import load_exported
from cspdet.inference.engines.onnx_export import output_names, to_onnx
from cspdet.inference.engines.openvino_engine import import_openvino, read_model, write_openvino_metadata
from cspdet.inference.metadata import ModelMetadata
from cspdet.io.atomic import atomic_write
from cspdet.models.bundle import ModelBundle


def write_openvino(bundle: ModelBundle, config: ExportConfig, target: Path) -> float:
    """Write `target`, an .xml, and its .bin; returns the largest difference from the network, as `write_onnx` does.

    With fp16 the weights are stored in half the space; the precision of the computation is chosen where it runs.

    Raises:
        UserError: a package is missing, the network cannot be written so, or the files differ; nothing is left then.
    """
    openvino = import_openvino()
    metadata = export_metadata(bundle, config)
    inputs = verification_inputs(bundle, metadata, config.calibration)
    model = read_model(_onnx_bytes(bundle, config, metadata))
    write_openvino_metadata(model, metadata)
    # The inner block ends first: a reader of the .xml finds the weights in place.
    with atomic_write(target) as tmp_path, atomic_write(target.with_suffix(".bin")):
        openvino.save_model(model, str(tmp_path), compress_to_fp16=config.precision == "fp16")
        engine = load_exported(tmp_path, "openvino", precision="fp32", device=torch.device("cpu"))
        return verify_export(engine, bundle, inputs, str(target))


def _onnx_bytes(bundle: ModelBundle, config: ExportConfig, metadata: ModelMetadata) -> bytes:
    """ONNX in memory; the package onnx is only needed for more than the plain network."""
    if config.precision == "int8" or metadata.nms is not None:
        if config.precision == "fp16":
            raise ConfigError("--precision fp16: 10 bits are too few for pixels; use it without --nms")
        return build_onnx(bundle, config, metadata).SerializeToString()
    names = output_names(metadata.outputs, metadata.strides)
    return to_onnx(
        export_module(bundle, metadata.outputs), metadata.size_hw, names, size_divisor=max(metadata.strides), dynamic=metadata.dynamic,
        opset=config.opset,
    )  # fmt: skip
