"""Configs of the built-in loggers. This module does not import torch; `build` imports the logger."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from cspdet.config.base import ComponentConfig

if TYPE_CHECKING:
    from cspdet.training.loggers.jsonl import JsonlLogger
    from cspdet.training.loggers.tensorboard import TensorBoardLogger


class LoggerConfigBase(ComponentConfig):
    """Base class of the logger configs."""


class JsonlLoggerConfig(LoggerConfigBase):
    """Config of the logger that writes one line of JSON per epoch to `metrics.jsonl`."""

    name: Literal["jsonl"] = Field("jsonl", description="Name of the logger.")

    def build(self, run_dir: Path) -> JsonlLogger:
        """Build the logger of a run."""
        from cspdet.training.loggers.jsonl import JsonlLogger

        return JsonlLogger(self, run_dir)


class TensorBoardLoggerConfig(LoggerConfigBase):
    """Config of the logger that writes scalars and images for TensorBoard to the folder `tensorboard`."""

    name: Literal["tensorboard"] = Field("tensorboard", description="Name of the logger.")

    def build(self, run_dir: Path) -> TensorBoardLogger:
        """Build the logger of a run."""
        from cspdet.training.loggers.tensorboard import TensorBoardLogger

        return TensorBoardLogger(self, run_dir)
