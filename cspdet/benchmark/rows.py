"""Data classes for the rows of `cspdet benchmark`: the specification of a row and its results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from cspdet.io.names import distinct_names

OPENCV = "opencv"  # a backend that only `cspdet benchmark` supports


@dataclass(frozen=True)
class BenchmarkSpec:
    """Specification of a row: a model, an engine and their options; sent to the worker process as JSON."""

    model: str  # a MODEL, or torchvision:NAME
    backend: str
    precision: str = "fp32"
    size_hw: tuple[int, int] | None = None  # None: the input size of the model
    batch: int = 1
    threads: int | None = None  # None: all cores
    device: str = "cpu"
    weights: str | None = None
    overrides: tuple[str, ...] = ()
    image: str | None = None  # input of the end-to-end passes; None: a synthetic image of 480x640
    min_score: float = 0.25
    user_modules: tuple[str, ...] = ()  # modules to import first, for user-defined classes

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON-compatible dict."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> BenchmarkSpec:
        """Create a spec from the dict that `to_json` returned."""
        lists = ("size_hw", "overrides", "user_modules")
        return cls(**values | {key: tuple(values[key]) for key in lists if values[key] is not None})


@dataclass(frozen=True)
class Timing:
    """Times of single passes (calls of the timed function) in milliseconds."""

    passes_ms: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median of the times in milliseconds."""
        return float(np.median(self.passes_ms))

    @property
    def p95(self) -> float:
        """95th percentile of the times in milliseconds."""
        return float(np.percentile(self.passes_ms, 95))

    def to_json(self) -> dict[str, float]:
        """Return median and 95th percentile in milliseconds, rounded."""
        return {"median": round(self.median, 4), "p95": round(self.p95, 4)}


@dataclass(frozen=True)
class EngineInfo:
    """Description of the model and engine that a worker has loaded."""

    name: str
    backend: str
    precision: str
    size_hw: tuple[int, int]
    threads: int
    device: str
    task: str  # detection or classification
    end_to_end: bool  # whether it can be timed from an image to boxes or classes
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class BenchmarkRow:
    """Measurements of one row of the table."""

    spec: BenchmarkSpec
    engine_info: EngineInfo
    forward: Timing
    end_to_end: Timing | None
    peak_memory_mib: float  # of the worker process, or of the GPU
    libraries_mib: float  # memory before the model was loaded; 0 on a GPU
    bflops: float | None  # per image; None: an exported file
    peak_gflops: float | None  # matrix multiplication in the same precision, measured in the same run

    @property
    def fps(self) -> float:
        """Images per second, computed from the end-to-end times; if they were not measured, from the forward times."""
        return 1000 * self.spec.batch / (self.end_to_end or self.forward).median

    @property
    def gflops(self) -> float | None:
        """Throughput of the forward pass in GFLOP/s; None if the number of operations is unknown."""
        return None if self.bflops is None else 1000 * self.bflops * self.spec.batch / self.forward.median

    @property
    def fraction_of_peak(self) -> float | None:
        """Ratio of `gflops` to `peak_gflops`, the throughput of the matrix multiplication; None if one is unknown."""
        return None if self.gflops is None or self.peak_gflops is None else self.gflops / self.peak_gflops

    def to_json(self) -> dict[str, Any]:
        """Return the row as a JSON-compatible dict, as `cspdet benchmark --json` writes it."""
        return {
            "model": self.engine_info.name,
            "backend": self.engine_info.backend,
            "precision": self.engine_info.precision,
            "size": list(self.engine_info.size_hw),
            "batch": self.spec.batch,
            "threads": self.engine_info.threads,
            "forward_ms": self.forward.to_json(),
            "end_to_end_ms": None if self.end_to_end is None else self.end_to_end.to_json(),
            "fps": round(self.fps, 3),
            "peak_memory_mib": round(self.peak_memory_mib, 1),
            "libraries_mib": round(self.libraries_mib, 1),
            "bflops": self.bflops,
            "gflops": None if self.gflops is None else round(self.gflops, 2),
            "gemm_peak_gflops": None if self.peak_gflops is None else round(self.peak_gflops, 2),
            "fraction_of_peak": None if self.fraction_of_peak is None else round(self.fraction_of_peak, 4),
            "passes": len(self.forward.passes_ms),
            "device": self.engine_info.device,
            "versions": self.engine_info.versions,
        }


def with_distinct_names(rows: Sequence[BenchmarkRow]) -> list[BenchmarkRow]:
    """Return the rows with distinct model names; parts of the model paths replace equal names, such as `best`."""
    models_of: dict[str, set[str]] = {}
    for row in rows:
        models_of.setdefault(row.engine_info.name, set()).add(row.spec.model)
    names: dict[str, str] = {}
    for models in models_of.values():
        if len(models) > 1:
            names |= zip(sorted(models), distinct_names(sorted(models)), strict=True)
    return [
        replace(row, engine_info=replace(row.engine_info, name=names.get(row.spec.model, row.engine_info.name)))
        for row in rows
    ]


def interleave(passes: int, rounds: int) -> Sequence[int]:
    """Distribute passes evenly over at most `rounds` rounds.

    Returns:
        The number of passes in each round; for example 3, 3, 2, 2 for 10 passes in 4 rounds.
    """
    rounds = min(rounds, passes)
    return [passes // rounds + (i < passes % rounds) for i in range(rounds)]
