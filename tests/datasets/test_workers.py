"""The wrappers of datasets: skipping unreadable samples, errors as values, and what spawned processes need."""

from __future__ import annotations

import pickle

import pytest

from cspdet.datasets.workers import SkipUnreadable, WorkerDataset
from cspdet.errors import ConfigError, DataError


class Numbers:
    """Sample i is 10 i; some samples are unreadable."""

    def __init__(self, count: int, *unreadable: int):
        self.count, self.unreadable, self.read = count, unreadable, []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        self.read.append(index)
        if index in self.unreadable:
            raise DataError(f"{index}.jpg: truncated")
        return 10 * index


class BuildSum:
    """Keys to a batch: the samples and their sum."""

    def __init__(self, dataset: SkipUnreadable[int]):
        self.dataset = dataset

    def __call__(self, keys: list[int]) -> tuple[list[int], int]:
        samples = [self.dataset[key] for key in keys]
        return samples, sum(samples)


def test_an_unreadable_sample_is_replaced_by_the_next_readable_one():
    numbers = Numbers(5, 1, 2, 4)
    skip = SkipUnreadable(numbers, {})
    assert [skip[i] for i in range(5)] == [0, 30, 30, 30, 0]
    assert skip.pop_new_errors() == {i: f"{i}.jpg: truncated" for i in (1, 2, 4)}
    assert skip.pop_new_errors() == {}
    assert numbers.read.count(1) == numbers.read.count(2) == numbers.read.count(4) == 1  # remembered


def test_samples_known_to_be_unreadable_are_not_read():
    numbers = Numbers(3, 1)
    skip = SkipUnreadable(numbers, {1: "1.jpg: missing"})
    assert [skip[i] for i in range(3)] == [0, 20, 20]
    assert 1 not in numbers.read
    assert skip.pop_new_errors() == {1: "1.jpg: missing"}


def test_without_a_readable_sample_all_reasons_are_named():
    with pytest.raises(DataError) as caught:
        SkipUnreadable(Numbers(2, 0, 1), {})[0]
    assert caught.value.problems == ("no image is readable", "0.jpg: truncated", "1.jpg: truncated")


def test_user_errors_travel_as_values_and_others_do_not():
    def build(keys: list[str]) -> tuple[str, ...]:
        if keys == ["config"]:
            raise ConfigError("one", "two")
        if keys == ["bug"]:
            raise ZeroDivisionError
        return tuple(keys)

    dataset = WorkerDataset(build)
    assert dataset.__getitems__(["a", "b"]) == (("a", "b"), (), {})
    assert dataset.__getitems__(["config"]) == (None, ("one", "two"), {})
    with pytest.raises(ZeroDivisionError):
        dataset.__getitems__(["bug"])


def test_spawned_processes_report_what_they_skip():
    skip = SkipUnreadable(Numbers(4, 2), {})
    sent = pickle.loads(pickle.dumps(WorkerDataset(BuildSum(skip), skip.pop_new_errors)))
    assert sent.__getitems__([1, 2]) == (([10, 30], 40), (), {2: "2.jpg: truncated"})
    assert sent.__getitems__([3]) == (([30], 30), (), {})
    assert skip.skipped == {}
