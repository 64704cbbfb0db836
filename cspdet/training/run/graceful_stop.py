"""Graceful stop on Ctrl-C and SIGTERM: the training loop checks for a request after each step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from types import FrameType, TracebackType

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


class GracefulStop:
    """Context manager that turns Ctrl-C and SIGTERM into a request to stop after the current step.

    If a request was made before, Ctrl-C interrupts without saving. In a distributed run, all processes stop after the
    same step.
    """

    def __init__(self) -> None:
        self.exit_code = 0  # exit code requested by a signal to this process; 0: continue
        self.stop_code = 0  # exit code agreed on by all processes; 0: continue
        self._previous_handlers: dict[int, object] = {}

    def __enter__(self) -> GracefulStop:
        if threading.current_thread() is threading.main_thread():
            self._previous_handlers = {number: signal.signal(number, self._on_signal) for number in EXIT_CODES}
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def sync(self, request_counts: Sequence[float]) -> None:
        """Set `stop_code` from the requests of all processes; SIGTERM has priority.

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
