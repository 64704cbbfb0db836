"""TensorBoard logger: scalars and images in the `tensorboard` folder of the run."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import cv2

from cspdet.io.text import opencv_path
from cspdet.training.loggers.base import Logger

log = logging.getLogger("cspdet")

NOT_SCALARS = ("epoch", "step", "images_seen")  # values of the x axis


class TensorBoardLogger(Logger):
    """Logger that writes TensorBoard event files. The first write error is logged as a warning; the run continues."""

    def __init__(self, config: Any, run_dir: Path):
        super().__init__(config, run_dir)
        self._writer: Any = None
        self._write_error_logged = False

    def open(self, step: int) -> None:
        """Create an event file; TensorBoard hides the events that an earlier process wrote for steps after `step`."""
        from torch.utils.tensorboard import SummaryWriter  # imported here because the import is slow

        with self._ignore_write_errors():
            silence_writer_threads()
            self._writer = SummaryWriter(str(self.run_dir / "tensorboard"), purge_step=step or None)

    def log_metrics(self, metrics: dict[str, Any], step: int) -> None:
        """Write each metric of an epoch as a scalar, tagged by `scalar_tag`."""
        if self._writer is None:
            return
        with self._ignore_write_errors():
            for name, value in metrics.items():
                if isinstance(value, (int, float)) and name not in NOT_SCALARS:
                    self._writer.add_scalar(scalar_tag(name), value, step)

    def log_images(self, paths: Sequence[Path], step: int) -> None:
        """Write the images whose files exist."""
        for path in paths:
            image = cv2.imread(opencv_path(path)) if path.exists() else None
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
        except (OSError, UnicodeEncodeError) as error:  # TensorBoard takes only folders whose names are UTF-8
            if not self._write_error_logged:
                path = self.run_dir / "tensorboard"
                log.warning("%s: cannot be written: %s; the run continues", path, getattr(error, "strerror", error))
            self._write_error_logged = True


@cache
def silence_writer_threads() -> None:
    """Print no traceback when the writer thread of TensorBoard ends with a file error.

    TensorBoard raises the same error in the main thread at the next call, where this module handles it.
    """
    from tensorboard.summary.writer.event_file_writer import _AsyncWriterThread

    report = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        if not (isinstance(args.thread, _AsyncWriterThread) and isinstance(args.exc_value, OSError)):
            report(args)

    threading.excepthook = hook


def scalar_tag(name: str) -> str:
    """Return the TensorBoard tag of a metric, `group/name`, such as `AP/AP50` or `loss/box`."""
    if name.startswith(("AP", "AR")):
        return f"{name[:2]}/{name}"
    if name.startswith("top"):
        return f"accuracy/{name}"
    if name.startswith("loss"):
        return f"loss/{name.removeprefix('loss_') if name != 'loss' else 'total'}"
    return f"run/{name}"
