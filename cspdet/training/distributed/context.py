"""Distributed training with torchrun: ranks, collectives and devices.

Each process trains on a part of every batch. Batch size, learning rate and weight averaging refer to the whole batch,
so the results are independent of the number of processes, except for the order of floating-point sums.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from cspdet.errors import ConfigError
from cspdet.io.terminal import LogFormatter
from cspdet.structures import Shard
from cspdet.training.distributed.rendezvous import attempt_store
from cspdet.training.distributed.watchdog import Watchdog

log = logging.getLogger("cspdet")

T = TypeVar("T")

# torch's timeout is longer than train.timeout_minutes by this time, so that the watchdog reports first.
GRACE_S = 120.0


class DistributedContext:
    """Process group of a run; without torchrun, a single process. Rank 0 writes files and the log.

    The class is a context manager; the exit destroys the process group. All ranks must call collectives in the same
    order.
    """

    def __init__(self, rank: int = 0, world_size: int = 1, store: dist.Store | None = None, timeout_s: float = 600.0):
        self.rank, self.world_size = rank, world_size
        self._watchdog = None if store is None else Watchdog(rank, world_size, store, timeout_s)

    def __enter__(self) -> DistributedContext:
        if self._watchdog is not None:
            self._watchdog.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._watchdog is not None:
            self._watchdog.stop()
            dist.destroy_process_group()

    @property
    def is_main_process(self) -> bool:
        """True if this process writes files."""
        return self.rank == 0

    @property
    def shard(self) -> Shard:
        """Rank and world size, which determine the part of each batch and dataset that this process handles."""
        return Shard(self.rank, self.world_size)

    def all_reduce_sum(self, values: Tensor) -> Tensor:
        """Return the sum of the tensors of all ranks, without gradient."""
        if self.world_size == 1:
            return values
        total = values.detach().clone()
        with self.collective("adding up"):
            dist.all_reduce(total)
        return total

    def broadcast(self, value: T) -> T:
        """Return the value of rank 0 on every rank."""
        if self.world_size == 1:
            return value
        box: list[Any] = [value]
        with self.collective("receiving from rank 0"):
            dist.broadcast_object_list(box, src=0)
        return cast(T, box[0])

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks, in rank order, on rank 0; return an empty list on other ranks."""
        if self.world_size == 1:
            return [value]
        values: list[Any] | None = [None] * self.world_size if self.is_main_process else None
        with self.collective("gathering on rank 0"):
            dist.gather_object(value, values, dst=0)
        return values or []

    def set_progress(self, location: str) -> None:
        """Publish the position of this process in the run, for the error about a missing rank."""
        if self._watchdog is not None:
            self._watchdog.set_progress(location)

    @contextmanager
    def collective(self, operation: str) -> Iterator[None]:
        """Watch a collective: on timeout, the process exits with an error that names the missing rank."""
        if self._watchdog is None:
            yield
            return
        with self._watchdog.guard(operation):
            try:
                yield
            except RuntimeError as error:  # from gloo: the connection broke because another process ended
                raise self._watchdog.to_user_error(error) from error


def started_by_torchrun() -> bool:
    """Return whether torchrun started this process, according to its environment variables."""
    return "TORCHELASTIC_RUN_ID" in os.environ or ("RANK" in os.environ and "WORLD_SIZE" in os.environ)


def is_main_process() -> bool:
    """Return whether this process is rank 0 or the only process; works before `init_distributed`."""
    return not started_by_torchrun() or int(os.environ.get("RANK", "0")) == 0


def restart_count() -> int:
    """Return the number of restarts of this run by torchrun."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def may_restart() -> bool:
    """Return whether torchrun restarts this run when it fails (`--max-restarts`)."""
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0


def local_device(device: torch.device) -> torch.device:
    """Return the CUDA device of this process, selected by local rank; other devices are returned unchanged.

    Raises:
        ConfigError: torchrun started more processes than there are CUDA devices, or `device` has an index (cuda:1).
    """
    local_rank, local_world_size = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if device.type != "cuda" or local_world_size == 1:
        return device
    count = torch.cuda.device_count()
    if str(device) != "cuda":
        raise ConfigError(
            f"--device: {device} is one device, but torchrun started {local_world_size} processes; use cuda"
        )
    if local_world_size > count:
        raise ConfigError(
            f"torchrun started {local_world_size} processes here, but there are {count} CUDA devices: one each"
        )
    return torch.device("cuda", local_rank)


def init_distributed(device: torch.device, timeout_minutes: float) -> DistributedContext:
    """Join the process group of the run; without torchrun, return a context with a single process.

    Args:
        device: Device of this process, from `local_device`. The backend is NCCL for CUDA and gloo for CPUs.
        timeout_minutes: Timeout for other processes, here and in collectives.

    Raises:
        UserError: Ranks are missing after `timeout_minutes`; the message lists them.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if not started_by_torchrun() or world_size == 1:
        return DistributedContext()
    timeout_s = 60 * timeout_minutes
    rendezvous: tuple[dist.Store, int, int] = next(
        iter(dist.rendezvous("env://", timeout=timedelta(seconds=timeout_s)))
    )
    all_attempts, rank, world_size = rendezvous
    store = attempt_store(all_attempts, rank, world_size, timeout_s)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=dist.PrefixStore("group", store), rank=rank, world_size=world_size,
        timeout=timedelta(seconds=timeout_s + GRACE_S),
    )  # fmt: skip
    if rank > 0:
        _configure_rank_logging(rank)
    return DistributedContext(rank, world_size, store, timeout_s)


def _configure_rank_logging(rank: int) -> None:
    """Configure the log of a rank other than 0: only warnings and errors, prefixed with the rank."""
    log.setLevel(logging.WARNING)
    for handler in log.handlers:
        handler.setFormatter(LogFormatter(f"rank {rank}: "))
