"""Export to OpenVINO IR: an .xml and a .bin file; the metadata is in the runtime info (`rt_info`) of the model."""

from __future__ import annotations

from pathlib import Path

from cspdet.errors import ConfigError
from cspdet.exporters.base import ExportConfig
from cspdet.exporters.graph import GraphFormat, export_module
from cspdet.exporters.nms import nms_probe
from cspdet.exporters.onnx import build_onnx, import_onnx
from cspdet.inference.engines.base import Engine
from cspdet.inference.engines.exported import load_exported
from cspdet.inference.engines.onnx_export import DEFAULT_OPSET, output_names, to_onnx
from cspdet.inference.engines.openvino_engine import (
    RT_INFO_SECTION,
    OpenVinoEngine,
    import_openvino,
    read_model,
    write_openvino_metadata,
)
from cspdet.inference.engines.source import EngineOptions
from cspdet.inference.metadata import ModelMetadata, NmsConfig
from cspdet.io.integrity import CHECKSUM_KEY, UNSET_CHECKSUM
from cspdet.models.bundle import ModelBundle


class OpenVinoFormat(GraphFormat):
    """Export format of OpenVINO: an .xml file with the graph and a .bin file with the weights, verified with OpenVINO.

    fp16 applies only to the stored weights; the engine selects the precision of the computation.
    """

    suffixes = (".xml",)
    options = frozenset({"outputs", "nms", "dynamic", "opset", "precision", "calibration"})

    def files(self, target: Path) -> tuple[Path, ...]:
        """Return the paths of the graph file and of the weights file."""
        return target, target.with_suffix(".bin")

    def check_packages(self) -> None:
        """Raise ConfigError if OpenVINO is not installed."""
        import_openvino()

    def write(self, bundle: ModelBundle, config: ExportConfig, metadata: ModelMetadata, path: Path) -> None:
        """Write both files; see `GraphFormat.write`."""
        self._onnx = _onnx_bytes(bundle, config, metadata)
        model = read_model(self._onnx)
        write_openvino_metadata(model, metadata)
        model.set_rt_info(UNSET_CHECKSUM, [RT_INFO_SECTION, CHECKSUM_KEY])
        try:
            import_openvino().save_model(model, str(path), compress_to_fp16=config.precision == "fp16")
        except RuntimeError as error:  # OpenVINO does not return the error of the file system
            raise OSError(f"OpenVINO: {error}; is the disk full?") from None

    def load(self, path: Path, metadata: ModelMetadata) -> Engine:
        """Load the files into an engine of OpenVINO."""
        return load_exported(path, "openvino", EngineOptions())

    def load_nms_probe(self, path: Path, metadata: ModelMetadata, nms: NmsConfig) -> Engine:
        """Load the source ONNX model with other NMS thresholds into OpenVINO; see `GraphFormat.load_nms_probe`."""
        probe = nms_probe(import_onnx().load_from_string(self._onnx), nms)
        return OpenVinoEngine(probe.SerializeToString(), metadata, EngineOptions())


def _onnx_bytes(bundle: ModelBundle, config: ExportConfig, metadata: ModelMetadata) -> bytes:
    """Return the serialized ONNX model that OpenVINO converts. The package `onnx` is needed only for int8 and NMS."""
    if config.precision == "int8" or metadata.nms is not None:
        if config.precision == "fp16":
            raise ConfigError("--precision fp16: 10 mantissa bits are too few for pixel coordinates; omit --nms")
        return build_onnx(bundle, config, metadata).SerializeToString()
    names = output_names(metadata.outputs, metadata.strides)
    return to_onnx(
        export_module(bundle, metadata.outputs), metadata.size_hw, names,
        size_divisor=max(metadata.strides), dynamic=metadata.dynamic, opset=config.opset or DEFAULT_OPSET,
    )  # fmt: skip
