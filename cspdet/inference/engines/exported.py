"""Files written by `cspdet export`: the engines that read them, and their metadata."""

from __future__ import annotations

from pathlib import Path

from cspdet.errors import CheckpointError, ConfigError
from cspdet.inference.config import AUTO
from cspdet.inference.engines.base import Engine
from cspdet.inference.engines.registry import engine_class, engine_classes
from cspdet.inference.engines.source import EngineOptions
from cspdet.inference.metadata import ModelMetadata


def readers(suffix: str) -> list[type[Engine]]:
    """Return the built-in engines that read files with this suffix, in registry order."""
    return [engine for engine in engine_classes() if suffix in engine.suffixes]


def is_exported(path: str | Path, backend: str = AUTO) -> bool:
    """Return whether a path has the suffix of an exported file that a built-in engine or `backend` reads."""
    suffix = Path(path).suffix
    if backend != AUTO and suffix in engine_class(backend).suffixes:
        return True
    return bool(suffix) and bool(readers(suffix))


def read_exported_metadata(path: str | Path, backend: str = AUTO) -> ModelMetadata:
    """Read the metadata of an exported file.

    Args:
        path: The file.
        backend: Name of an engine that reads files with this suffix; auto: the first built-in engine that does.

    Raises:
        CheckpointError: The file is missing or corrupt, or was not written by `cspdet export`.
        ConfigError: The package that reads such files is not installed.
    """
    path = _require_file(path)
    engine = readers(path.suffix)[0] if backend == AUTO else engine_class(backend)
    return engine.read_metadata(path)


def load_exported(path: str | Path, backend: str, options: EngineOptions) -> Engine:
    """Load an exported file into an engine.

    Args:
        path: The file.
        backend: Name of an engine that reads files with this suffix.
        options: Device, precision and CPU options.

    Raises:
        CheckpointError: See `read_exported_metadata`.
        ConfigError: The engine does not read such files, or does not support these options.
    """
    path = _require_file(path)
    engine = engine_class(backend)
    if path.suffix not in engine.suffixes:
        names = " or ".join(reader.name for reader in readers(path.suffix))
        raise ConfigError(f"--backend: {path.name} is read by {names}; found {backend!r}")
    metadata = engine.read_metadata(path)
    _check_options(engine, path, metadata, options)
    return engine.from_file(path, metadata, options)


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
