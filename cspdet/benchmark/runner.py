"""Measures rows side by side: a process each, and all of them in turn, since machines change their speed by the minute.

A round gives every row a few passes; the matrix product of the same precision has its turn in every round as well.
Ratios between rows of one run therefore hold where times alone would not.
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
from cspdet.benchmark.opencv_row import OPENCV, OpenCvWorker
from cspdet.benchmark.rows import About, Row, RowSpec, Timing, in_turns
from cspdet.benchmark.work import bflops_of

log = logging.getLogger("cspdet")

ROUNDS = 5
WARM_UP = 3  # passes that do not count, at the start of a row's first round
PAUSE = 0.3  # seconds between rows: threads of the one before stop spinning


@dataclass
class _Measured:
    """What a row has gathered so far."""

    spec: RowSpec
    worker: Worker
    about: About
    forward_ms: list[float] = field(default_factory=list)
    end_to_end_ms: list[float] = field(default_factory=list)
    problem: str | None = None


def measure(specs: Sequence[RowSpec], repeat: int, opencv_python: Path | None = None) -> tuple[list[Row], list[str]]:
    """Time every row `repeat` times: the rows that could be measured, and what is wrong with the others."""
    problems: list[str] = []
    with ExitStack() as stack:
        # started all at once: importing takes each of them seconds
        started = [None if spec.backend == OPENCV else stack.enter_context(_worker(spec.threads)) for spec in specs]
        measured: list[_Measured] = []
        for spec, worker in zip(specs, started, strict=True):
            try:
                measured.append(_load(spec, worker, stack, opencv_python))
            except WorkerError as error:
                problems += [f"{spec.model} {spec.backend} {spec.precision}: {line}" for line in error.problems]
        products = {
            key: stack.enter_context(_product(*key))
            for key in sorted({_product_of(row.spec) for row in measured if _product_of(row.spec)[0] in DTYPES})
        }
        peaks: dict[tuple[str, str, int | None], list[float]] = {key: [] for key in products}
        rounds = in_turns(repeat, ROUNDS)
        for number, passes in enumerate(rounds):
            log.info("round %d of %d: %d passes of %d rows", number + 1, len(rounds), passes, len(measured))
            for key, product in products.items():
                time.sleep(PAUSE)
                product.ask({"do": "gflops"})  # the first product of a turn wakes the threads
                peaks[key].append(max(product.ask({"do": "gflops"})["gflops"] for _ in range(2)))
            for row in measured:
                _turn(row, passes, first=number == 0)
        rows = [_finish(row, peaks) for row in measured if row.problem is None]
        problems += [row.problem for row in measured if row.problem is not None]
    return rows, problems


def _turn(row: _Measured, passes: int, *, first: bool) -> None:
    """One row's passes of one round; a row that fails is out."""
    if row.problem is not None:
        return
    time.sleep(PAUSE)
    try:
        if first:
            row.worker.ask({"do": "forward", "passes": WARM_UP})
        row.forward_ms += row.worker.ask({"do": "forward", "passes": passes})["ms"]
        if row.about.end_to_end:
            if first:
                row.worker.ask({"do": "end_to_end", "passes": WARM_UP})
            row.end_to_end_ms += row.worker.ask({"do": "end_to_end", "passes": passes})["ms"]
    except WorkerError as error:
        row.problem = f"{row.spec.model} {row.spec.backend} {row.spec.precision}: {error.problems[0]}"


def _load(spec: RowSpec, worker: Worker | None, stack: ExitStack, opencv_python: Path | None) -> _Measured:
    if worker is None:
        row = stack.enter_context(OpenCvWorker(spec, opencv_python))
        return _Measured(spec, row.worker, row.about)
    answer = worker.ask({"do": "load", "row": spec.to_json()})["about"]
    about = About(**{**answer, "size_hw": tuple(answer["size_hw"])})
    log.info("%s: %s %s is loaded", about.name, about.backend, about.precision)
    return _Measured(spec, worker, about)


@contextmanager
def _worker(threads: int | None) -> Iterator[Worker]:
    """A process of this interpreter; with `threads`, every library in it has so many."""
    environment = dict(os.environ)
    if threads is not None:
        environment |= {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    worker = Worker([sys.executable, "-m", "cspdet.benchmark.worker"], environment)
    try:
        yield worker
    finally:
        worker.close()


@contextmanager
def _product(precision: str, device: str, threads: int | None) -> Iterator[Worker]:
    with _worker(threads) as worker:
        worker.ask({"do": "product", "precision": precision, "device": device})
        yield worker


def _product_of(spec: RowSpec) -> tuple[str, str, int | None]:
    """What a row is held against."""
    return spec.precision, spec.device, spec.threads


def _finish(row: _Measured, peaks: dict[tuple[str, str, int | None], list[float]]) -> Row:
    memory = row.worker.ask({"do": "memory"})
    peak = peaks.get(_product_of(row.spec))
    return Row(
        row.spec, row.about, Timing(tuple(row.forward_ms)),
        Timing(tuple(row.end_to_end_ms)) if row.end_to_end_ms else None,
        memory["peak_mib"], memory["libraries_mib"], bflops_of(row.spec, row.about.size_hw),
        sorted(peak)[len(peak) // 2] if peak else None,
    )  # fmt: skip
