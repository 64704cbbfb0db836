"""The training loop, the same for every task: batches in, `last.pt` and `best.pt` out.

A step: the task's batch -> `to_input` -> the network -> the task's loss -> backward, step, average.
"""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import Any, Generic

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cspdet.checkpoint import Checkpoint
from cspdet.datasets.loader import explain_death
from cspdet.errors import UserError
from cspdet.inference.predictor import to_input
from cspdet.precision import autocast, pick_precision
from cspdet.recipe import TrainerConfig
from cspdet.training.memory import reuse_freed_memory
from cspdet.training.progress import EpochMeter
from cspdet.training.run_folder import RunFolder
from cspdet.training.schedule import rate
from cspdet.training.state import TrainingState
from cspdet.training.stop import StopRequest
from cspdet.training.task import AnyLosses, B, Model, Task

log = logging.getLogger("cspdet")

# So many steps in a row without a finite loss or gradient end the run: it will not come back by itself.
MOST_SKIPPED_STEPS = 20
# With fp16, the scaler finds its scale by skipping a few steps in a row: nothing to report.
USUAL_SCALER_SKIPS = 6
# Multi-scale steps for networks that take pictures of any size.
USUAL_STRIDE = 32


class Trainer(Generic[Model, B]):
    """One run. `model` comes with its first weights; `folder` is where everything goes."""

    def __init__(self, model: Model, task: Task[Model, B], folder: RunFolder, device: torch.device):
        self.task, self.folder, self.device = task, folder, device
        self.config: TrainerConfig = task.recipe.train
        self.precision = pick_precision(self.config.precision, device)
        self.state = TrainingState(model, self.config, device, self.precision)
        self.loader = task.loader
        self.accumulate = max(1, round(self.config.nominal_batch_size / self.config.batch_size))
        self.total_steps = self.config.epochs * math.ceil(len(self.loader) / self.accumulate)
        self._skipped_in_a_row = 0
        self._saved_at = time.monotonic()

    def resume(self, checkpoint: Checkpoint) -> None:
        """Continue from the `training` part of a checkpoint of the same recipe."""
        assert checkpoint.training is not None
        self.state.load_state_dict(checkpoint.training, checkpoint.weights)

    def run(self, stop_after: int | None = None) -> int:
        """Train to the end, or to the end of epoch `stop_after`; the exit code: 0, or 130 or 143 when interrupted."""
        last_epoch = min(self.config.epochs, stop_after or self.config.epochs)
        if self.device.type == "cpu":
            reuse_freed_memory()
        try:
            return self._run(last_epoch)
        except RuntimeError as error:  # torch raises a loader worker's death wherever the main process happens to be
            raise explain_death(error) or error from None

    def _run(self, last_epoch: int) -> int:
        with StopRequest() as stop, self.folder.tensorboard(self.state.position.step) as board:
            while self.state.position.epoch < last_epoch:
                line = self._epoch(stop)
                if line is None:
                    self._save()
                else:
                    self._finish_epoch(line, board)
                if stop.exit_code and self.state.position.epoch < self.config.epochs:
                    path = self.folder.path
                    log.info("stopped and saved in %s; go on with: cspdet %s --resume %s", path, self.task.verb, path)
                    return stop.exit_code
        return 0

    def _epoch(self, stop: StopRequest) -> dict[str, Any] | None:
        """The rest of the epoch under way; its line of metrics, or None when asked to stop before its end."""
        position = self.state.position
        meter = EpochMeter(position.epoch, self.config.epochs, len(self.loader), position.batch)
        self.state.model.train()
        self.state.optimizer.zero_grad()
        for batch in meter.watch(self.loader.epoch(position.epoch, position.batch)):
            if position.step == 0 and position.batch == 0:
                self.folder.save_picture("train_batch.jpg", self.task.draw_batch(batch))
            losses = self._backward(batch)
            self._count(losses, batch)
            meter.show(position.sums)
            if position.batch % self.accumulate == 0 or position.batch == len(self.loader):
                self._step(batch)
                if stop.exit_code and position.batch < len(self.loader):
                    meter.close()
                    return None
                if time.monotonic() - self._saved_at > 60 * self.config.save_every_minutes:
                    self._save()
        meter.close()
        batches = position.sums.pop("batches")
        # null, not 0, in an epoch without any finite loss
        means = {name: total / batches if batches else None for name, total in position.sums.items()}
        return {
            "epoch": position.epoch + 1,
            "step": position.step,
            "images_seen": position.images_seen,
            "lr": self._learning_rate(max(0, position.step - 1)),
            "loss": sum(position.sums.values()) / batches if batches else None,
            **means,
            **meter.rates(),
        }

    def _backward(self, batch: B) -> AnyLosses:
        """Add the gradients of one batch."""
        images = self._rescale(to_input(batch.images, self.device))
        with autocast(self.device, self.precision):
            output = self.state.model(images)
        losses = self.task.losses(self.state.model, output, batch, (images.shape[2], images.shape[3]))
        self.state.scaler.scale(losses.total / self.accumulate).backward()
        return losses

    def _rescale(self, images: Tensor) -> Tensor:
        """Multi-scale: the batch at a size that depends on (seed, epoch, batch) only."""
        scales, position = self.config.multi_scale, self.state.position
        if scales is None:
            return images
        height, width = images.shape[2:]
        stride = max(self.state.model.strides)
        stride = USUAL_STRIDE if stride == 1 else stride
        draw = np.random.default_rng((self.config.seed, position.epoch, position.batch // scales.every))
        factor = draw.uniform(scales.low, scales.high)
        size = tuple(max(stride, round(side * factor / stride) * stride) for side in (height, width))
        if size == (height, width):
            return images
        return F.interpolate(images, size, mode="bilinear", align_corners=False)

    def _count(self, losses: AnyLosses, batch: B) -> None:
        """Move the position past one batch."""
        position = self.state.position
        position.batch += 1
        position.images_seen += len(batch.images)
        values = {f"loss_{name}": part.item() for name, part in zip(self.task.loss_names, losses, strict=True)}
        finite = all(math.isfinite(value) for value in values.values())
        for name, value in {**values, "batches": 1.0}.items():
            position.sums[name] = position.sums.get(name, 0.0) + (value if finite else 0.0)

    def _step(self, batch: B) -> None:
        """One optimizer step with the gradients that were added up; skipped when they are not finite."""
        state, position = self.state, self.state.position
        for group in state.optimizer.param_groups:
            group["lr"] = self._learning_rate(position.step)
        state.scaler.unscale_(state.optimizer)
        longest = self.config.optimizer.clip_norm
        norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), longest if longest else math.inf, foreach=True)
        finite = bool(norm.isfinite())
        if finite or state.scaler.is_enabled():  # the scaler skips the step by itself and lowers its scale
            state.scaler.step(state.optimizer)
        state.scaler.update()
        state.optimizer.zero_grad()
        if state.ema is not None and finite:
            state.ema.update(state.model)
        position.step += 1
        self._skipped_in_a_row = 0 if finite else self._skipped_in_a_row + 1
        if not finite:
            position.skipped_steps += 1
            self._report_skip(batch)

    def _report_skip(self, batch: B) -> None:
        pictures = f"{self.task.image_names} of the last: {', '.join(self.task.names_of(batch)[:8])}"
        epoch = self.state.position.epoch + 1
        if self.state.scaler.is_enabled() and self._skipped_in_a_row < USUAL_SCALER_SKIPS:
            return
        log.warning("epoch %d: step skipped, its gradient is not finite (%s)", epoch, pictures)
        if self._skipped_in_a_row >= MOST_SKIPPED_STEPS:
            raise UserError(
                f"epoch {epoch}: {MOST_SKIPPED_STEPS} steps in a row without a finite gradient ({pictures}); "
                f"lower train.optimizer.learning_rate (now {self.config.optimizer.learning_rate}) or use "
                f"train.precision=fp32 (now {self.precision}); {self.folder.path}/last.pt holds the epoch before"
            )

    def _learning_rate(self, step: int) -> float:
        return self.config.optimizer.learning_rate * rate(self.config.schedule, step, self.total_steps)

    def _finish_epoch(self, line: dict[str, Any], board: Any) -> None:
        """Evaluate when due, write the epoch's line, and save."""
        position = self.state.position
        position.epoch, position.batch, position.sums = position.epoch + 1, 0, {}
        due = position.epoch % self.config.evaluate_every == 0 or position.epoch == self.config.epochs
        if due and self.task.can_judge:
            line |= self._evaluate()
        if not self.task.can_judge:
            self.folder.save_best(self.state)
        self.folder.write_metrics(line)
        self.folder.add_scalars(board, line, position.step)
        if due:
            self.folder.add_pictures(board, ("train_batch.jpg", self.task.val_picture), position.step)
        log.info("%s", self._summary(line))
        if self.loader.skipped:
            log.warning("%d unreadable pictures were replaced by others so far", len(self.loader.skipped))
        self._save()

    def _summary(self, line: dict[str, Any]) -> str:
        """An epoch in one line of the log."""
        if line["loss"] is None:
            return f"epoch {line['epoch']} of {self.config.epochs}: no batch had a finite loss"
        parts = ", ".join(f"{name} {line[f'loss_{name}']:.3f}" for name in self.task.loss_names)
        numbers = "".join(f"  {name} {line[name]:.4f}" for name in self.task.told if line.get(name) is not None)
        return (
            f"epoch {line['epoch']} of {self.config.epochs}: loss {line['loss']:.3f} ({parts})  "
            f"{line['images_per_second']:.1f} images/s, waiting {line['data_wait_fraction']:.0%}{numbers}"
        )

    def _evaluate(self) -> dict[str, float | None]:
        """The task's judgment of the averaged weights; the best ones are kept, with what they found."""
        position, name = self.state.position, self.folder.path.name
        judgment = self.task.judge(self.state.averaged, name)
        self.folder.save_picture(self.task.val_picture, judgment.picture)
        if judgment.score > position.best or not (self.folder.path / "best.pt").exists():
            position.best = judgment.score
            self.folder.save_best(self.state)
            about = {"model": name, "size": list(self.task.recipe.input.size), "epoch": position.epoch}
            self.folder.write_results({**judgment.document, **about}, judgment.results)
        return judgment.numbers

    def _save(self) -> None:
        self.folder.save_last(self.state)
        self._saved_at = time.monotonic()


def report_folder(path: Path, picture: str) -> str:
    """Where to look after a run; `picture` is the file of a judgment's picture."""
    return (
        f"{path}: best.pt (use it), last.pt (resume from it), metrics.jsonl, {picture}; "
        f"curves: tensorboard --logdir {path}/tensorboard"
    )
