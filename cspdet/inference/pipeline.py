"""Stages that work at the same time, each in a thread, with bounded queues between them; the order is kept.

Decoding, drawing and encoding spend their time in OpenCV and FFmpeg, which let other threads run meanwhile, so
they overlap with the network. `Ahead` makes items before they are asked for, `Behind` works
items off after they were handed over. Neither holds more than `depth` items, however long the run is.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Generic, TypeVar

import cv2
import torch

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

POLL_INTERVAL_S = 0.1  # a blocked stage looks this often whether the run was ended


class _Sentinel:
    """Behind the last item of a queue: the items are exhausted, or making them failed with `error`."""

    def __init__(self, error: BaseException | None = None):
        self.error = error


class Prefetcher(Generic[ItemT]):
    """The items of an iterable, made in a thread up to `depth` before they are taken.

    A context manager: at its end the thread is stopped and waited for. What the iterable raises is raised to
    whoever takes the items, after those that came before it.
    """

    def __init__(self, items: Iterable[ItemT], depth: int):
        self._items = items
        self._queue: queue.Queue[ItemT | _Sentinel] = queue.Queue(max(1, depth))
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._produce, name="cspdet-ahead", daemon=True)

    def __enter__(self) -> Prefetcher[ItemT]:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def __iter__(self) -> Iterator[ItemT]:
        while True:
            item = _get_next(self._queue)
            if isinstance(item, _Sentinel):
                if item.error is not None:
                    raise item.error
                return
            yield item

    def _produce(self) -> None:
        end = _Sentinel()
        try:
            for item in self._items:
                if not self._put(item):
                    return
        except BaseException as error:  # whatever it is, the thread that waits for items has to learn of it
            end = _Sentinel(error)
        self._put(end)

    def _put(self, item: ItemT | _Sentinel) -> bool:
        while not self._stopped.is_set():
            try:
                self._queue.put(item, timeout=POLL_INTERVAL_S)
                return True
            except queue.Full:
                continue
        return False


class BackgroundConsumer(Generic[ItemT]):
    """A step that is done in a thread for every item that is `put`, in their order, at most `depth` waiting.

    A context manager: at its end, and on Ctrl-C, what was put is still worked off; after another exception it is
    dropped. What the step raises is raised by the next `put`, or at the end; nothing is worked off after it.
    """

    def __init__(self, step: Callable[[ItemT], None], depth: int):
        self._step = step
        self._queue: queue.Queue[ItemT | _Sentinel] = queue.Queue(max(1, depth))
        self._cancelled = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._consume, name="cspdet-behind", daemon=True)

    def __enter__(self) -> BackgroundConsumer[ItemT]:
        self._thread.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if exc_type is not None and not issubclass(exc_type, KeyboardInterrupt):
            self._cancelled.set()
        try:
            self._put(_Sentinel())
            self._join()
        except KeyboardInterrupt:  # pressed once more while the rest was worked off: enough of it
            self._cancelled.set()
            self._join()
            raise
        if self._error is not None and error is not self._error and (exc_type is None or exc_type is KeyboardInterrupt):
            raise self._error

    def put(self, item: ItemT) -> None:
        """Hand over an item; waits while `depth` items are before it."""
        if self._error is None:
            self._put(item)
        if self._error is not None:
            raise self._error

    def _put(self, item: ItemT | _Sentinel) -> None:
        while self._thread.is_alive():
            try:
                self._queue.put(item, timeout=POLL_INTERVAL_S)
                return
            except queue.Full:
                continue

    def _join(self) -> None:
        while self._thread.is_alive():
            self._thread.join(POLL_INTERVAL_S)

    def _consume(self) -> None:
        try:
            while not isinstance(item := _get_next(self._queue, self._cancelled), _Sentinel):
                self._step(item)
        except BaseException as error:  # whatever it is, the thread that puts items has to learn of it
            self._error = error


def parallel_map(
    items: Iterable[ItemT], function: Callable[[ItemT], ResultT], num_workers: int
) -> Generator[tuple[ItemT, ResultT], None, None]:
    """Each item with what `work` makes of it, in their order; `lanes` of them are worked on at once, a thread each.

    With one lane everything happens in the calling thread. What `work` raises is raised at its item's place. PyTorch
    and OpenCV have a single thread in each lane: the cores have enough to do, and threads of theirs that wait for work
    take time from it. To be closed (`contextlib.closing`), so that no thread outlives an error of whoever takes the
    results.
    """
    if num_workers == 1:
        for item in items:
            yield item, function(item)
        return
    torch_threads, opencv_threads = torch.get_num_threads(), cv2.getNumThreads()
    cv2.setNumThreads(1)  # of the whole process, unlike PyTorch's
    running: deque[tuple[ItemT, Future[ResultT]]] = deque()
    pool = ThreadPoolExecutor(num_workers, "cspdet-lane", initializer=torch.set_num_threads, initargs=(1,))
    try:
        for item in items:
            running.append((item, pool.submit(function, item)))
            if len(running) == 2 * num_workers:  # the next one is ready for every lane
                yield running[0][0], _wait_for_result(running.popleft()[1])
        while running:
            yield running[0][0], _wait_for_result(running.popleft()[1])
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(torch_threads)
        cv2.setNumThreads(opencv_threads)


def _wait_for_result(future: Future[ResultT]) -> ResultT:
    while not wait((future,), POLL_INTERVAL_S).done:
        continue
    return future.result()


def _get_next(items: queue.Queue[ItemT | _Sentinel], cancelled: threading.Event | None = None) -> ItemT | _Sentinel:
    """The next item; an end at once when the items are `dropped`. Polling lets Ctrl-C through on every system."""
    while cancelled is None or not cancelled.is_set():
        try:
            return items.get(timeout=POLL_INTERVAL_S)
        except queue.Empty:
            continue
    return _Sentinel()
