"""The training loop, the same for every task: batches in, `last.pt` and `best.pt` out.

A step: the task's batch -> `to_input` -> the network -> the task's loss -> backward, step, average.
"""

from __future__ import annotations

import gc
import inspect
import logging
import math
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Generic

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cspdet.datasets.detection.loader import explain_death
from cspdet.device import autocast, pick_precision
from cspdet.errors import UserError
from cspdet.inference.predictor import to_input
from cspdet.io.checkpoint import Checkpoint
from cspdet.recipe import TrainerConfig
from cspdet.training.cpu_fast_paths.memory import reuse_freed_memory
from cspdet.training.cpu_fast_paths.switch import cpu_ways
from cspdet.training.distributed.context import World
from cspdet.training.distributed.sync_norm import synchronized
from cspdet.training.run.graceful_stop import EXIT_CODES, StopRequest
from cspdet.training.run.progress import EpochMeter
from cspdet.training.run.run_dir import RunFolder
from cspdet.training.schedule import rate
from cspdet.training.state import TrainingState
from cspdet.training.tasks.base import B, Model, Task

log = logging.getLogger("cspdet")

# So many steps in a row without a finite loss or gradient end the run: it will not come back by itself.
MOST_SKIPPED_STEPS = 20
# With fp16, the scaler finds its scale by skipping a few steps in a row: nothing to report.
USUAL_SCALER_SKIPS = 6
# Statistics are the same everywhere, or are to be each process's own; torch 2.15 renamed the switch.
SWITCH = "forward_sync_buffers"
NEW = SWITCH in inspect.signature(DistributedDataParallel).parameters
OWN_BUFFERS: dict[str, Any] = {SWITCH if NEW else "broadcast_buffers": False}
# Multi-scale steps for networks that take pictures of any size.
USUAL_STRIDE = 32


class Trainer(Generic[Model, B]):
    """One run, or one process's part of it. `model` comes with its first weights; rank 0 of `world` writes `folder`."""

    def __init__(
        self, model: Model, task: Task[Model, B], folder: RunFolder, device: torch.device, world: World | None = None
    ):
        self.task, self.folder, self.device, self.world = task, folder, device, world or World()
        self.config: TrainerConfig = task.recipe.train
        self.precision = pick_precision(self.config.precision, device)
        self.state = TrainingState(model, self.config, device, self.precision)
        if self.world.size > 1 and self.config.sync_batch_norm:
            synchronized(self.state.model)  # not the average, which is only evaluated
        self.network = self._network()
        # A compiled network has no calls left in it that could be taken for others.
        self._cpu_ways = nullcontext() if self.config.compile else cpu_ways(device, self.precision)
        self.loader = task.loader
        self.accumulate = max(1, round(self.config.nominal_batch_size / self.config.step_pictures))
        self.total_steps = self.config.epochs * math.ceil(len(self.loader) / self.accumulate)
        self._pending: list[Tensor] = []  # losses of batches whose step is not made yet
        self._skipped_in_a_row = 0
        self._saved_at = time.monotonic()

    def _network(self) -> nn.Module:
        """What the batches go through: the model itself, or what averages its gradients over all processes."""
        network: nn.Module = self.state.model
        if self.world.size > 1:
            ids = [self.device] if self.device.type == "cuda" else None
            with self.world.talking("comparing the networks"):
                network = DistributedDataParallel(network, ids, gradient_as_bucket_view=True, **OWN_BUFFERS)
        return torch.compile(network) if self.config.compile else network  # type: ignore[return-value]

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
        # Only rank 0 opens TensorBoard's file.
        opened = self.folder.tensorboard(self.state.position.step) if self.world.is_first else nullcontext()
        with StopRequest() as stop, opened as board:
            while self.state.position.epoch < last_epoch and not self._has_ended():
                line = self._epoch(stop)
                if line is None:
                    self._save()
                else:
                    self._finish_epoch(line, board, stop)
                if stop.agreed and self.state.position.epoch < self.config.epochs:
                    path = self.folder.path
                    log.info("stopped and saved in %s; go on with: cspdet %s --resume %s", path, self.task.verb, path)
                    return stop.agreed
        return 0

    def _has_ended(self) -> bool:
        """Whether the evaluations have not become better for as long as `patience` waits."""
        position, patience = self.state.position, self.config.patience
        if patience is None or position.stale < patience:
            return False
        log.info(
            "no better evaluation in %d of them (train.patience): ends after epoch %d", position.stale, position.epoch
        )
        return True

    def _epoch(self, stop: StopRequest) -> dict[str, Any] | None:
        """The rest of the epoch under way; its line of metrics, or None when asked to stop before its end."""
        position = self.state.position
        meter = EpochMeter(
            position.epoch, self.config.epochs, len(self.loader), position.batch, self.loader.batch_pictures
        )
        self.state.train()
        self.state.optimizer.zero_grad()
        for batch in meter.watch(self.loader.epoch(position.epoch, position.batch)):
            self.world.at(f"epoch {position.epoch + 1}, batch {position.batch + 1}")
            if position.step == 0 and position.batch == 0 and self.world.is_first:
                self.folder.save_picture("train_batch.jpg", self.task.draw_batch(batch))
            last = position.batch + 1 == len(self.loader)
            due = last or (position.batch + 1) % self.accumulate == 0
            self._backward(batch, due)
            position.images_seen += self.loader.batch_pictures(position.batch)
            position.batch += 1
            if due:
                self._step(batch, stop)
                meter.show(position.sums)
                if stop.agreed and not last:
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

    def _backward(self, batch: B, due: bool) -> None:
        """Add the gradients of one batch; those of all processes are put together when a step is `due`."""
        images = self._rescale(to_input(batch.images, self.device))
        with self.world.talking("computing gradients"), self._alone(not due):
            with autocast(self.device, self.precision), self._cpu_ways:
                output = self.network(images)
            size_hw = (images.shape[2], images.shape[3])
            losses = self.task.losses(self.state.model, output, batch, size_hw, self.world.sum)
            # Every process has its part of the sum, but gradients are averaged.
            self.state.scaler.scale(losses.total * self.world.size / self.accumulate).backward()
        self._pending.append(torch.stack([part.detach() for part in losses]))

    def _alone(self, alone: bool) -> AbstractContextManager[None]:
        """Leave out the averaging over processes."""
        network = getattr(self.network, "_orig_mod", self.network)  # of torch.compile
        return network.no_sync() if alone and isinstance(network, DistributedDataParallel) else nullcontext()

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

    def _step(self, batch: B, stop: StopRequest) -> None:
        """One optimizer step with the gradients that were added up; skipped when they are not finite."""
        state, position = self.state, self.state.position
        for group in state.optimizer.param_groups:
            group["lr"] = self._learning_rate(position.step)
        state.scaler.unscale_(state.optimizer)
        longest = self.config.optimizer.clip_norm
        norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), longest if longest else math.inf, foreach=True)
        finite = self._read(norm, stop)
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
            state.mend_statistics()
            self._report_skip(batch)

    def _read(self, norm: Tensor, stop: StopRequest) -> bool:
        """Count the losses of the step's batches and agree on stopping; whether `norm`, of the gradient, is finite.

        The one place in a step that waits for the device, when all of its work but the update is queued.
        """
        parts = len(self.task.loss_names)
        asked = norm.new_tensor([float(stop.exit_code == code) for code in EXIT_CODES.values()])
        told = self.world.sum(torch.cat((*self._pending, asked)))
        *values, length = torch.cat((told, norm[None])).tolist()
        stop.agree(values[len(values) - len(EXIT_CODES) :])
        sums = self.state.position.sums
        for at in range(0, parts * len(self._pending), parts):
            losses = values[at : at + parts]
            whole = all(math.isfinite(value) for value in losses)
            for name, value in zip(self.task.loss_names, losses, strict=True):
                sums[f"loss_{name}"] = sums.get(f"loss_{name}", 0.0) + (value if whole else 0.0)
            sums["batches"] = sums.get("batches", 0.0) + whole
        self._pending.clear()
        return math.isfinite(length)

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

    def _finish_epoch(self, line: dict[str, Any], board: Any, stop: StopRequest) -> None:
        """Evaluate when due, write the epoch's line, and save."""
        position = self.state.position
        position.epoch, position.batch, position.sums = position.epoch + 1, 0, {}
        due = position.epoch % self.config.evaluate_every == 0 or position.epoch == self.config.epochs
        if due and self.task.can_judge:
            line |= self._evaluate()
        skipped = {name for names in self.world.gather(list(self.loader.skipped)) for name in names}
        if self.world.is_first:
            if not self.task.can_judge:
                self.folder.save_best(self.state)
            self.folder.write_metrics(line)
            self.folder.add_scalars(board, line, position.step)
            if due:
                self.folder.add_pictures(board, ("train_batch.jpg", self.task.val_picture), position.step)
        log.info("%s", self._summary(line))
        if skipped:
            log.warning("%d unreadable pictures were replaced by others so far", len(skipped))
        self._save()
        # A signal that came during the evaluation, at any process.
        asked = torch.tensor([float(stop.exit_code == code) for code in EXIT_CODES.values()], device=self.device)
        stop.agree(self.world.sum(asked).tolist())

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
        judgment = self.task.judge(self.state.averaged, name, self.world)
        gc.collect()  # tracing the network for its pictures leaves cycles that hold copies of its weights
        lost = judgment is not None and not (self.folder.path / "best.pt").exists()
        score, lost = self.world.share((judgment.score if judgment else 0.0, lost))
        better = score > position.best or lost
        position.best = score if better else position.best
        position.stale = 0 if better else position.stale + 1
        if judgment is None:  # rank 0 has it
            return {}
        self.folder.save_picture(self.task.val_picture, judgment.picture)
        if better:
            self.folder.save_best(self.state)
            about = {"model": name, "size": list(self.task.recipe.input.size), "epoch": position.epoch}
            self.folder.write_results({**judgment.document, **about}, judgment.results)
        return judgment.numbers

    def _save(self) -> None:
        if self.world.is_first:
            self.folder.save_last(self.state)
        self._saved_at = time.monotonic()


def report_folder(path: Path, picture: str) -> str:
    """Where to look after a run; `picture` is the file of a judgment's picture."""
    return (
        f"{path}: best.pt (use it), last.pt (resume from it), metrics.jsonl, {picture}; "
        f"curves: tensorboard --logdir {path}/tensorboard"
    )
