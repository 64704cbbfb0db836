"""The rendezvous of the processes of one attempt at a run, without those of earlier attempts.

torchrun keeps one store for all its restarts. It still holds the addresses of the processes that torchrun ended; a
process that reads one of these before it is overwritten waits for a process that is gone.
"""

from __future__ import annotations

import time
import uuid
from datetime import timedelta

import torch.distributed as dist

from cspdet.errors import UserError

POLL_INTERVAL_S = 0.02


def attempt_store(store: dist.Store, rank: int, world_size: int, timeout_s: float) -> dist.Store:
    """The part of `store` that only the processes of this attempt use; returns when all have joined.

    Every rank but 0 asks under a random id, which no process of an earlier attempt can have answered. Rank 0 answers
    all requests in the store, also those of earlier attempts, until every rank has its answer.

    Args:
        store: torchrun's store.
        rank: This process's rank.
        world_size: Number of processes.
        timeout_s: How long to wait.

    Raises:
        UserError: ranks are missing after `timeout_s`; it names them.
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
    return f"waited {timeout_s / 60:.0f} minutes (train.timeout_minutes) for all processes to meet"
