"""What is measured, and what came out: the rows of `cspdet benchmark`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class BenchmarkSpec:
    """One model in one engine. What a worker process is told, as JSON."""

    model: str  # a MODEL, or torchvision:NAME
    backend: str
    precision: str = "fp32"
    size_hw: tuple[int, int] | None = None  # None: the model's own
    batch: int = 1
    threads: int | None = None  # None: all cores
    device: str = "cpu"
    weights: str | None = None
    overrides: tuple[str, ...] = ()
    image: str | None = None  # what goes in end to end; None: a made one of 480x640
    min_score: float = 0.25

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> BenchmarkSpec:
        size = values["size_hw"]
        return cls(**{**values, "size_hw": None if size is None else tuple(size),
                      "overrides": tuple(values["overrides"])})  # fmt: skip


@dataclass(frozen=True)
class Timing:
    """Milliseconds of single passes."""

    passes_ms: tuple[float, ...]

    @property
    def median(self) -> float:
        return float(np.median(self.passes_ms))

    @property
    def p95(self) -> float:
        """The time that 95 of 100 passes do not exceed."""
        return float(np.percentile(self.passes_ms, 95))

    def to_json(self) -> dict[str, float]:
        return {"median": round(self.median, 4), "p95": round(self.p95, 4)}


@dataclass(frozen=True)
class EngineInfo:
    """What a worker tells of the model that it loaded."""

    name: str
    backend: str
    precision: str
    size_hw: tuple[int, int]
    threads: int
    device: str
    task: str  # detection or classification
    end_to_end: bool  # whether it can be timed from a picture to boxes or classes
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class BenchmarkRow:
    """A line of the table."""

    spec: BenchmarkSpec
    engine_info: EngineInfo
    forward: Timing
    end_to_end: Timing | None
    peak_memory_mib: float  # of the worker's process, or of the GPU
    libraries_mib: float  # of that, what the process took before it loaded the model; 0 on a GPU
    bflops: float | None  # of one picture; None: of a file, whose layers are not known
    peak_gflops: float | None  # the matrix product of this machine in the same precision, measured in the same run

    @property
    def fps(self) -> float:
        """Pictures a second, end to end where that was timed."""
        return 1000 * self.spec.batch / (self.end_to_end or self.forward).median

    @property
    def gflops(self) -> float | None:
        """What the forward pass does of the network's operations, in 10^9 a second."""
        return None if self.bflops is None else 1000 * self.bflops * self.spec.batch / self.forward.median

    @property
    def fraction_of_peak(self) -> float | None:
        return None if self.gflops is None or self.peak_gflops is None else self.gflops / self.peak_gflops

    def to_json(self) -> dict[str, Any]:
        """The keys of `cspdet benchmark --json`."""
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
            "share_of_peak": None if self.fraction_of_peak is None else round(self.fraction_of_peak, 4),
            "passes": len(self.forward.passes_ms),
            "device": self.engine_info.device,
            "versions": self.engine_info.versions,
        }


def interleave(passes: int, rounds: int) -> Sequence[int]:
    """How many passes each of at most `rounds` rounds has, as even as can be: 10 in 4 rounds are 3, 3, 2, 2."""
    rounds = min(rounds, passes)
    return [passes // rounds + (i < passes % rounds) for i in range(rounds)]
