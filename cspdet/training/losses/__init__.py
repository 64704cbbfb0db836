"""The losses of a detector, by name. A new one is a file in this folder and an entry in `LOSSES`."""

from __future__ import annotations

from cspdet.config.registry import Registry

LOSSES = Registry("loss", {"yolo": "cspdet.training.losses.config:YoloLossConfig"})
