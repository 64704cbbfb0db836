"""Watchdog of a distributed run: reports the missing rank when a collective times out."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

from cspdet.errors import UserError

log = logging.getLogger("cspdet")

POLL_INTERVAL_S = 1.0


class Watchdog:
    """Publishes the progress of this rank, and exits the process if a collective does not finish before the timeout.

    torch's own timeout names the failed operation but not the missing rank, and reports nothing if NCCL hangs.
    """

    def __init__(self, rank: int, world_size: int, store: dist.Store, timeout_s: float):
        self.rank, self.world_size, self.timeout_s = rank, world_size, timeout_s
        self._store = store
        self._waiting_since: float | None = None
        self._operation, self._location, self._count = "", "", 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Start the watchdog thread."""
        self.set_progress("the start")
        self._thread.start()

    def stop(self) -> None:
        """Stop the watchdog thread and wait for it."""
        self._stopped.set()
        self._thread.join()

    def set_progress(self, location: str) -> None:
        """Publish the position of this process in the run; all ranks publish the same positions in the same order."""
        self._location = location
        self._publish(location)

    def _publish(self, location: str) -> None:
        self._count += 1
        self._store.set(_key(self.rank), f"{self._count} {socket.gethostname()} {location}")

    @contextmanager
    def guard(self, operation: str) -> Iterator[None]:
        """Watch a collective: on timeout, the process exits with an error."""
        self._publish(f"{self._location}, {operation}")
        before = self._operation, self._waiting_since
        self._operation, self._waiting_since = operation, time.monotonic()
        try:
            yield
        finally:
            self._operation, self._waiting_since = before[0], None if before[1] is None else time.monotonic()

    def to_user_error(self, error: Exception) -> UserError:
        """Return the error for a failed collective, with the ranks that did not reach the collective."""
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
                os._exit(2)  # the main thread is blocked in the backend and cannot handle signals or exceptions

    def _stragglers(self) -> str:
        """Describe the ranks that are behind the others, with their last position."""
        reports = {}
        for rank in range(self.world_size):
            key = _key(rank)
            if self._store.check([key]):
                count, host, location = self._store.get(key).decode().split(" ", 2)
                reports[rank] = (int(count), host, location)
        unheard = [f"no message from rank {rank}" for rank in range(self.world_size) if rank not in reports]
        max_count = max((count for count, _, _ in reports.values()), default=0)
        behind = [
            f"rank {rank} on {host} was last at {location}"
            for rank, (count, host, location) in reports.items()
            if count < max_count
        ]
        return "; ".join(unheard + behind) or "every rank is at the same place"


def _key(rank: int) -> str:
    return f"cspdet/rank{rank}"
