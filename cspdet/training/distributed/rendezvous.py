"""Where the processes of one attempt at a run find each other, and nobody of an attempt before.

torchrun keeps one store for all its restarts. In it still stand the addresses of the processes that it ended; whoever
reads one of those before its owner's successor has written anew waits for a process that is gone.
"""

from __future__ import annotations

import time
import uuid
from datetime import timedelta

import torch.distributed as dist

from cspdet.errors import UserError

LOOKED_EVERY_S = 0.02


def fresh_part(store: dist.Store, rank: int, size: int, timeout_s: float) -> dist.Store:
    """The part of `store` that the processes of this attempt write to, and no others; all have come when it returns.

    Every rank but 0 asks under a number of its own, which no process of an earlier attempt can have answered. Rank 0
    answers all that it finds asked, what is left of earlier attempts too, until every rank has taken its answer.

    Raises:
        UserError: other ranks did not come within `timeout_s`; it says which.
    """
    if rank == 0:
        name = _answer_all(store, size, timeout_s)
    else:
        question = uuid.uuid4().hex
        store.set(_asked_by(rank), question)
        try:
            store.wait([_answer_to(question)], timedelta(seconds=timeout_s))
        except RuntimeError:  # DistStoreError, or DistNetworkError where rank 0 held the store and is gone
            raise UserError(f"rank {rank}: {_waited(timeout_s)}: rank 0 never answered") from None
        name = store.get(_answer_to(question)).decode()
        store.set(_come(name, rank), "")
    return dist.PrefixStore(f"cspdet/{name}", store)


def _answer_all(store: dist.Store, size: int, timeout_s: float) -> str:
    name, limit, missing = uuid.uuid4().hex, time.monotonic() + timeout_s, set(range(1, size))
    while missing:
        for rank in missing:
            if store.check([_asked_by(rank)]):
                store.set(_answer_to(store.get(_asked_by(rank)).decode()), name)
        missing = {rank for rank in missing if not store.check([_come(name, rank)])}
        if missing and time.monotonic() > limit:
            ranks = ", ".join(str(rank) for rank in sorted(missing))
            raise UserError(f"rank 0: {_waited(timeout_s)}: never heard of rank {ranks}")
        time.sleep(LOOKED_EVERY_S if missing else 0)
    return name


def _asked_by(rank: int) -> str:
    return f"cspdet/asked/{rank}"


def _answer_to(question: str) -> str:
    return f"cspdet/answer/{question}"


def _come(name: str, rank: int) -> str:
    return f"cspdet/{name}/come/{rank}"


def _waited(timeout_s: float) -> str:
    return f"waited {timeout_s / 60:.0f} minutes (train.timeout_minutes) for all processes to meet"
