"""Ctrl-C and a scheduler's SIGTERM as a request that the training loop reads between two steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from types import FrameType, TracebackType

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


class StopRequest:
    """While entered, a first signal only asks; a second Ctrl-C interrupts at once, and loses what was not saved.

    A run of several processes stops when all of them know: after the same step.
    """

    def __init__(self) -> None:
        self.exit_code = 0  # what this process was asked for; 0: go on
        self.agreed = 0  # what all processes do
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in EXIT_CODES}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def agree(self, askers: Sequence[float]) -> None:
        """How many processes were asked for each of EXIT_CODES, in its order; the last one counts most."""
        self.agreed = max((code for code, count in zip(EXIT_CODES.values(), askers, strict=True) if count), default=0)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.exit_code and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.exit_code = EXIT_CODES[signal.Signals(number)]
