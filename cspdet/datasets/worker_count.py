"""Number of loader processes: by cores, device and shared memory."""

from __future__ import annotations

import logging
import os
import sys

from cspdet.datasets.config import Workers

log = logging.getLogger("cspdet")

SHARED_MEMORY = "/dev/shm"
USABLE_FRACTION = 0.9  # of the shared memory, the rest for labels and other programs
PREFETCH_FACTOR = 2  # batches that each loader process prepares ahead


def resolve_num_workers(
    requested: Workers, device_type: str, num_processes: int = 1, batch_bytes: int | None = None
) -> int:  # fmt: skip
    """Return the number of loader processes.

    With `auto`, the number is one per core for training on a GPU, and one per four cores for training on the CPU, where
    the network needs the other cores. The cores are divided by `num_processes`. The maximum is 8.

    Batches are passed through shared memory. If the shared memory is too small, as in many containers, the number is
    reduced, if necessary to 0. A requested number is reduced, too.

    Args:
        requested: The number of processes, or auto.
        device_type: Device of the batches: "cpu" or "cuda".
        num_processes: Number of training processes on this machine.
        batch_bytes: Size of a batch; None: unknown.
    """
    workers = _workers_by_cores(device_type, num_processes) if requested == "auto" else requested
    free = free_shared_memory()
    if not workers or not batch_bytes or free is None:
        return workers
    return _reduce_to_memory(workers, batch_bytes, free // num_processes)


def _reduce_to_memory(workers: int, batch_bytes: int, free: int) -> int:
    """Return the number of processes whose batches fit into `free` bytes of shared memory; warn if it is reduced."""
    # The training process holds two more: the current batch and the next one.
    most = max(0, (int(USABLE_FRACTION * free) // batch_bytes - 2) // PREFETCH_FACTOR)
    if most < workers:
        log.warning(
            "%d loader processes instead of %d: %s has %.0f MB free, and a batch takes %.1f MB; docker run --shm-size "
            "makes it larger", most, workers, SHARED_MEMORY, free / 1e6, batch_bytes / 1e6,
        )  # fmt: skip
    return min(most, workers)


def _workers_by_cores(device_type: str, num_processes: int) -> int:
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    cores //= num_processes
    return min(8, cores if device_type == "cuda" else cores // 4)


def free_shared_memory() -> int | None:
    """Return the free shared memory in bytes; None if it is unknown (not Linux)."""
    if sys.platform != "linux":
        return None
    try:
        status = os.statvfs(SHARED_MEMORY)
    except OSError:  # not mounted
        return 0
    return status.f_bavail * status.f_frsize
