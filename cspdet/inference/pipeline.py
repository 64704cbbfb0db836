"""Pipeline stages in threads, with bounded queues between them; the order of the items does not change.

Decoding, drawing and encoding run in OpenCV and FFmpeg, which release the GIL, so these stages overlap with the
network. `Prefetcher` produces items in a thread before they are needed; `BackgroundConsumer` processes items in a
thread. Each queue holds at most `depth` items.
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
RELEASE_TIMEOUT_S = 2.0  # maximum time to wait at the end for a read that does not return


class _Sentinel:
    """End marker of a queue: there are no more items, or the producer failed with `error`."""

    def __init__(self, error: BaseException | None = None):
        self.error = error


class Prefetcher(Generic[ItemT]):
    """Iterates over items that a thread produces in advance, up to `depth` items.

    Use a prefetcher as a context manager. The exit stops the thread, and waits for its end at most RELEASE_TIMEOUT_S
    seconds, because a read of a stalled stream or network share may never return. An exception of the iterable is
    raised in the consumer, after the items that preceded the exception.

    Args:
        items: The iterable that the thread reads.
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
        self._thread.join(RELEASE_TIMEOUT_S)

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
        except BaseException as error:  # raised again in the consuming thread
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
    """Calls a function in a thread for each item that is passed to `put`, in order.

    Use a consumer as a context manager. At a normal exit or on Ctrl-C, the remaining items are processed. After any
    other exception, the remaining items are dropped. If the function raises an exception, no more items are processed,
    and the next `put` or the exit raises the exception.

    Args:
        step: The function to call with each item.
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
        was_interrupted = exc_type is not None and issubclass(exc_type, KeyboardInterrupt)
        if self._error is not None and error is not self._error and (exc_type is None or was_interrupted):
            raise self._error

    def put(self, item: ItemT) -> None:
        """Add an item to the queue, and wait while the queue is full; raise the exception of an earlier item."""
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
        except BaseException as error:  # raised again in the thread that calls `put`
            self._error = error


def batched(items: Iterable[ItemT], size: int) -> Iterator[list[ItemT]]:
    """Yield the items in lists of length `size`; the last list may be shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def parallel_map(
    items: Iterable[ItemT], function: Callable[[ItemT], ResultT], num_workers: int
) -> Generator[tuple[ItemT, ResultT], None, None]:
    """Apply a function to items in several threads, and yield the results in the order of the items.

    With one worker, everything runs in the calling thread. With several workers, PyTorch and OpenCV use one thread per
    worker, because the workers already use all cores. Close the generator (`contextlib.closing`), so that the threads
    end even if the consumer fails.

    Args:
        items: The inputs.
        function: Function to call with each item. If it raises an exception, the exception is raised instead of
            yielding the result.
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
            if len(running) == 2 * num_workers:  # one running and one waiting item per worker
                yield running[0][0], _wait_for_result(running.popleft()[1])
        while running:
            yield running[0][0], _wait_for_result(running.popleft()[1])
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(torch_threads)
        cv2.setNumThreads(opencv_threads)


def call_interruptibly(function: Callable[[], ResultT]) -> ResultT:
    """Call a function that may block outside of Python, such as one that opens a stream, so that Ctrl-C ends the wait.

    The function runs in a separate thread, which is abandoned on Ctrl-C.
    """
    future: Future[ResultT] = Future()

    def call() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # raised again in the thread that waits
            future.set_exception(error)

    threading.Thread(target=call, name="cspdet-blocking", daemon=True).start()
    return _wait_for_result(future)


def _wait_for_result(future: Future[ResultT]) -> ResultT:
    while not wait((future,), POLL_INTERVAL_S).done:
        continue
    return future.result()


def _get_next(items: queue.Queue[ItemT | _Sentinel], cancelled: threading.Event | None = None) -> ItemT | _Sentinel:
    """Return the next item, or the end marker once `cancelled` is set. Polling makes Ctrl-C work on every system."""
    while cancelled is None or not cancelled.is_set():
        try:
            return items.get(timeout=POLL_INTERVAL_S)
        except queue.Empty:
            continue
    return _Sentinel()
