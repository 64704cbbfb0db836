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
from cspdet.training.distributed.rendezvous import fresh_part

log = logging.getLogger("cspdet")

T = TypeVar("T")

WATCHED_EVERY_S = 1.0
# Beyond train.timeout_minutes, torch's own limit ends what the watch could not.
GRACE_S = 120.0


class World:
    """All processes of a run; alone unless torchrun started several. Rank 0 writes the files and tells the log.

    Use as a context, which ends the group. The methods that talk must be called by every rank, in the same order.
    """

    def __init__(self, rank: int = 0, size: int = 1, store: dist.Store | None = None, timeout_s: float = 600.0):
        self.rank, self.size = rank, size
        self._watch = None if store is None else Watch(rank, size, store, timeout_s)

    def __enter__(self) -> World:
        if self._watch is not None:
            self._watch.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._watch is not None:
            self._watch.end()
            dist.destroy_process_group()

    @property
    def is_first(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    @property
    def shard(self) -> Shard:
        """This process's part of every batch and set."""
        return Shard(self.rank, self.size)

    def sum(self, values: Tensor) -> Tensor:
        """The sum of every rank's tensor, without gradient."""
        if self.size == 1:
            return values
        total = values.detach().clone()
        with self.talking("adding up"):
            dist.all_reduce(total)
        return total

    def share(self, value: T) -> T:
        """Rank 0's value, at every rank."""
        if self.size == 1:
            return value
        box: list[Any] = [value]
        with self.talking("hearing from rank 0"):
            dist.broadcast_object_list(box, src=0)
        return cast(T, box[0])

    def gather(self, value: T) -> list[T]:
        """Every rank's value in the order of the ranks, at rank 0; nothing elsewhere."""
        if self.size == 1:
            return [value]
        values: list[Any] | None = [None] * self.size if self.is_first else None
        with self.talking("collecting"):
            dist.gather_object(value, values, dst=0)
        return values or []

    def at(self, place: str) -> None:
        """Tell where this process is, for the message about one that never comes."""
        if self._watch is not None:
            self._watch.at(place)

    @contextmanager
    def talking(self, about: str) -> Iterator[None]:
        """What may wait for other ranks: past the time limit, the run ends and names the one that is missing."""
        if self._watch is None:
            yield
            return
        with self._watch.waiting(about):
            try:
                yield
            except RuntimeError as error:  # gloo's, when a connection breaks: the other process is gone
                raise self._watch.explain(error) from error


class Watch:
    """Knows how far every rank has come, and ends this process when another one does not come to a meeting.

    torch's own time-out says which operation failed, not who was missing, and not at all where NCCL hangs.
    """

    def __init__(self, rank: int, size: int, store: dist.Store, timeout_s: float):
        self.rank, self.size, self.timeout_s = rank, size, timeout_s
        self._store = store
        self._since: float | None = None
        self._about, self._place, self._count = "", "", 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        self.at("the start")
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    def at(self, place: str) -> None:
        """Say where this process is; every rank comes to the same places in the same order."""
        self._place = place
        self._tell(place)

    def _tell(self, what: str) -> None:
        self._count += 1
        self._store.set(_key(self.rank), f"{self._count} {socket.gethostname()} {what}")

    @contextmanager
    def waiting(self, about: str) -> Iterator[None]:
        self._tell(f"{self._place}, {about}")
        before = self._about, self._since
        self._about, self._since = about, time.monotonic()
        try:
            yield
        finally:
            self._about, self._since = before[0], None if before[1] is None else time.monotonic()

    def explain(self, error: Exception) -> UserError:
        """A collective that failed, in a line that names who is behind."""
        return UserError(f"rank {self.rank}: {self._about} failed: {self._who()} ({str(error).splitlines()[0]})")

    def _run(self) -> None:
        while not self._ended.wait(WATCHED_EVERY_S):
            since = self._since
            if since is not None and time.monotonic() - since > self.timeout_s:
                log.error(
                    "error: rank %d: waited %.0f minutes (train.timeout_minutes) while %s: %s",
                    self.rank, self.timeout_s / 60, self._about, self._who(),
                )  # fmt: skip
                os._exit(2)  # the main thread hangs inside the backend and hears nothing

    def _who(self) -> str:
        """Who has not come as far as the others."""
        told = {}
        for rank in range(self.size):
            key = _key(rank)
            if self._store.check([key]):
                count, host, place = self._store.get(key).decode().split(" ", 2)
                told[rank] = (int(count), host, place)
        unheard = [f"rank {rank} was never heard of" for rank in range(self.size) if rank not in told]
        most = max((count for count, _, _ in told.values()), default=0)
        behind = [
            f"rank {rank} on {host} was last at {place}" for rank, (count, host, place) in told.items() if count < most
        ]
        return "; ".join(unheard + behind) or "every rank is at the same place"


def _key(rank: int) -> str:
    return f"cspdet/rank{rank}"


def started_by_torchrun() -> bool:
    """Whether the environment says so."""
    return "TORCHELASTIC_RUN_ID" in os.environ or ("RANK" in os.environ and "WORLD_SIZE" in os.environ)


def is_first_process() -> bool:
    """Whether this is rank 0, or the only process: known before the processes have met."""
    return not started_by_torchrun() or int(os.environ.get("RANK", "0")) == 0


def restarts() -> int:
    """How often torchrun has started this run anew after a failure."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def may_restart() -> bool:
    """Whether torchrun will start this run anew when it fails (`--max-restarts`)."""
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0


def own_device(device: torch.device) -> torch.device:
    """The CUDA device of this process: the one of its place on the machine.

    Raises:
        ConfigError: torchrun started more processes than there are devices, or one device was named for all.
    """
    place, here = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if device.type != "cuda" or here == 1:
        return device
    count = torch.cuda.device_count()
    if str(device) != "cuda":
        raise ConfigError(f"--device: {device} is one device, but torchrun started {here} processes; use cuda")
    if here > count:
        raise ConfigError(f"torchrun started {here} processes here, but there are {count} CUDA devices: one each")
    return torch.device("cuda", place)


def join(device: torch.device, timeout_minutes: float) -> World:
    """Meet the other processes of the run; alone where torchrun did not start several.

    device  this process's own, see `own_device`; CUDA talks through NCCL, a CPU through gloo

    Raises:
        UserError: others did not come within `timeout_minutes`; it says which.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if not started_by_torchrun() or size == 1:
        return World()
    timeout_s = 60 * timeout_minutes
    meeting: tuple[dist.Store, int, int] = next(iter(dist.rendezvous("env://", timeout=timedelta(seconds=timeout_s))))
    all_attempts, rank, size = meeting
    store = fresh_part(all_attempts, rank, size, timeout_s)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=dist.PrefixStore("group", store), rank=rank, world_size=size,
        timeout=timedelta(seconds=timeout_s + GRACE_S),
    )  # fmt: skip
    if rank > 0:
        _speak_for(rank)
    return World(rank, size, store, timeout_s)


def _speak_for(rank: int) -> None:
    """Rank 0 tells how the run goes; the others only what goes wrong, and say who they are."""
    log.setLevel(logging.WARNING)
    for handler in log.handlers:
        handler.setFormatter(logging.Formatter(f"rank {rank}: %(message)s"))
