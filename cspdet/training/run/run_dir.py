"""Run directory: the output files of a training run."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from torch import nn

from cspdet.io.atomic import write_bytes, write_text
from cspdet.io.checkpoint import Checkpoint, save_checkpoint
from cspdet.io.model_info import ModelInfo
from cspdet.structures import Categories
from cspdet.training.state import TrainingState
from cspdet.training.tasks.base import ModelT

log = logging.getLogger("cspdet")

CONFIG_FILE = "config.yaml"
# The other files of a run, in addition to last.pt and best.pt.
RUN_FILES = (
    *("transfer.csv", "metrics.jsonl", "metrics.json", "detections.json"),
    *("train_batch.jpg", "val_detections.jpg", "val_predictions.jpg", "curves.png", "report.html"),
)


class RunDir:
    """Writes the output files of a run, except the files of the loggers.

    The files are `config.yaml`, `last.pt`, `best.pt`, `metrics.json`, `detections.json`, images, and `transfer.csv` if
    the run starts from pretrained weights. Loggers write `metrics.jsonl` and `tensorboard/`.
    """

    def __init__(self, path: Path, task: str, config: dict[str, Any], categories: Categories, info: ModelInfo):
        """Store the arguments; nothing is written yet.

        Args:
            path: The run folder.
            task: `detection` or `classification`.
            config: The recipe as a dict of JSON types, for the checkpoints.
            categories: Class names and ids.
            info: Facts about the run, for the checkpoints.
        """
        self.path, self.task, self.config, self.categories, self.info = path, task, config, categories, info

    def start(self, config_yaml: str, transfer_csv: str | None) -> None:
        """Write `config.yaml`, and `transfer.csv` if the run starts from pretrained weights."""
        write_text(self.path / CONFIG_FILE, f"# written by cspdet train\n{config_yaml}")
        if transfer_csv is not None:
            write_text(self.path / "transfer.csv", transfer_csv)

    def save_last(self, state: TrainingState[ModelT]) -> None:
        """Write `last.pt`: the complete training state, to resume from."""
        save_checkpoint(self.path / "last.pt", self._checkpoint(state, state.state_dict()))

    def save_best(self, state: TrainingState[ModelT], metrics: dict[str, float | None] | None = None) -> None:
        """Write `best.pt`: the weights (EMA, if enabled) without training state, for evaluation and inference.

        Args:
            state: The training state.
            metrics: Scalar metrics of the weights; None: they were not evaluated.
        """
        save_checkpoint(self.path / "best.pt", self._checkpoint(state, metrics=metrics))

    def _checkpoint(
        self,
        state: TrainingState[ModelT],
        training: dict[str, Any] | None = None,
        metrics: dict[str, float | None] | None = None,
    ) -> Checkpoint:
        weights = _cpu_float_weights(state.ema_or_model)
        info = self.info.made_now(state.progress.epoch, metrics)
        return Checkpoint(self.task, self.config, self.categories, weights, training, info=info)

    def write_results(self, metrics: dict[str, Any], results: list[dict[str, Any]] | None) -> None:
        """Write `metrics.json` and, for a detector, `detections.json`, in the formats of `cspdet eval`.

        Args:
            metrics: All metrics of the best evaluation so far.
            results: Detections of this evaluation as COCO results; None for a classifier.
        """
        write_text(self.path / "metrics.json", json.dumps(metrics, indent=1) + "\n")
        if results is not None:
            write_text(self.path / "detections.json", json.dumps(results))

    def save_image(self, name: str, image: np.ndarray) -> None:
        """Write an (H, W, 3) uint8 RGB image as JPEG."""
        encoded, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
        assert encoded
        write_bytes(self.path / name, data.tobytes())


def _cpu_float_weights(model: nn.Module) -> dict[str, Any]:
    return {
        name: value.detach().float().cpu() if value.is_floating_point() else value.cpu()
        for name, value in model.state_dict().items()
    }
