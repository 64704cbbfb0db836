"""The order of an epoch: shared by processes without loss, of one length, rare classes more often."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cspdet.datasets.sampler import EpochBatchSampler, local_world_size, repeat_factors
from cspdet.datasets.worker_count import resolve_num_workers
from cspdet.errors import ConfigError, DataError
from cspdet.structures import Shard


def keys(order: EpochBatchSampler, epoch: int = 0, start_batch: int = 0) -> list[list[tuple[int, ...]]]:
    order.epoch, order.start_batch = epoch, start_batch
    return list(order)


def test_repeat_factors_by_hand():
    # Class 0 is in all four images, class 1 in one, class 2 in none, class 3 in two; rows may repeat.
    image = np.array([0, 1, 2, 3, 3, 3, 0, 1])
    class_id = np.array([0, 0, 0, 0, 1, 1, 3, 3])
    assert repeat_factors(image, class_id, 4, 1.0).tolist() == [2**0.5, 2**0.5, 1, 2]  # sqrt(1 / 0.5), sqrt(1 / 0.25)
    np.testing.assert_allclose(repeat_factors(image, class_id, 4, 0.5), [1, 1, 1, 2**0.5])
    assert repeat_factors(image, class_id, 4, 0.25).tolist() == [1, 1, 1, 1]
    assert repeat_factors(image[:0], class_id[:0], 3, 1.0).tolist() == [1, 1, 1]


def test_the_order_without_repeats_is_permutation_of_the_seed_and_epoch():
    # As it has always been: nothing but this stream decides, so that old runs can be gone on with.
    stream = np.random.Generator(np.random.PCG64(np.random.SeedSequence((7, 2), spawn_key=(0,))))
    expected = [(2, i) for i in stream.permutation(10).tolist()]
    assert keys(EpochBatchSampler(10, 4, 7), epoch=2) == [expected[:4], expected[4:8], expected[8:]]
    rare_nowhere = EpochBatchSampler(10, 4, 7, factors=np.ones(10))
    assert keys(rare_nowhere, epoch=2) == [expected[:4], expected[4:8], expected[8:]]


FACTORS = st.lists(st.floats(1, 4), min_size=1, max_size=30).map(np.array)


@given(factors=FACTORS, batch_size=st.integers(1, 12), seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 50))
def test_every_epoch_shows_all_images_and_has_one_length(factors, batch_size, seed, epoch):
    order = EpochBatchSampler(len(factors), batch_size, seed, factors=factors)
    batches = keys(order, epoch)
    seen = [key for batch in batches for key in batch]
    assert len(seen) == len(set(seen)) == order.length
    assert abs(order.length - factors.sum()) <= 0.5 + 1e-6
    times = Counter(key[1] for key in seen)
    assert set(times) == set(range(len(factors)))
    for index, count in times.items():
        assert count >= int(factors[index])
        again = sorted(key[2] for key in seen if key[1] == index and len(key) == 3)
        assert again == list(range(1, count))  # each repeat has a number, and so a stream, of its own
        assert (epoch, index) in seen  # the first has none
    assert [order.images_in_batch(number) for number in range(order.num_batches)] == [len(batch) for batch in batches]


def test_images_are_seen_as_often_as_their_factors_say():
    factors = np.array([1, 1.25, 1.5, 3.75, 1, 2, 1.1, 1.4])  # 13 in all, 2 of them from fractions
    order = EpochBatchSampler(8, 4, 1, factors=factors)
    epochs = [Counter(key[1] for batch in keys(order, epoch) for key in batch) for epoch in range(400)]
    times = np.array([[seen[i] for i in range(8)] for seen in epochs])
    assert (times.sum(axis=1) == 13).all()
    assert (times >= np.floor(factors)).all()
    assert (times <= np.ceil(factors)).all()
    # The mean of 400 draws with a chance of p is off by 0.025 (one standard deviation) or less.
    assert np.abs(times.mean(axis=0) - factors).max() < 0.1
    # Which images are drawn together changes: all pairs of those with fractions occur.
    drawn = times[:, [1, 2, 3, 6, 7]] - np.floor(factors[[1, 2, 3, 6, 7]])
    assert ((drawn.T @ drawn) > 0).all()


@settings(max_examples=150)
@given(
    num_images=st.integers(1, 60),
    batch_size=st.integers(1, 20),
    world=st.integers(1, 5),
    least=st.integers(1, 2),
    seed=st.integers(0, 2**32 - 1),
    repeated=st.booleans(),
)
def test_shards_are_the_whole_batches(num_images, batch_size, world, least, seed, repeated):
    factors = np.random.default_rng(seed).uniform(1, 3, num_images) if repeated else None
    if min(batch_size, num_images) < least * world:
        return
    shards = [
        EpochBatchSampler(num_images, batch_size, seed, least, Shard(rank, world), factors) for rank in range(world)
    ]
    alone = EpochBatchSampler(num_images, batch_size, seed, least * world, factors=factors)
    whole = keys(alone, epoch=3)
    parts = [keys(order, epoch=3) for order in shards]
    assert {len(part) for part in parts} == {len(whole)}
    for number, batch in enumerate(whole):
        local = [part[number] for part in parts]
        assert all(len(keys_of_one) >= least for keys_of_one in local)
        assert sorted(key for keys_of_one in local for key in keys_of_one) == sorted(batch)
        assert max(map(len, local)) - min(map(len, local)) <= 1
        assert shards[0].images_in_batch(number) == len(batch)
    assert [part[1:] for part in parts] == [keys(order, epoch=3, start_batch=1) for order in shards]


def test_rest_that_cannot_be_shared_goes_into_the_batch_before():
    for world, expected in ((1, [4, 4, 2]), (2, [4, 4, 2]), (3, [4, 6])):
        order = EpochBatchSampler(10, 4, 0, shard=Shard(0, world))
        assert [order.images_in_batch(number) for number in range(order.num_batches)] == expected


def test_what_cannot_be_shared_is_refused():
    with pytest.raises(
        ConfigError, match=r"train\.batch_size: .* 4 processes, 1 or more each: expected 4 or more, found 3"
    ):
        EpochBatchSampler(100, 3, 0, shard=Shard(0, 4))
    with pytest.raises(ConfigError, match=r"expected 8 or more, found 7"):
        EpochBatchSampler(100, 7, 0, min_per_rank=2, shard=Shard(0, 4))
    with pytest.raises(DataError, match=r"4 processes need 4 training images or more, 1 for each; found 3"):
        EpochBatchSampler(3, 8, 0, shard=Shard(0, 4))
    with pytest.raises(ValueError, match="expected a rank from 0 to 1, found 2"):
        EpochBatchSampler(30, 8, 0, shard=Shard(2, 2))


def test_a_last_batch_that_is_too_small_is_merged_on_request():
    sampler = EpochBatchSampler(7, 3, seed=0)
    before = keys(sampler)
    assert [len(batch) for batch in before] == [3, 3, 1]
    sampler.require_images(2)
    assert keys(sampler) == [before[0], before[1] + before[2]]
    assert [sampler.images_in_batch(i) for i in range(sampler.num_batches)] == [3, 4]
    whole = EpochBatchSampler(6, 3, seed=0)
    whole.require_images(2)
    assert [len(batch) for batch in keys(whole)] == [3, 3]


def test_processes_of_one_machine(monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert local_world_size(Shard(0, 8)) == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert local_world_size(Shard(0, 8)) == 4
    assert local_world_size(Shard(0, 1)) == 1
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "many")
    assert local_world_size(Shard(0, 8)) == 8


def test_automatic_workers_share_the_cores(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(12)), raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 12)
    assert [resolve_num_workers("auto", "cuda", processes) for processes in (1, 2, 4, 16)] == [8, 6, 3, 0]
    assert [resolve_num_workers("auto", "cpu", processes) for processes in (1, 2, 4)] == [3, 1, 0]
    assert resolve_num_workers(5, "cuda", 4) == 5


def test_workers_fit_into_the_shared_memory(monkeypatch, log_capture):
    monkeypatch.setattr("cspdet.datasets.worker_count.free_shared_memory", lambda: 64_000_000)
    assert resolve_num_workers(4, "cpu", batch_bytes=5_000_000) == 4  # ten batches: two for each process, and two more
    assert not log_capture.records
    assert resolve_num_workers(4, "cpu", batch_bytes=9_000_000) == 2
    assert resolve_num_workers(4, "cpu", 2, batch_bytes=7_000_000) == 1
    assert resolve_num_workers(4, "cpu", batch_bytes=30_000_000) == 0
    assert "0 loader processes instead of 4: /dev/shm has 64 MB free, and a batch takes 30.0 MB" in log_capture.text
    monkeypatch.setattr("cspdet.datasets.worker_count.free_shared_memory", lambda: None)
    assert resolve_num_workers(4, "cpu", batch_bytes=30_000_000) == 4
