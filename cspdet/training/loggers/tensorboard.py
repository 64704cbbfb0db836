"""Scalars and images for TensorBoard, in the folder `tensorboard` of the run."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2

from cspdet.training.loggers.base import Logger

log = logging.getLogger("cspdet")

NOT_SCALARS = ("epoch", "step", "images_seen")  # the axis, not the curves


class TensorBoardLogger(Logger):
    """Writes event files. What cannot be written is reported once, and the run continues."""

    def __init__(self, config: Any, run_dir: Path):
        super().__init__(config, run_dir)
        self._writer: Any = None
        self._write_error_logged = False

    def open(self, step: int) -> None:
        """Open an event file; what an earlier process wrote after `step` is hidden."""
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and only training needs it

        with self._ignore_write_errors():
            self._writer = SummaryWriter(str(self.run_dir / "tensorboard"), purge_step=step or None)

    def log_metrics(self, metrics: dict[str, Any], step: int) -> None:
        """Write every number of an epoch as a scalar; related ones are in one group."""
        if self._writer is None:
            return
        with self._ignore_write_errors():
            for name, value in metrics.items():
                if isinstance(value, (int, float)) and name not in NOT_SCALARS:
                    self._writer.add_scalar(scalar_tag(name), value, step)

    def log_images(self, paths: Sequence[Path], step: int) -> None:
        """Write the images that exist."""
        for path in paths:
            image = cv2.imread(str(path)) if path.exists() else None
            if self._writer is not None and image is not None:
                with self._ignore_write_errors():
                    self._writer.add_image(path.stem, image[..., ::-1].copy(), step, dataformats="HWC")

    def close(self) -> None:
        """Flush and close the event file."""
        with self._ignore_write_errors():
            if self._writer is not None:
                self._writer.close()
        self._writer = None

    @contextmanager
    def _ignore_write_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self._write_error_logged:
                path = self.run_dir / "tensorboard"
                log.warning("%s: cannot be written: %s; the run goes on", path, error.strerror)
            self._write_error_logged = True


def scalar_tag(name: str) -> str:
    """The tag of a metric in TensorBoard: `group/name`."""
    if name.startswith(("AP", "AR")):
        return f"{name[:2]}/{name}"
    if name.startswith("top"):
        return f"accuracy/{name}"
    if name.startswith("loss"):
        return f"loss/{name.removeprefix('loss_') if name != 'loss' else 'total'}"
    return f"run/{name}"
