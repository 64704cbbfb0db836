"""`train.cpu_threads: auto`: as many CPU threads as there are cores that other processes leave free.

torch splits each operation among its threads and waits for the last one. If another process occupies a core, the thread
on that core is late in every operation, and more threads are slower than fewer; `benchmarks/busy_machine.py` measures
this.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

log = logging.getLogger("cspdet")

# Environment variables with which the user, or torchrun, sets the number of threads.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")

PROC_STAT = Path("/proc/stat")  # Linux
SAMPLE_SECONDS = 0.3
CONFIRM_SECONDS = 1.0


def resolve_cpu_threads(requested: int | str, device: torch.device, environ: Mapping[str, str]) -> int | None:
    """Return the number of torch threads for a training run, or None to keep the current number.

    Args:
        requested: `train.cpu_threads`: a number, or auto. With auto, the number of torch threads is limited to the
            number of free cores.
        device: The device on which the run trains. With auto, runs on CUDA devices keep torch's number.
        environ: The environment variables. With auto, a number of threads that they set is kept.
    """
    if requested != "auto":
        return int(requested)
    if device.type != "cpu" or any(name in environ for name in THREAD_VARIABLES):
        return None
    threads, free = torch.get_num_threads(), free_cores()
    if free is not None and round(free) < threads:
        free = max(free, free_cores(CONFIRM_SECONDS) or 0)  # a process may just have ended
    if free is None or round(free) >= threads:
        return None
    limited = max(1, round(free))
    log.info(
        "train.cpu_threads: %d of %d, because other processes use the CPU (%.1f cores are free)", limited, threads, free
    )
    return limited


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Use this number of torch threads within the context. None changes nothing."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if count is not None:
            torch.set_num_threads(before)


def free_cores(seconds: float = SAMPLE_SECONDS) -> float | None:
    """Measure how many of the cores that this process may use are idle.

    Args:
        seconds: Duration of the measurement, in which this thread sleeps.

    Returns:
        The number of idle cores, averaged over `seconds`; None if the system has no /proc/stat.
    """
    if not PROC_STAT.is_file():
        return None
    before = read_core_ticks(PROC_STAT.read_text(encoding="utf-8"))
    time.sleep(seconds)
    after = read_core_ticks(PROC_STAT.read_text(encoding="utf-8"))
    cores = [core for core in os.sched_getaffinity(0) if core in before and core in after]
    return sum(_idle_fraction(before[core], after[core]) for core in cores) if cores else None


def read_core_ticks(stat: str) -> dict[int, tuple[int, int]]:
    """Return the (idle, total) clock ticks of each core, from the text of /proc/stat (proc(5)).

    Idle ticks include the time in which a core waits for a disk.
    """
    ticks = {}
    for line in stat.splitlines():
        name, *values = line.split()
        if name.startswith("cpu") and name[3:].isdecimal():
            numbers = [int(value) for value in values[:8]]  # user, nice, system, idle, iowait, irq, softirq, steal
            ticks[int(name[3:])] = numbers[3] + numbers[4], sum(numbers)
    return ticks


def _idle_fraction(before: tuple[int, int], after: tuple[int, int]) -> float:
    """Return the fraction of time in which a core was idle; 1 if no tick has passed."""
    idle, total = after[0] - before[0], after[1] - before[1]
    return min(1.0, idle / total) if total > 0 else 1.0
