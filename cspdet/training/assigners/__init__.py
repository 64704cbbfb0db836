"""The label assigners, by name. A new one is a file in this folder and an entry in `ASSIGNERS`."""

from __future__ import annotations

from cspdet.config.registry import Registry

ASSIGNERS = Registry(
    "assigner",
    {
        "anchor_iou": "cspdet.training.assigners.config:AnchorIoUConfig",
        "simota": "cspdet.training.assigners.config:SimOTAConfig",
    },
)
