"""`--backend auto`: selection of the fastest installed engine whose outputs agree with a reference."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import Tensor

from cspdet.errors import ConfigError, UserError
from cspdet.inference.engines.base import Engine
from cspdet.inference.engines.exported import load_exported, readers
from cspdet.inference.engines.parity import parity_error, probe_inputs
from cspdet.inference.engines.registry import engine_classes
from cspdet.inference.engines.source import EngineOptions, NetworkSource
from cspdet.models import Detector

log = logging.getLogger("cspdet")

MIN_TIMING_SECONDS = 0.5  # minimum total time of the timed forward passes per candidate, after one warm-up pass
MIN_TIMING_PASSES = 3


def build_fastest(
    source: NetworkSource, options: EngineOptions, build: Callable[[str, EngineOptions], Engine]
) -> Engine:
    """Create the engine that is fastest for one image, among those whose outputs agree with torch in fp32.

    Args:
        source: The network. If it is not a detector, torch is used.
        options: Device, precision and CPU options.
        build: Function that creates an engine by name.

    Raises:
        ConfigError: No engine can run the network with these options.
    """
    if not isinstance(source.network, Detector):  # other engines may fail, and their outputs cannot be compared
        return build("torch", options)
    reference = build("torch", replace(options, precision="fp32"))
    return select_fastest(_installed_engines(options, build, reference), reference)


def _installed_engines(
    options: EngineOptions, build: Callable[[str, EngineOptions], Engine], reference: Engine
) -> dict[str, Callable[[], Engine]]:
    """Return functions that create the installed engines for the device, by engine name."""
    candidates: dict[str, Callable[[], Engine]] = {}
    for engine in engine_classes():
        if options.device.type not in engine.auto_devices:
            continue
        if not engine.is_installed():
            log.info("auto: %s is not installed", engine.name)
        elif engine.name == "torch" and options.precision == "fp32":
            candidates[engine.name] = lambda: reference
        else:
            candidates[engine.name] = partial(build, engine.name, options)
    return candidates


def load_fastest(path: Path, options: EngineOptions) -> Engine:
    """Load an exported file into the fastest engine that reads it.

    With precision fp32 and raw outputs, all engines whose outputs agree with the first engine are timed. In other cases
    the outputs are not compared, and the first engine that supports the precision is used.

    Raises:
        CheckpointError, ConfigError: No engine can load the file with these options.
    """
    all_readers = readers(path.suffix)
    usable = [engine for engine in all_readers if engine.is_installed() and options.device.type in engine.auto_devices]
    if options.precision != "fp32":
        usable = [engine for engine in usable if options.precision in engine.file_precisions] or usable
        return load_exported(path, (usable or all_readers)[0].name, options)
    first, *others = usable or all_readers[:1]
    reference = load_exported(path, first.name, options)
    if not others or reference.metadata.outputs != "raw":
        return reference
    candidates: dict[str, Callable[[], Engine]] = {
        engine.name: partial(load_exported, path, engine.name, options) for engine in others
    }
    candidates[first.name] = lambda: reference
    return select_fastest(candidates, reference)


def _build_and_compare(
    build: Callable[[], Engine], reference: Engine, images: Sequence[Tensor], expected: list[tuple[Tensor, ...]]
) -> Engine | str:
    """Create an engine; return the engine, or the reason why it cannot replace the reference."""
    try:
        engine = build()
        if engine is reference:
            return engine
        outputs = [engine(image) for image in images]
        problem = parity_error(outputs, expected, reference.anchors, engine.precision, reference.size_hw)
    except (UserError, RuntimeError, ImportError) as error:
        return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    return engine if problem is None else problem


def select_fastest(candidates: dict[str, Callable[[], Engine]], reference: Engine) -> Engine:
    """Create and time all candidates that agree with the reference; return the fastest. Failures are logged.

    Args:
        candidates: Functions that create an engine, by name.
        reference: The engine whose outputs the candidates must reproduce.

    Raises:
        ConfigError: All candidates failed.
    """
    images = probe_inputs(reference.size_hw)
    expected = [reference(image.to(reference.device)) for image in images]
    times: dict[str, tuple[float, Engine]] = {}
    problems = []
    for name, build in candidates.items():
        engine = _build_and_compare(build, reference, images, expected)
        if isinstance(engine, str):
            problems.append(f"{name}: {engine}")
            log.warning("auto: %s is skipped: %s", name, engine)
        else:
            times[name] = (time_forward(engine), engine)
    if not times:
        raise ConfigError("--backend auto: no engine can run this model", *problems)
    listed = ", ".join(f"{name} {1000 * seconds:.1f} ms" for name, (seconds, _) in times.items())
    log.info("auto: %s", listed)
    return min(times.values(), key=lambda timed: timed[0])[1]


def time_forward(engine: Engine) -> float:
    """Return the shortest time, in seconds, of several forward passes of one image at the engine's input size."""
    (image, _) = probe_inputs(engine.size_hw)
    image = image.to(engine.device)
    engine(image)
    engine.synchronize()
    seconds: list[float] = []
    while len(seconds) < MIN_TIMING_PASSES or sum(seconds) < MIN_TIMING_SECONDS:
        start = time.perf_counter()
        engine(image)
        engine.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
