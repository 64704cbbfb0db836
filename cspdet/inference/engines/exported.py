"""Files that `cspdet export` wrote, as engines: .onnx, OpenVINO's .xml, and TorchScript."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from cspdet.errors import CheckpointError, ConfigError
from cspdet.inference.engines.base import Engine, EnginePrecision
from cspdet.inference.engines.onnx_engine import OnnxEngine, read_onnx_metadata
from cspdet.inference.engines.openvino_engine import OpenVinoEngine, read_openvino_metadata
from cspdet.inference.engines.torch_engine import TorchScriptEngine
from cspdet.inference.metadata import FORMAT_KEY, ModelMetadata, parse_metadata

BACKENDS_BY_SUFFIX = {
    ".onnx": ("onnxruntime", "openvino", "tensorrt"),
    ".xml": ("openvino",),
    ".torchscript": ("torch",),
    ".ts": ("torch",),
}  # each with the one that `auto` would rather take first


def is_exported(path: str | Path) -> bool:
    """Whether a MODEL is named as an exported file."""
    return Path(path).suffix in BACKENDS_BY_SUFFIX


def read_exported_metadata(path: str | Path) -> ModelMetadata:
    """What an exported file says of itself.

    Raises:
        CheckpointError: missing, damaged, or not of `cspdet export`.
        ConfigError: the package that reads such files is not installed.
    """
    path = _require_file(path)
    if path.suffix == ".onnx":
        return _load_onnx_metadata(path)
    return read_openvino_metadata(path) if path.suffix == ".xml" else _load_torchscript(path, "cpu")[1]


def load_exported(
    path: str | Path, backend: str, *, precision: EnginePrecision, device: torch.device, threads: int | None = None
) -> Engine:
    """An exported file in one of the backends that read it.

    Raises:
        CheckpointError, ConfigError: as `read_exported_facts`; or a backend or precision that the file is not for.
    """
    path = _require_file(path)
    readers = BACKENDS_BY_SUFFIX[path.suffix]
    if backend not in readers:
        raise ConfigError(f"--backend: {path.name} is read by {' or '.join(readers)}; found {backend!r}")
    if path.suffix in (".torchscript", ".ts"):
        script, metadata = _load_torchscript(path, str(device))
        _check_precision(path, metadata, precision, ("fp32",))
        return TorchScriptEngine(script, metadata, device)
    metadata = read_exported_metadata(path)
    if backend == "openvino":
        _check_device(path, device)
        _check_precision(path, metadata, precision, ("fp32", "bf16", "fp16"))
        return OpenVinoEngine(path, metadata, precision=_effective_precision(metadata, precision), threads=threads)
    _check_precision(path, metadata, precision, ("fp32", "fp16") if backend == "tensorrt" else ("fp32",))
    # onnxruntime computes in what the file holds; OpenVINO above in what it is told.
    actual = "fp16" if metadata.precision == "fp16" else _effective_precision(metadata, precision)
    return OnnxEngine(path, metadata, device, name=backend, precision=actual, threads=threads)


def _effective_precision(metadata: ModelMetadata, precision: EnginePrecision) -> EnginePrecision:
    """A quantized file computes in int8 whatever is asked for: that is what it is."""
    return "int8" if metadata.precision == "int8" else precision


def _check_precision(
    path: Path, metadata: ModelMetadata, precision: EnginePrecision, supported: tuple[EnginePrecision, ...]
) -> None:
    if metadata.precision == "int8" and precision in ("fp32", "int8"):
        return
    if precision == "int8":
        raise ConfigError(
            f"{path}: holds {metadata.precision} weights; int8 needs calibration pictures: "
            "cspdet export MODEL --format onnx --precision int8 --calibration DIR"
        )
    if precision not in supported:
        raise ConfigError(f"--precision: for {path.name} expected {' or '.join(supported)}, found {precision}")


def _check_device(path: Path, device: torch.device) -> None:
    if device.type != "cpu":
        raise ConfigError(f"--device: openvino runs {path.name} on the CPU here, found {device}")


def _require_file(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; expected one that `cspdet export` wrote")
    return path


def _load_onnx_metadata(path: Path) -> ModelMetadata:
    try:
        return read_onnx_metadata(path)
    except ConfigError:  # no onnxruntime: OpenVINO reads .onnx too, but its metadata only through the package onnx
        try:
            import onnx
        except ImportError:
            raise ConfigError(
                f"{path}: reading .onnx needs onnxruntime or onnx: pip install 'cspdet[export]'"
            ) from None  # fmt: skip
    model = onnx.load(str(path))
    return parse_metadata({entry.key: entry.value for entry in model.metadata_props}, str(path))


def _load_torchscript(path: Path, device: str) -> tuple[torch.jit.ScriptModule, ModelMetadata]:
    extra_files: dict[str, str | bytes] = dict.fromkeys((FORMAT_KEY, *ModelMetadata.model_fields), "")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is in maintenance, and says so
            script = torch.jit.load(str(path), map_location=device, _extra_files=extra_files)
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0][:120]
        raise CheckpointError(f"{path}: is no TorchScript file, or a damaged one ({reason})") from None
    found = {key: value.decode() if isinstance(value, bytes) else value for key, value in extra_files.items() if value}
    return script, parse_metadata(found, str(path))
