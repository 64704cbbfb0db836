"""Graceful stop on Ctrl-C, SIGTERM and SIGHUP: the training loop checks for a request after each step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from types import FrameType, TracebackType

EXIT_CODES = {
    signal.Signals[name]: code
    for name, code in (("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129))
    if name in signal.Signals.__members__
}  # fmt: skip Windows has no SIGHUP


class GracefulStop:
    """Context manager that turns Ctrl-C, SIGTERM and SIGHUP into a request to stop after the current step.

    Ctrl-C after a request ends the run at once, without saving. In a distributed run, all processes stop after the
    same step.
    """

    def __init__(self) -> None:
        self.exit_code = 0  # exit code requested by a signal to this process; 0: continue
        self.stop_code = 0  # exit code agreed on by all processes; 0: continue
        self._previous_handlers: dict[int, object] = {}

    def __enter__(self) -> GracefulStop:
        if threading.current_thread() is threading.main_thread():
            handled = [number for number in EXIT_CODES if not _is_ignored_hangup(number)]
            self._previous_handlers = {number: signal.signal(number, self._on_signal) for number in handled}
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def sync(self, request_counts: Sequence[float]) -> None:
        """Set `stop_code` from the requests of all processes; SIGTERM has priority over other signals.

        Args:
            request_counts: Number of processes that received each signal, in the order of EXIT_CODES.
        """
        self.stop_code = max(
            (code for code, count in zip(EXIT_CODES.values(), request_counts, strict=True) if count), default=0
        )

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self.exit_code and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.exit_code = EXIT_CODES[signal.Signals(signum)]


def _is_ignored_hangup(number: signal.Signals) -> bool:
    """Return whether `number` is SIGHUP and the process ignores it (nohup)."""
    return number.name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN
