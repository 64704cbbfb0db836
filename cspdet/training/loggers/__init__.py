"""The loggers of a training run, by name. A new one is a file in this folder and an entry in `LOGGERS`."""

from __future__ import annotations

from cspdet.config.registry import Registry

LOGGERS = Registry(
    "logger",
    {
        "jsonl": "cspdet.training.loggers.config:JsonlLoggerConfig",
        "tensorboard": "cspdet.training.loggers.config:TensorBoardLoggerConfig",
    },
)
