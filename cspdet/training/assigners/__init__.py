"""Registry of the label assigners. To add one, add a file to this folder and an entry to `ASSIGNERS`."""

from __future__ import annotations

from cspdet.config.registry import Registry

ASSIGNERS = Registry(
    "assigner",
    {
        "anchor_iou": "cspdet.training.assigners.config:AnchorIoUConfig",
        "simota": "cspdet.training.assigners.config:SimOTAConfig",
    },
)
