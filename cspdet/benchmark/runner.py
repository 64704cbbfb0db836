"""Measure benchmark rows in separate processes, in interleaved rounds.

Every round runs a few passes of each row, and the matrix multiplication in the same precision. Thus a change of the
machine's speed during the run affects all rows alike: ratios between rows are reliable, even though absolute times vary
between runs.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cspdet.benchmark.ipc import Worker, WorkerError
from cspdet.benchmark.matmul_peak import DTYPES
from cspdet.benchmark.opencv_row import OpenCvWorker
from cspdet.benchmark.rows import (
    OPENCV,
    BenchmarkRow,
    BenchmarkSpec,
    EngineInfo,
    Timing,
    interleave,
    with_distinct_names,
)
from cspdet.benchmark.target import count_bflops

log = logging.getLogger("cspdet")

NUM_ROUNDS = 5
WARMUP_PASSES = 3  # untimed passes before the first round of a row
PAUSE_S = 0.3  # seconds between rows, until the threads of the previous row stop spinning


@dataclass
class _RowState:
    """State of a benchmark row: its worker and the times measured so far."""

    spec: BenchmarkSpec
    worker: Worker
    engine_info: EngineInfo
    forward_ms: list[float] = field(default_factory=list)
    end_to_end_ms: list[float] = field(default_factory=list)
    error: str | None = None


def run_benchmarks(
    specs: Sequence[BenchmarkSpec], repeat: int, opencv_python: Path | None = None
) -> tuple[list[BenchmarkRow], list[str]]:
    """Measure all rows.

    Args:
        specs: The specifications of the rows.
        repeat: Number of timed passes per row.
        opencv_python: Path of a Python interpreter with OpenCV for the OpenCV rows; None: the current interpreter.

    Returns:
        The measured rows, and the error messages of the rows that failed.
    """
    problems: list[str] = []
    with ExitStack() as stack:
        # All workers start in parallel, because their imports take seconds.
        started = [None if spec.backend == OPENCV else stack.enter_context(_worker(spec.threads)) for spec in specs]
        measured: list[_RowState] = []
        for spec, worker in zip(specs, started, strict=True):
            try:
                measured.append(_load(spec, worker, stack, opencv_python))
            except WorkerError as error:
                problems += [f"{spec.model} {spec.backend} {spec.precision}: {line}" for line in error.problems]
        products = {
            key: stack.enter_context(_matmul_worker(*key))
            for key in sorted({_matmul_key(row.spec) for row in measured if _matmul_key(row.spec)[0] in DTYPES})
        }
        peaks: dict[tuple[str, str, int | None], list[float]] = {key: [] for key in products}
        rounds = interleave(repeat, NUM_ROUNDS)
        for round_index, passes in enumerate(rounds):
            log.info("round %d of %d: %d passes of %d rows", round_index + 1, len(rounds), passes, len(measured))
            for key, product in products.items():
                time.sleep(PAUSE_S)
                product.request({"do": "gflops"})  # untimed: wakes up the threads
                peaks[key].append(max(product.request({"do": "gflops"})["gflops"] for _ in range(2)))
            for row in measured:
                _run_round(row, passes, first=round_index == 0)
        rows = with_distinct_names([_to_row(row, peaks) for row in measured if row.error is None])
        problems += [row.error for row in measured if row.error is not None]
    return rows, problems


def _run_round(row: _RowState, passes: int, *, first: bool) -> None:
    """Time `passes` passes of a row, and add the times to the row; after an error, skip the row in later rounds."""
    if row.error is not None:
        return
    time.sleep(PAUSE_S)
    try:
        if first:
            row.worker.request({"do": "forward", "passes": WARMUP_PASSES})
        row.forward_ms += row.worker.request({"do": "forward", "passes": passes})["ms"]
        if row.engine_info.end_to_end:
            if first:
                row.worker.request({"do": "end_to_end", "passes": WARMUP_PASSES})
            row.end_to_end_ms += row.worker.request({"do": "end_to_end", "passes": passes})["ms"]
    except WorkerError as error:
        row.error = f"{row.spec.model} {row.spec.backend} {row.spec.precision}: {error.problems[0]}"


def _load(spec: BenchmarkSpec, worker: Worker | None, stack: ExitStack, opencv_python: Path | None) -> _RowState:
    if worker is None:
        row = stack.enter_context(OpenCvWorker(spec, opencv_python))
        return _RowState(spec, row.worker, row.engine_info)
    response = worker.request({"do": "load", "row": spec.to_json()})["engine_info"]
    engine_info = EngineInfo(**{**response, "size_hw": tuple(response["size_hw"])})
    log.info("%s: %s %s is loaded", engine_info.name, engine_info.backend, engine_info.precision)
    return _RowState(spec, worker, engine_info)


@contextmanager
def _worker(threads: int | None) -> Iterator[Worker]:
    """Start a worker process and close it on exit; `threads` limits its OpenMP and MKL threads."""
    environment = dict(os.environ)
    if threads is not None:
        environment |= {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    worker = Worker([sys.executable, "-m", "cspdet.benchmark.worker"], environment)
    try:
        yield worker
    finally:
        worker.close()


@contextmanager
def _matmul_worker(precision: str, device: str, threads: int | None) -> Iterator[Worker]:
    with _worker(threads) as worker:
        worker.request({"do": "matmul", "precision": precision, "device": device})
        yield worker


def _matmul_key(spec: BenchmarkSpec) -> tuple[str, str, int | None]:
    """Return precision, device and threads of a row; rows with the same key share one measurement of the peak."""
    return spec.precision, spec.device, spec.threads


def _to_row(row: _RowState, peaks: dict[tuple[str, str, int | None], list[float]]) -> BenchmarkRow:
    memory = row.worker.request({"do": "memory"})
    peak = peaks.get(_matmul_key(row.spec))
    return BenchmarkRow(
        row.spec, row.engine_info, Timing(tuple(row.forward_ms)),
        Timing(tuple(row.end_to_end_ms)) if row.end_to_end_ms else None,
        memory["peak_mib"], memory["libraries_mib"], count_bflops(row.spec, row.engine_info.size_hw),
        sorted(peak)[len(peak) // 2] if peak else None,
    )  # fmt: skip
