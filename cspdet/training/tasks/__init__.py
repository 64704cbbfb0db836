"""Registry of the training tasks, by the `task` key of a recipe."""

from __future__ import annotations

from cspdet.config.registry import Registry

TASKS = Registry(
    "task",
    {
        "detection": "cspdet.training.tasks.detection:DetectionTask",
        "classification": "cspdet.training.tasks.classification:ClassificationTask",
    },
)
