"""Ctrl-C and SIGTERM as stop requests, which the training loop checks between two steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from types import FrameType, TracebackType

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


class GracefulStop:
    """Context manager: the first signal requests a stop; a second Ctrl-C interrupts immediately without saving.

    A run of several processes stops after the same step in all of them.
    """

    def __init__(self) -> None:
        self.exit_code = 0  # what a signal to this process requests; 0: continue
        self.stop_code = 0  # what all processes agreed on
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
        """Set `stop_code` from the requests of all processes.

        Args:
            request_counts: How many processes got each signal of EXIT_CODES, in its order; the last one has priority.
        """
        self.stop_code = max(
            (code for code, count in zip(EXIT_CODES.values(), request_counts, strict=True) if count), default=0
        )

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self.exit_code and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.exit_code = EXIT_CODES[signal.Signals(signum)]
