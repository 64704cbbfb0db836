"""Rendezvous per torchrun restart: isolates the processes of this attempt from earlier attempts.

torchrun uses one store for all restarts. The store keeps the addresses of terminated processes until they are
overwritten. A process that reads such an address would wait for a process that no longer exists.
"""

from __future__ import annotations

import time
import uuid
from datetime import timedelta

import torch.distributed as dist

from cspdet.errors import UserError

POLL_INTERVAL_S = 0.02


def attempt_store(store: dist.Store, rank: int, world_size: int, timeout_s: float) -> dist.Store:
    """Wait until all processes have joined, and return a store with a key prefix unique to this attempt.

    Each rank other than 0 sends a request with a random id, so a response of an earlier attempt cannot match. Rank 0
    responds to all requests in the store, including requests of earlier attempts, until every rank has its response.

    Args:
        store: The store of torchrun.
        rank: Rank of this process.
        world_size: Number of processes.
        timeout_s: Timeout in seconds.

    Raises:
        UserError: Ranks are missing after `timeout_s`; the message lists them.
    """
    if rank == 0:
        attempt_id = _publish_attempt_id(store, world_size, timeout_s)
    else:
        request_id = uuid.uuid4().hex
        store.set(_request_key(rank), request_id)
        try:
            store.wait([_response_key(request_id)], timedelta(seconds=timeout_s))
        except RuntimeError:  # DistStoreError, or DistNetworkError where rank 0 held the store and is gone
            raise UserError(f"rank {rank}: {_timeout_message(timeout_s)}: rank 0 never answered") from None
        attempt_id = store.get(_response_key(request_id)).decode()
        store.set(_arrival_key(attempt_id, rank), "")
    return dist.PrefixStore(f"cspdet/{attempt_id}", store)


def _publish_attempt_id(store: dist.Store, world_size: int, timeout_s: float) -> str:
    attempt_id, limit, missing = uuid.uuid4().hex, time.monotonic() + timeout_s, set(range(1, world_size))
    while missing:
        for rank in missing:
            if store.check([_request_key(rank)]):
                store.set(_response_key(store.get(_request_key(rank)).decode()), attempt_id)
        missing = {rank for rank in missing if not store.check([_arrival_key(attempt_id, rank)])}
        if missing and time.monotonic() > limit:
            ranks = ", ".join(str(rank) for rank in sorted(missing))
            raise UserError(f"rank 0: {_timeout_message(timeout_s)}: no message from rank {ranks}")
        time.sleep(POLL_INTERVAL_S if missing else 0)
    return attempt_id


def _request_key(rank: int) -> str:
    return f"cspdet/asked/{rank}"


def _response_key(request_id: str) -> str:
    return f"cspdet/answer/{request_id}"


def _arrival_key(attempt_id: str, rank: int) -> str:
    return f"cspdet/{attempt_id}/come/{rank}"


def _timeout_message(timeout_s: float) -> str:
    return f"waited {timeout_s / 60:.0f} minutes (train.timeout_minutes) for all processes to join"
