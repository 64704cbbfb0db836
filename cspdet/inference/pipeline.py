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

Item = TypeVar("Item")
Result = TypeVar("Result")

POLL_S = 0.1  # a blocked stage looks this often whether the run was ended


class _End:
    """Behind the last item of a queue: the items are exhausted, or making them failed with `error`."""

    def __init__(self, error: BaseException | None = None):
        self.error = error


class Ahead(Generic[Item]):
    """The items of an iterable, made in a thread up to `depth` before they are taken.

    A context manager: at its end the thread is stopped and waited for. What the iterable raises is raised to
    whoever takes the items, after those that came before it.
    """

    def __init__(self, items: Iterable[Item], depth: int):
        self._items = items
        self._queue: queue.Queue[Item | _End] = queue.Queue(max(1, depth))
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._make, name="cspdet-ahead", daemon=True)

    def __enter__(self) -> Ahead[Item]:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def __iter__(self) -> Iterator[Item]:
        while True:
            item = _take(self._queue)
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item

    def _make(self) -> None:
        end = _End()
        try:
            for item in self._items:
                if not self._put(item):
                    return
        except BaseException as error:  # whatever it is, the thread that waits for items has to learn of it
            end = _End(error)
        self._put(end)

    def _put(self, item: Item | _End) -> bool:
        while not self._stopped.is_set():
            try:
                self._queue.put(item, timeout=POLL_S)
                return True
            except queue.Full:
                continue
        return False


class Behind(Generic[Item]):
    """A step that is done in a thread for every item that is `put`, in their order, at most `depth` waiting.

    A context manager: at its end, and on Ctrl-C, what was put is still worked off; after another exception it is
    dropped. What the step raises is raised by the next `put`, or at the end; nothing is worked off after it.
    """

    def __init__(self, step: Callable[[Item], None], depth: int):
        self._step = step
        self._queue: queue.Queue[Item | _End] = queue.Queue(max(1, depth))
        self._dropped = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="cspdet-behind", daemon=True)

    def __enter__(self) -> Behind[Item]:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and not issubclass(kind, KeyboardInterrupt):
            self._dropped.set()
        try:
            self._put(_End())
            self._join()
        except KeyboardInterrupt:  # pressed once more while the rest was worked off: enough of it
            self._dropped.set()
            self._join()
            raise
        if self._error is not None and error is not self._error and (kind is None or kind is KeyboardInterrupt):
            raise self._error

    def put(self, item: Item) -> None:
        """Hand over an item; waits while `depth` items are before it."""
        if self._error is None:
            self._put(item)
        if self._error is not None:
            raise self._error

    def _put(self, item: Item | _End) -> None:
        while self._thread.is_alive():
            try:
                self._queue.put(item, timeout=POLL_S)
                return
            except queue.Full:
                continue

    def _join(self) -> None:
        while self._thread.is_alive():
            self._thread.join(POLL_S)

    def _work(self) -> None:
        try:
            while not isinstance(item := _take(self._queue, self._dropped), _End):
                self._step(item)
        except BaseException as error:  # whatever it is, the thread that puts items has to learn of it
            self._error = error


def in_lanes(
    items: Iterable[Item], work: Callable[[Item], Result], lanes: int
) -> Generator[tuple[Item, Result], None, None]:
    """Each item with what `work` makes of it, in their order; `lanes` of them are worked on at once, a thread each.

    With one lane everything happens in the calling thread. What `work` raises is raised at its item's place. PyTorch
    and OpenCV have a single thread in each lane: the cores have enough to do, and threads of theirs that wait for work
    take time from it. To be closed (`contextlib.closing`), so that no thread outlives an error of whoever takes the
    results.
    """
    if lanes == 1:
        for item in items:
            yield item, work(item)
        return
    torch_threads, opencv_threads = torch.get_num_threads(), cv2.getNumThreads()
    cv2.setNumThreads(1)  # of the whole process, unlike PyTorch's
    running: deque[tuple[Item, Future[Result]]] = deque()
    pool = ThreadPoolExecutor(lanes, "cspdet-lane", initializer=torch.set_num_threads, initargs=(1,))
    try:
        for item in items:
            running.append((item, pool.submit(work, item)))
            if len(running) == 2 * lanes:  # the next one is ready for every lane
                yield running[0][0], _result(running.popleft()[1])
        while running:
            yield running[0][0], _result(running.popleft()[1])
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(torch_threads)
        cv2.setNumThreads(opencv_threads)


def _result(future: Future[Result]) -> Result:
    while not wait((future,), POLL_S).done:
        continue
    return future.result()


def _take(items: queue.Queue[Item | _End], dropped: threading.Event | None = None) -> Item | _End:
    """The next item; an end at once when the items are `dropped`. Polling lets Ctrl-C through on every system."""
    while dropped is None or not dropped.is_set():
        try:
            return items.get(timeout=POLL_S)
        except queue.Empty:
            continue
    return _End()
