"""Convert SIGTERM and SIGHUP to an exception, so that a command cleans up and keeps its results as after Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# What docker and systemd send to end a service, and what a process gets whose terminal is closed; Windows has no SIGHUP
SIGNALS = [signal.Signals[name] for name in ("SIGTERM", "SIGHUP") if name in signal.Signals.__members__]


class Terminated(KeyboardInterrupt):
    """Raised when SIGTERM or SIGHUP ends the process. Handlers of KeyboardInterrupt (Ctrl-C) catch this exception too.

    Attributes:
        exit_code: 128 plus the signal number, the convention of shells.
    """

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


@contextmanager
def termination_as_interrupt() -> Iterator[None]:
    """Raise Terminated in the main thread at the first SIGTERM or SIGHUP inside the `with` block.

    Later signals are ignored. A signal that already has a handler, or that is ignored (nohup), is not changed.
    """
    process = os.getpid()

    def on_signal(signum: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # a forked worker, which has nothing to keep
            os._exit(128 + signum)
        for number in installed:
            signal.signal(number, signal.SIG_IGN)
        raise Terminated(signum)

    installed: list[signal.Signals] = []
    if threading.current_thread() is threading.main_thread():
        installed = [number for number in SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    for number in installed:
        signal.signal(number, on_signal)
    try:
        yield
    finally:
        for number in installed:
            signal.signal(number, signal.SIG_DFL)
