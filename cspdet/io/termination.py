"""End a command by SIGTERM or SIGHUP as Ctrl-C does: cleanup runs, and what is done is kept."""

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
    """A signal asked the process to end; whatever handles Ctrl-C handles it too.

    Attributes:
        exit_code: 128 and the number of the signal, as shells report it.
    """

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


@contextmanager
def termination_as_interrupt() -> Iterator[None]:
    """Raise Terminated in the main thread at the first SIGTERM or SIGHUP in this block; further ones are ignored.

    A signal that has a handler, or is ignored (nohup), is left as it is.
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
