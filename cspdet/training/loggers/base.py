"""Logger interface, and the group of all loggers of a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from cspdet.training.loggers.config import LoggerConfigBase


class Logger(ABC):
    """Base class of the loggers, which record the metrics of a run.

    A user-defined logger is a subclass with a nested `Config`.
    """

    def __init__(self, config: Any, run_dir: Path):
        """Store the arguments; nothing is written before `open`.

        Args:
            config: The logger's config.
            run_dir: The run folder.
        """
        self.config, self.run_dir = config, run_dir

    def open(self, step: int) -> None:  # noqa: B027 optional
        """Start logging.

        Args:
            step: Optimizer step from which a resumed run continues; 0 for a new run.
        """

    @abstractmethod
    def log_metrics(self, metrics: dict[str, Any], step: int) -> None:
        """Write the metrics of an epoch.

        Args:
            metrics: Values by name, including `epoch`; an undefined value is None.
            step: Number of optimizer steps so far.
        """

    def log_images(self, paths: Sequence[Path], step: int) -> None:  # noqa: B027 optional
        """Write images of the run.

        Args:
            paths: JPEG files; some may not exist.
            step: Number of optimizer steps so far.
        """

    def close(self) -> None:  # noqa: B027 optional
        """Stop logging; also called if the run fails."""


class Loggers:
    """All loggers of a run; a context manager that opens and closes the loggers.

    Args:
        configs: The configs of `train.loggers`; empty on ranks other than 0.
        run_dir: The run folder.
    """

    def __init__(self, configs: Iterable[LoggerConfigBase], run_dir: Path):
        self._loggers: list[Logger] = [config.build(run_dir) for config in configs]
        self._step = 0

    def starting_at(self, step: int) -> Loggers:
        """Set the optimizer step at which the loggers will be opened, and return self."""
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
