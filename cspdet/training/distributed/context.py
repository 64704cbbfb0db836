"""One run in several processes, as torchrun starts them: who is who, and all that they tell one another.

Each process has its share of every batch. Nothing that a run computes depends on how many there are, but for the order
in which floating-point sums are taken: the batch, the rate and the average are those of one process.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from cspdet.errors import ConfigError, UserError
from cspdet.structures import Shard
from cspdet.training.distributed.rendezvous import attempt_store

log = logging.getLogger("cspdet")

T = TypeVar("T")

POLL_INTERVAL_S = 1.0
# Beyond train.timeout_minutes, torch's own limit ends what the watch could not.
GRACE_S = 120.0


class DistributedContext:
    """All processes of a run; alone unless torchrun started several. Rank 0 writes the files and tells the log.

    Use as a context, which ends the group. The methods that talk must be called by every rank, in the same order.
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
        """Whether this process writes files."""
        return self.rank == 0

    @property
    def shard(self) -> Shard:
        """This process's part of every batch and set."""
        return Shard(self.rank, self.world_size)

    def all_reduce_sum(self, values: Tensor) -> Tensor:
        """The sum of every rank's tensor, without gradient."""
        if self.world_size == 1:
            return values
        total = values.detach().clone()
        with self.collective("adding up"):
            dist.all_reduce(total)
        return total

    def broadcast(self, value: T) -> T:
        """Rank 0's value, at every rank."""
        if self.world_size == 1:
            return value
        box: list[Any] = [value]
        with self.collective("hearing from rank 0"):
            dist.broadcast_object_list(box, src=0)
        return cast(T, box[0])

    def gather(self, value: T) -> list[T]:
        """Every rank's value in the order of the ranks, at rank 0; nothing elsewhere."""
        if self.world_size == 1:
            return [value]
        values: list[Any] | None = [None] * self.world_size if self.is_main_process else None
        with self.collective("collecting"):
            dist.gather_object(value, values, dst=0)
        return values or []

    def set_progress(self, location: str) -> None:
        """Tell where this process is, for the message about one that never comes."""
        if self._watchdog is not None:
            self._watchdog.set_progress(location)

    @contextmanager
    def collective(self, operation: str) -> Iterator[None]:
        """What may wait for other ranks: past the time limit, the run ends and names the one that is missing."""
        if self._watchdog is None:
            yield
            return
        with self._watchdog.guard(operation):
            try:
                yield
            except RuntimeError as error:  # gloo's, when a connection breaks: the other process is gone
                raise self._watchdog.to_user_error(error) from error


class Watchdog:
    """Knows how far every rank has come, and ends this process when another one does not come to a meeting.

    torch's own time-out says which operation failed, not who was missing, and not at all where NCCL hangs.
    """

    def __init__(self, rank: int, world_size: int, store: dist.Store, timeout_s: float):
        self.rank, self.world_size, self.timeout_s = rank, world_size, timeout_s
        self._store = store
        self._waiting_since: float | None = None
        self._operation, self._location, self._count = "", "", 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        self.set_progress("the start")
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def set_progress(self, location: str) -> None:
        """Say where this process is; every rank comes to the same places in the same order."""
        self._location = location
        self._publish(location)

    def _publish(self, location: str) -> None:
        self._count += 1
        self._store.set(_key(self.rank), f"{self._count} {socket.gethostname()} {location}")

    @contextmanager
    def guard(self, operation: str) -> Iterator[None]:
        self._publish(f"{self._location}, {operation}")
        before = self._operation, self._waiting_since
        self._operation, self._waiting_since = operation, time.monotonic()
        try:
            yield
        finally:
            self._operation, self._waiting_since = before[0], None if before[1] is None else time.monotonic()

    def to_user_error(self, error: Exception) -> UserError:
        """A collective that failed, in a line that names who is behind."""
        return UserError(
            f"rank {self.rank}: {self._operation} failed: {self._stragglers()} ({str(error).splitlines()[0]})"
        )

    def _run(self) -> None:
        while not self._stopped.wait(POLL_INTERVAL_S):
            since = self._waiting_since
            if since is not None and time.monotonic() - since > self.timeout_s:
                log.error(
                    "error: rank %d: waited %.0f minutes (train.timeout_minutes) while %s: %s",
                    self.rank, self.timeout_s / 60, self._operation, self._stragglers(),
                )  # fmt: skip
                os._exit(2)  # the main thread hangs inside the backend and hears nothing

    def _stragglers(self) -> str:
        """Who has not come as far as the others."""
        reports = {}
        for rank in range(self.world_size):
            key = _key(rank)
            if self._store.check([key]):
                count, host, location = self._store.get(key).decode().split(" ", 2)
                reports[rank] = (int(count), host, location)
        unheard = [f"rank {rank} was never heard of" for rank in range(self.world_size) if rank not in reports]
        max_count = max((count for count, _, _ in reports.values()), default=0)
        behind = [
            f"rank {rank} on {host} was last at {location}"
            for rank, (count, host, location) in reports.items()
            if count < max_count
        ]
        return "; ".join(unheard + behind) or "every rank is at the same place"


def _key(rank: int) -> str:
    return f"cspdet/rank{rank}"


def started_by_torchrun() -> bool:
    """Whether the environment says so."""
    return "TORCHELASTIC_RUN_ID" in os.environ or ("RANK" in os.environ and "WORLD_SIZE" in os.environ)


def is_main_process() -> bool:
    """Whether this is rank 0, or the only process: known before the processes have met."""
    return not started_by_torchrun() or int(os.environ.get("RANK", "0")) == 0


def restart_count() -> int:
    """How often torchrun has started this run anew after a failure."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def may_restart() -> bool:
    """Whether torchrun will start this run anew when it fails (`--max-restarts`)."""
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0


def local_device(device: torch.device) -> torch.device:
    """The CUDA device of this process: the one of its place on the machine.

    Raises:
        ConfigError: torchrun started more processes than there are devices, or one device was named for all.
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
    """Meet the other processes of the run; alone where torchrun did not start several.

    device  this process's own, see `own_device`; CUDA talks through NCCL, a CPU through gloo

    Raises:
        UserError: others did not come within `timeout_minutes`; it says which.
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
    """Rank 0 tells how the run goes; the others only what goes wrong, and say who they are."""
    log.setLevel(logging.WARNING)
    for handler in log.handlers:
        handler.setFormatter(logging.Formatter(f"rank {rank}: %(message)s"))
