"""The files that a training run leaves behind."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from torch import nn

from cspdet.io.atomic import write_bytes, write_text
from cspdet.io.checkpoint import Checkpoint, save_checkpoint
from cspdet.structures import Categories
from cspdet.training.state import TrainingState
from cspdet.training.tasks.base import ModelT

log = logging.getLogger("cspdet")


class RunDir:
    """`config.yaml`, `metrics.jsonl`, `last.pt`, `best.pt`, `tensorboard/` and pictures of one run, and `transfer.csv`
    of one that began with other weights."""

    def __init__(self, path: Path, task: str, config: dict[str, Any], categories: Categories):
        """Describe the run; nothing is written yet.

        Args:
            path: The folder.
            task: detection or classification.
            config: The recipe as plain values, for the checkpoints.
            categories: Names and ids of the classes.
        """
        self.path, self.task, self.config, self.categories = path, task, config, categories
        self._write_error_logged = False

    def start(self, config_yaml: str, transfer_csv: str | None) -> None:
        """Write `config.yaml`, and `transfer.csv` where the run starts from other weights."""
        write_text(self.path / "config.yaml", config_yaml)
        if transfer_csv is not None:
            write_text(self.path / "transfer.csv", transfer_csv)

    def save_last(self, state: TrainingState[ModelT]) -> None:
        """`last.pt`: everything, to resume from."""
        save_checkpoint(self.path / "last.pt", self._checkpoint(state, state.state_dict()))

    def save_best(self, state: TrainingState[ModelT]) -> None:
        """`best.pt`: the averaged weights, for use."""
        save_checkpoint(self.path / "best.pt", self._checkpoint(state))

    def _checkpoint(self, state: TrainingState[ModelT], training: dict[str, Any] | None = None) -> Checkpoint:
        weights = _cpu_float_weights(state.ema_or_model)
        return Checkpoint(self.task, self.config, self.categories, weights, training)

    def read_metrics(self) -> list[dict[str, Any]]:
        """The epochs so far; lines that are damaged are left out, and told."""
        path = self.path / "metrics.jsonl"
        lines: list[dict[str, Any]] = []
        for number, text in enumerate(path.read_text().splitlines() if path.exists() else [], 1):
            try:
                line = json.loads(text)
                line["epoch"] + 0
            except (ValueError, KeyError, TypeError):
                log.warning("%s:%d: is damaged, and left out", path, number)
            else:
                lines.append(line)
        return lines

    def write_metrics(self, epoch_metrics: dict[str, Any]) -> None:
        """Add the line of one epoch; lines of that epoch or later, left by a run that was cut off, go away."""
        lines = [old for old in self.read_metrics() if old["epoch"] < epoch_metrics["epoch"]] + [epoch_metrics]
        write_text(self.path / "metrics.jsonl", "".join(json.dumps(entry) + "\n" for entry in lines))

    def write_results(self, metrics: dict[str, Any], results: list[dict[str, Any]] | None) -> None:
        """`metrics.json`, and `detections.json` of a detector, of the best evaluation, as `eval` writes them."""
        write_text(self.path / "metrics.json", json.dumps(metrics, indent=1) + "\n")
        if results is not None:
            write_text(self.path / "detections.json", json.dumps(results))

    @contextmanager
    def tensorboard(self, step: int) -> Iterator[Any]:
        """A SummaryWriter, or None where it cannot write; what an earlier process wrote past `step` is hidden."""
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and only training needs it

        writer = None
        with self._ignore_write_errors():
            writer = SummaryWriter(str(self.path / "tensorboard"), purge_step=step or None)
        try:
            yield writer
        finally:
            with self._ignore_write_errors():
                if writer is not None:
                    writer.close()

    @contextmanager
    def _ignore_write_errors(self) -> Iterator[None]:
        """TensorBoard's page is not worth a run: what it cannot write is told once."""
        try:
            yield
        except OSError as error:
            if not self._write_error_logged:
                log.warning("%s: cannot be written: %s; the run goes on", self.path / "tensorboard", error.strerror)
            self._write_error_logged = True

    def add_scalars(self, writer: Any, epoch_metrics: dict[str, Any], step: int) -> None:
        """The numbers of an epoch, onto TensorBoard's page, what belongs together in one group."""
        if writer is None:
            return
        with self._ignore_write_errors():
            for name, value in epoch_metrics.items():
                if isinstance(value, (int, float)) and name not in ("epoch", "step", "images_seen"):
                    writer.add_scalar(scalar_tag(name), value, step)

    def add_images(self, writer: Any, names: Sequence[str], step: int) -> None:
        """Pictures of this folder, where they are there, onto TensorBoard's page."""
        for name in names:
            image = cv2.imread(str(self.path / name)) if (self.path / name).exists() else None
            if writer is not None and image is not None:
                with self._ignore_write_errors():
                    writer.add_image(name.removesuffix(".jpg"), image[..., ::-1].copy(), step, dataformats="HWC")

    def save_image(self, name: str, image: np.ndarray) -> None:
        """An (H, W, 3) uint8 RGB picture as JPEG."""
        encoded, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
        assert encoded
        write_bytes(self.path / name, data.tobytes())


def scalar_tag(name: str) -> str:
    """Where a number of `metrics.jsonl` stands on TensorBoard's page: `group/name`."""
    if name.startswith(("AP", "AR")):
        return f"{name[:2]}/{name}"
    if name.startswith("top"):
        return f"accuracy/{name}"
    if name.startswith("loss"):
        return f"loss/{name.removeprefix('loss_') if name != 'loss' else 'total'}"
    return f"run/{name}"


def _cpu_float_weights(model: nn.Module) -> dict[str, Any]:
    return {
        name: value.detach().float().cpu() if value.is_floating_point() else value.cpu()
        for name, value in model.state_dict().items()
    }
