"""Registry of the training loggers. To add one, add a file to this folder and an entry to `LOGGERS`."""

from __future__ import annotations

from cspdet.config.registry import Registry

LOGGERS = Registry(
    "logger",
    {
        "jsonl": "cspdet.training.loggers.config:JsonlLoggerConfig",
        "tensorboard": "cspdet.training.loggers.config:TensorBoardLoggerConfig",
    },
)
