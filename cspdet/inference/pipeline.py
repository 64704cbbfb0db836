"""Pipeline stages in threads, with bounded queues between them; the order of the items is kept.

Decoding, drawing and encoding spend their time in OpenCV and FFmpeg, which release the GIL, so they overlap with the
network. `Prefetcher` produces items before they are needed, `BackgroundConsumer` processes items after they were
handed over. Neither holds more than `depth` items.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import islice
from types import TracebackType
from typing import Generic, TypeVar

import cv2
import torch

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

POLL_INTERVAL_S = 0.1  # how often a blocked stage checks whether the run has ended


class _Sentinel:
    """Marks the end of a queue: the items are exhausted, or producing them failed with `error`."""

    def __init__(self, error: BaseException | None = None):
        self.error = error


class Prefetcher(Generic[ItemT]):
    """Iterates over items that a thread produces, up to `depth` of them in advance.

    A context manager: at its end the thread is stopped and joined. An exception of the iterable is raised to the
    consumer, after the items before it.

    Args:
        items: What the thread iterates over.
        depth: Maximum number of items in the queue.
    """

    def __init__(self, items: Iterable[ItemT], depth: int):
        self._items = items
        self._queue: queue.Queue[ItemT | _Sentinel] = queue.Queue(max(1, depth))
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._produce, name="cspdet-prefetch", daemon=True)

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
        except BaseException as error:  # raised in the thread that waits for items
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
    """Calls a function in a thread for every item that is `put`, in their order.

    A context manager: at its end, and on Ctrl-C, the remaining items are processed; after another exception they are
    dropped. An exception of the function is raised by the next `put`, or at the end; no item is processed after it.

    Args:
        step: The function.
        depth: Maximum number of items in the queue.
    """

    def __init__(self, step: Callable[[ItemT], None], depth: int):
        self._step = step
        self._queue: queue.Queue[ItemT | _Sentinel] = queue.Queue(max(1, depth))
        self._cancelled = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._consume, name="cspdet-consumer", daemon=True)

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
        except KeyboardInterrupt:  # a second Ctrl-C, while the remaining items are processed: drop them
            self._cancelled.set()
            self._join()
            raise
        if self._error is not None and error is not self._error and (exc_type is None or exc_type is KeyboardInterrupt):
            raise self._error

    def put(self, item: ItemT) -> None:
        """Hand over an item; waits while the queue is full."""
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
        except BaseException as error:  # raised in the thread that puts items
            self._error = error


def batched(items: Iterable[ItemT], size: int) -> Iterator[list[ItemT]]:
    """Group items into lists of `size`; the last one may be shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def parallel_map(
    items: Iterable[ItemT], function: Callable[[ItemT], ResultT], num_workers: int
) -> Generator[tuple[ItemT, ResultT], None, None]:
    """Apply a function to items in several threads, keeping their order.

    With one worker everything runs in the calling thread. PyTorch and OpenCV use one thread in each worker: the workers
    use all cores, and waiting threads would take time from them. Close the generator (`contextlib.closing`), so that no
    thread outlives an error of the consumer.

    Args:
        items: The inputs.
        function: Called with each item; its exception is raised when the item's result is due.
        num_workers: Number of threads.

    Yields:
        Each item with its result.
    """
    if num_workers == 1:
        for item in items:
            yield item, function(item)
        return
    torch_threads, opencv_threads = torch.get_num_threads(), cv2.getNumThreads()
    cv2.setNumThreads(1)  # for the whole process, unlike PyTorch's
    running: deque[tuple[ItemT, Future[ResultT]]] = deque()
    pool = ThreadPoolExecutor(num_workers, "cspdet-worker", initializer=torch.set_num_threads, initargs=(1,))
    try:
        for item in items:
            running.append((item, pool.submit(function, item)))
            if len(running) == 2 * num_workers:  # one item waits for every worker
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
    """The next item, or the end at once when `cancelled` is set. Polling lets Ctrl-C through on every system."""
    while cancelled is None or not cancelled.is_set():
        try:
            return items.get(timeout=POLL_INTERVAL_S)
        except queue.Empty:
            continue
    return _Sentinel()
