"""The interface of a logger, and all loggers of a run as one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from cspdet.training.loggers.config import LoggerConfigBase


class Logger(ABC):
    """Writes the metrics of a run. A user-defined logger is a subclass with a nested `Config`."""

    def __init__(self, config: Any, run_dir: Path):
        """Keep what is needed; nothing is written before `open`.

        Args:
            config: The logger's config.
            run_dir: The folder of the run.
        """
        self.config, self.run_dir = config, run_dir

    def open(self, step: int) -> None:  # noqa: B027 optional
        """Begin; `step` is the optimizer step that a resumed run continues from, else 0."""

    @abstractmethod
    def log_metrics(self, metrics: dict[str, Any], step: int) -> None:
        """Write the metrics of an epoch.

        Args:
            metrics: Numbers by name, `epoch` among them; None where one is undefined.
            step: Optimizer steps so far.
        """

    def log_images(self, paths: Sequence[Path], step: int) -> None:  # noqa: B027 optional
        """Write images of the run.

        Args:
            paths: JPEG files; some may be missing.
            step: Optimizer steps so far.
        """

    def close(self) -> None:  # noqa: B027 optional
        """End, also where the run fails."""


class Loggers:
    """The loggers of a run, opened and closed together.

    Args:
        configs: Those of `train.loggers`; none in a process that does not write.
        run_dir: The folder of the run.
    """

    def __init__(self, configs: Iterable[LoggerConfigBase], run_dir: Path):
        self._loggers: list[Logger] = [config.build(run_dir) for config in configs]
        self._step = 0

    def starting_at(self, step: int) -> Loggers:
        """The same loggers, to be entered at an optimizer step."""
        self._step = step
        return self

    def __enter__(self) -> Loggers:
        for logger in self._loggers:
            logger.open(self._step)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for logger in self._loggers:
            logger.close()

    def log_metrics(self, metrics: dict[str, Any], step: int) -> None:
        """Write the metrics of an epoch with every logger."""
        for logger in self._loggers:
            logger.log_metrics(metrics, step)

    def log_images(self, paths: Sequence[Path], step: int) -> None:
        """Write images with every logger."""
        for logger in self._loggers:
            logger.log_images(paths, step)
