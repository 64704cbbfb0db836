"""Processes of one attempt meet where none of an earlier one wrote; threads and a store in memory stand for them."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch.distributed as dist

from cspdet.errors import UserError
from cspdet.training.distributed.rendezvous import attempt_store


def meet(store: dist.Store, size: int, delays: list[float], timeout_s: float = 20.0) -> list[dist.Store]:
    """Every rank's part, the ranks coming `delays` (s) late."""

    def come(rank: int) -> dist.Store:
        time.sleep(delays[rank])
        return attempt_store(store, rank, size, timeout_s)

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(come, range(size)))


@pytest.mark.parametrize("seed", range(4))
def test_every_attempt_has_a_part_of_its_own(seed):
    """However late which rank comes, and however many there were before."""
    draw, store = random.Random(seed), dist.HashStore()
    for attempt, size in enumerate((3, 2, 4, 3)):
        parts = meet(store, size, [draw.choice((0.0, 0.05, 0.1)) for _ in range(size)])
        assert not any(part.check([f"rank{rank}"]) for part in parts for rank in range(4))
        for rank, part in enumerate(parts):
            part.set(f"rank{rank}", str(attempt))
        for part in parts:
            assert [part.get(f"rank{rank}") for rank in range(size)] == [str(attempt).encode()] * size


def test_what_a_process_asked_that_died_holds_nobody_up():
    store = dist.HashStore()
    with pytest.raises(UserError, match=r"rank 1: waited 0 minutes .*: rank 0 never answered"):
        attempt_store(store, 1, 3, timeout_s=0.05)
    with pytest.raises(UserError, match=r"rank 0: waited 0 minutes .*: no message from rank 1, 2"):
        attempt_store(store, 0, 3, timeout_s=0.05)
    one, two, three = meet(store, 3, [0.0, 0.1, 0.0])
    one.set("said", "here")
    assert two.get("said") == three.get("said") == b"here"
