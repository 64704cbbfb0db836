"""Registry of the detection losses. To add one, add a file to this folder and an entry to `LOSSES`."""

from __future__ import annotations

from cspdet.config.registry import Registry

LOSSES = Registry("loss", {"yolo": "cspdet.training.losses.config:YoloLossConfig"})
