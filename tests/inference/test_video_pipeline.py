"""Stages side by side: order, bounds, errors and Ctrl-C; no thread outlives its block. And the clock beside them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cspdet.inference.pipeline import BackgroundConsumer, Prefetcher, parallel_map
from cspdet.inference.timer import StageTimer


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


@settings(max_examples=20)
@given(items=st.lists(st.integers(), max_size=30), depth=st.integers(1, 5))
def test_everything_comes_through_in_order(items, depth):
    done: list[int] = []
    with BackgroundConsumer(done.append, depth) as behind, Prefetcher(items, depth) as ahead:
        for item in ahead:
            behind.put(item)
    assert done == items


def test_no_more_is_made_ahead_than_allowed():
    made: list[int] = []
    third = threading.Event()

    def items() -> Iterator[int]:
        for i in range(100):
            made.append(i)
            if i == 3:
                third.set()
            yield i

    with Prefetcher(items(), 2) as ahead:
        iterator = iter(ahead)
        assert next(iterator) == 0
        third.wait(5)
        # taken: 0; in the queue: 1 and 2; in the hand of the thread, which cannot put it down: 3
        assert made == [0, 1, 2, 3]


def test_put_waits_while_the_queue_is_full():
    go = threading.Event()
    done: list[int] = []

    def step(item: int) -> None:
        go.wait(5)
        done.append(item)

    def fill(behind: BackgroundConsumer[int]) -> None:
        for i in range(4):
            behind.put(i)

    with BackgroundConsumer(step, 2) as behind:
        filler = threading.Thread(target=fill, args=(behind,))
        filler.start()
        filler.join(0.1)
        assert filler.is_alive(), "one is worked on and two wait: there is no place for the fourth"
        go.set()
        filler.join()
    assert done == [0, 1, 2, 3]


def test_what_fails_ahead_is_raised_after_what_came_before():
    def items() -> Iterator[int]:
        yield 1
        raise ZeroDivisionError

    with Prefetcher(items(), 3) as ahead:
        iterator = iter(ahead)
        assert next(iterator) == 1
        with pytest.raises(ZeroDivisionError):
            next(iterator)


def test_what_fails_behind_is_raised_by_a_later_put_and_ends_the_work():
    done: list[int] = []

    def step(item: int) -> None:
        done.append(1 // item)

    def put_many() -> None:
        with BackgroundConsumer(step, 1) as behind:
            for item in (1, 0, *[1] * 50):
                behind.put(item)

    with pytest.raises(ZeroDivisionError):
        put_many()
    assert done == [1]


def test_what_fails_at_the_last_item_is_raised_at_the_end():
    def put_one() -> None:
        with BackgroundConsumer(lambda item: 1 // item, 4) as behind:  # type: ignore[arg-type, return-value]
            behind.put(0)

    with pytest.raises(ZeroDivisionError):
        put_one()


def test_a_failure_two_stages_behind_comes_to_the_front():
    def run() -> None:
        last: BackgroundConsumer[int] = BackgroundConsumer(lambda item: 1 // item, 1)  # type: ignore[arg-type, return-value]
        with last, BackgroundConsumer(last.put, 1) as middle, Prefetcher(iter([1, 0] + [1] * 50), 1) as ahead:
            for item in ahead:
                middle.put(item)

    with pytest.raises(ZeroDivisionError):
        run()


def stopped_by(error: type[BaseException]) -> list[int]:
    """What is worked off when `error` comes while the first of three items is in work."""
    done: list[int] = []
    begun, go = threading.Event(), threading.Event()

    def step(item: int) -> None:
        begun.set()
        go.wait(5)
        done.append(item)

    def run() -> None:
        with BackgroundConsumer(step, 5) as behind:
            for i in range(3):
                behind.put(i)
            begun.wait(5)
            threading.Timer(0.05, go.set).start()
            raise error

    with pytest.raises(error):
        run()
    return done


def test_ctrl_c_lets_what_was_put_be_finished():
    assert stopped_by(KeyboardInterrupt) == [0, 1, 2]


def test_another_error_drops_what_was_put():
    assert stopped_by(ZeroDivisionError) == [0]


@settings(max_examples=20)
@given(items=st.lists(st.integers(0, 3), max_size=20), num_workers=st.integers(1, 4))
def test_workers_give_everything_in_order_however_long_each_takes(items, num_workers):
    def work(item: int) -> int:
        time.sleep(item / 1000)
        return -item

    assert list(parallel_map(items, work, num_workers)) == [(item, -item) for item in items]


def test_as_many_items_as_workers_run_in_parallel_and_as_many_more_wait():
    taken: list[int] = []
    together = threading.Barrier(3, timeout=5)

    def items() -> Iterator[int]:
        for i in range(9):
            taken.append(i)
            yield i

    with closing(parallel_map(items(), lambda item: together.wait() and item, 3)) as results:
        next(results)  # three met, or the barrier would have broken
        assert taken == [0, 1, 2, 3, 4, 5]
        together.abort()


def test_what_fails_in_a_worker_is_raised_at_its_place():
    results = parallel_map([1, 1, 0, 1], lambda item: 1 // item, 2)
    assert [next(results), next(results)] == [(1, 1), (1, 1)]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_workers_have_one_thread_of_pytorch_each_and_leave_the_others_alone():
    before = torch.get_num_threads()
    assert [count for _, count in parallel_map(range(4), lambda _: torch.get_num_threads(), 2)] == [1] * 4
    assert torch.get_num_threads() == before


def test_no_thread_outlives_an_error_of_who_takes_the_results():
    def take() -> None:
        with closing(parallel_map(range(100), lambda item: item, 2)) as results:
            for item, _ in results:
                if item == 3:
                    raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        take()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("cspdet-lane")]


def test_the_timer_counts_each_stage_a_frame():
    now = [0.0]
    watch = StageTimer(("read", "detect"), clock=lambda: now[0])

    def frames() -> Iterator[int]:
        for i in range(4):
            now[0] += 0.010
            yield i

    assert watch.milliseconds() == {"read": 0.0, "detect": 0.0}
    assert watch.recent_fps() is None
    assert watch.format_line() == "ms: read 0.0  detect 0.0", "no frame rate before the second frame"
    for _ in watch.time_iter(frames(), "read"):
        with watch.measure("detect"):
            now[0] += 0.030
        watch.frame_done()
    assert watch.milliseconds() == pytest.approx({"read": 10.0, "detect": 30.0})
    assert watch.recent_fps() == pytest.approx(1 / 0.040)
    with watch.measure("detect", 8):  # a batch of 8 at 5 ms each: (4 * 30 + 40) / 12
        now[0] += 0.040
    assert watch.milliseconds()["detect"] == pytest.approx(160 / 12)
    assert watch.format_line() == "25.0 fps   ms: read 10.0  detect 13.3"


def test_parallel_blocks_count_with_a_fraction_of_their_time():
    now = [0.0]
    watch = StageTimer(("detect",), clock=lambda: now[0])
    with watch.measure("detect", num_workers=2), watch.measure("detect", num_workers=2):
        now[0] += 0.080
    assert watch.milliseconds() == pytest.approx({"detect": 40.0})  # two frames in 80 ms


def test_the_displayed_rate_is_that_of_the_last_frames():
    now = [0.0]
    watch = StageTimer((), clock=lambda: now[0])
    for i in range(100):
        now[0] += 1.0 if i < 50 else 0.1
        watch.frame_done()
    assert watch.recent_fps() == pytest.approx(10.0)
