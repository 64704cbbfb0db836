"""Creation of the engine for a model: the requested engine, or the fastest one whose outputs agree with torch."""

from __future__ import annotations

import logging

import torch
from torch import nn

from cspdet.device import select_device
from cspdet.errors import ConfigError
from cspdet.inference.config import AUTO, EngineConfig
from cspdet.inference.engines.base import Engine
from cspdet.inference.engines.exported import load_exported
from cspdet.inference.engines.registry import engine_class
from cspdet.inference.engines.selection import build_fastest, load_fastest
from cspdet.inference.engines.source import EngineOptions, NetworkSource
from cspdet.inference.metadata import ModelMetadata, build_metadata
from cspdet.models.bundle import ModelBundle

log = logging.getLogger("cspdet")


def build_engine(bundle: ModelBundle, config: EngineConfig) -> Engine:
    """Create the engine for a model, which is a network or an exported file.

    Args:
        bundle: The model, as returned by `load_model`.
        config: Engine, precision, device, input size and number of threads.

    Raises:
        ConfigError: The machine or the model does not support the engine, precision, device or input size.
        CheckpointError: The file is corrupt.
    """
    if bundle.network is None:
        return _build_from_file(bundle, config)
    if config.size is not None:
        bundle = bundle.with_input_size(config.size, "--size")
    return build_network_engine(bundle.torch_network, build_metadata(bundle), config)


def build_network_engine(network: nn.Module, metadata: ModelMetadata, config: EngineConfig) -> Engine:
    """Create the engine for any network with known metadata; `config.size` has no effect.

    Raises:
        ConfigError: The machine or the network does not support the engine, precision or device.
    """
    options = _resolve(config)
    if options.precision == "int8":
        raise ConfigError(
            "--precision: int8 needs calibration images; `cspdet export MODEL --format onnx --precision int8 "
            "--calibration DIR` writes an int8 file"
        )
    source = NetworkSource(network, metadata)

    def build(backend: str, backend_options: EngineOptions) -> Engine:
        engine = engine_class(backend)
        _check_options(engine, backend_options)
        return engine.from_network(source, backend_options)

    engine = build_fastest(source, options, build) if config.backend == AUTO else build(config.backend, options)
    log.info("%s: %s", metadata.name, engine)
    return engine


def _build_from_file(bundle: ModelBundle, config: EngineConfig) -> Engine:
    options = _resolve(config)
    assert bundle.path is not None
    if config.backend == AUTO:
        engine = load_fastest(bundle.path, options)
    else:
        engine = load_exported(bundle.path, config.backend, options)
    if config.size is not None:
        try:
            engine.check_size(config.size)
        except ValueError as error:
            raise ConfigError(f"--size: {bundle.path.name}: {error}") from None
        input_ = engine.metadata.input.model_copy(update={"size": config.size})
        engine.metadata = engine.metadata.model_copy(update={"input": input_})
    log.info("%s: %s", bundle.path.name, engine)
    return engine


def _resolve(config: EngineConfig) -> EngineOptions:
    """Check the config, select the device, set torch's number of threads, and return the engine options."""
    precision = config.check()
    device = select_device(config.device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    return EngineOptions(device, precision, config.threads, config.cpu_kernels)


def _check_options(engine: type[Engine], options: EngineOptions) -> None:
    engine.check_device(options.device)
    precisions = engine.network_precisions(options.device)
    if options.precision not in precisions:
        raise ConfigError(
            f"--precision: {engine.name} on {options.device.type} computes in {' or '.join(precisions)}, "
            f"found {options.precision}"
        )
