"""Files written by `cspdet export`: the engines that read them, and their metadata."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from cspdet.config.user_modules import USER_NAME
from cspdet.errors import CheckpointError, ConfigError, UserError
from cspdet.inference.config import AUTO
from cspdet.inference.engines.base import Engine
from cspdet.inference.engines.registry import engine_class, engine_classes
from cspdet.inference.engines.source import EngineOptions
from cspdet.inference.metadata import ModelMetadata
from cspdet.io.integrity import check_integrity


def readers(suffix: str) -> list[type[Engine]]:
    """Return the built-in engines that read files with this suffix, in registry order."""
    return [engine for engine in engine_classes() if suffix in engine.suffixes]


def is_exported(path: str | Path, backend: str = AUTO) -> bool:
    """Return whether a path has the suffix of an exported file that a built-in engine or `backend` reads."""
    suffix = Path(path).suffix
    if USER_NAME.fullmatch(backend) and suffix in engine_class(backend).suffixes:
        return True
    return bool(suffix) and bool(readers(suffix))


def read_exported_metadata(path: str | Path, backend: str = AUTO) -> ModelMetadata:
    """Read the metadata of an exported file.

    Args:
        path: The file.
        backend: Name of an engine. If it is user-defined and reads this suffix, it is used; if not, the first built-in
            engine that reads the suffix.

    Raises:
        CheckpointError: The file is missing or damaged, or was not written by `cspdet export`.
        ConfigError: The package that reads such files is not installed.
    """
    path = _require_file(path)
    check_integrity(path)
    if USER_NAME.fullmatch(backend) and path.suffix in (engine := engine_class(backend)).suffixes:
        return engine.read_metadata(path)
    return readers(path.suffix)[0].read_metadata(path)


def load_exported(path: str | Path, backend: str, options: EngineOptions) -> Engine:
    """Load an exported file into an engine.

    Args:
        path: The file.
        backend: Name of an engine that reads files with this suffix.
        options: Device, precision and CPU options.

    Raises:
        CheckpointError: The file is missing, damaged or not from `cspdet export`, or its outputs contradict its
            metadata.
        ConfigError: The engine does not read such files, or does not support these options.
    """
    path = _require_file(path)
    engine = engine_class(backend)
    if path.suffix not in engine.suffixes:
        names = " or ".join(reader.name for reader in readers(path.suffix))
        raise ConfigError(f"--backend: {path.name} is read by {names}; found {backend!r}")
    metadata = engine.read_metadata(path)
    _check_options(engine, path, metadata, options)
    loaded = engine.from_file(path, metadata, options)
    _check_outputs(loaded, path)
    return loaded


def _check_outputs(engine: Engine, path: Path) -> None:
    """Run one image, and raise CheckpointError if the outputs are not those that the metadata describes."""
    metadata, (height, width) = engine.metadata, engine.size_hw
    try:
        outputs = engine(torch.zeros(1, 3, height, width, dtype=torch.uint8))
    except UserError:
        raise
    except Exception as error:  # the runtimes have their own exceptions
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: does not run for an image of {height}x{width}: {reason}") from None
    found, expected = [tuple(values.shape) for values in outputs], _output_shapes(metadata)
    if metadata.outputs == "detections":
        found = [(0, *shape[1:]) for shape in found]  # one row per detection
    if found != expected:
        raise CheckpointError(
            f"{path}: the metadata does not describe its network: {metadata.outputs} outputs for "
            f"{len(metadata.class_names)} classes have the shapes {expected}, found {found}"
        )
    if not all(bool(values.isfinite().all()) for values in outputs):
        raise CheckpointError(f"{path}: the outputs of its network are not finite (NaN or infinity)")


def _output_shapes(metadata: ModelMetadata) -> list[tuple[int, ...]]:
    """Return the shapes of the outputs for one image of the input size; with built-in NMS, for 0 detections."""
    num_classes, (height, width) = len(metadata.class_names), metadata.size_hw
    if metadata.outputs == "logits":
        return [(1, num_classes)]
    if metadata.outputs == "detections":
        return [(0, 7)]
    anchors = () if metadata.head is None else metadata.head.anchors
    levels: list[tuple[int, ...]] = [
        (1, len(level), height // stride, width // stride, 5 + num_classes)
        for level, stride in zip(anchors, metadata.strides, strict=True)
    ]
    if metadata.outputs == "raw":
        return levels
    num_priors = sum(math.prod(shape[1:4]) for shape in levels)
    return [(1, num_priors, 4), (1, num_priors, num_classes)]


def _check_options(engine: type[Engine], path: Path, metadata: ModelMetadata, options: EngineOptions) -> None:
    engine.check_device(options.device)
    if metadata.precision == "int8" and options.precision in ("fp32", "int8"):
        return
    if options.precision == "int8":
        raise ConfigError(
            f"{path}: holds {metadata.precision} weights; int8 needs calibration images: "
            "cspdet export MODEL --format onnx --precision int8 --calibration DIR"
        )
    if options.precision not in engine.file_precisions:
        expected = " or ".join(name for name in engine.file_precisions if name != "int8")
        raise ConfigError(f"--precision: for {path.name} expected {expected}, found {options.precision}")


def _require_file(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; expected one that `cspdet export` wrote")
    return path
