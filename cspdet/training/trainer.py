"""The training loop of all tasks; it writes `last.pt` and `best.pt`.

`Trainer.step`: batch -> `to_float_tensor` -> network -> the task's losses -> backward -> optimizer step -> EMA update.
"""

from __future__ import annotations

import logging
import math
import time
from contextlib import nullcontext
from typing import Any, Generic

import torch
import torch.nn.functional as F
from torch import Tensor

from cspdet.datasets.workers import worker_crash_error
from cspdet.device import autocast, resolve_precision, to_float_tensor
from cspdet.errors import UserError
from cspdet.io.checkpoint import Checkpoint
from cspdet.training.batch_size import single_value_error
from cspdet.training.config import MultiScaleConfig, TrainerConfig
from cspdet.training.cpu_fast_paths import disable_malloc_trim, use_cpu_fast_paths
from cspdet.training.distributed.context import DistributedContext
from cspdet.training.distributed.data_parallel import gradient_reduction, wrap_model
from cspdet.training.distributed.sync_norm import convert_sync_batchnorm
from cspdet.training.epoch_end import EpochEnd
from cspdet.training.loggers.base import Loggers
from cspdet.training.losses.base import AllReduce
from cspdet.training.run.graceful_stop import EXIT_CODES, GracefulStop
from cspdet.training.run.progress import EpochMeter
from cspdet.training.run.run_dir import RunDir
from cspdet.training.schedule import lr_factor, random_input_size
from cspdet.training.state import TrainingState
from cspdet.training.tasks.base import BatchT, ModelT, Task

log = logging.getLogger("cspdet")

# Maximum number of consecutive steps without a finite gradient; then the run fails, because it would not recover.
MAX_SKIPPED_STEPS = 20
# With fp16, the gradient scaler skips a few consecutive steps while it adjusts its scale; these are not reported.
EXPECTED_SCALER_SKIPS = 6


class Trainer(Generic[ModelT, BatchT]):
    """Training loop of one process of a run; rank 0 writes the run folder."""

    def __init__(
        self,
        model: ModelT,
        task: Task[ModelT, BatchT, Any],
        config: TrainerConfig,
        run_dir: RunDir,
        device: torch.device,
        context: DistributedContext | None = None,
    ):
        """Prepare the run.

        Args:
            model: The network with its initial weights.
            task: Batches, loss and evaluation.
            config: The `train` section of the recipe.
            run_dir: The run folder.
            device: Device for training.
            context: Process group of the run; None: a single process.

        Raises:
            ConfigError: The device or the network does not support a setting.
        """
        self.task, self.run_dir, self.device, self.context = task, run_dir, device, context or DistributedContext()
        self.config = config
        self.precision = resolve_precision(self.config.precision, device)
        self.state = TrainingState(model, self.config, device, self.precision, run_dir.categories.names)
        self.is_distributed = self.context.world_size > 1
        if self.is_distributed and self.config.sync_batch_norm:
            convert_sync_batchnorm(self.state.model)  # not the EMA model, which is only evaluated
        self.network = wrap_model(self.state.model, device, self.context, compiled=config.compile)
        # With one process, all_reduce_sum returns its argument.
        self._all_reduce_sum: AllReduce = self.context.all_reduce_sum if self.is_distributed else Tensor.detach
        self._uses_fast_paths = use_cpu_fast_paths(config, device)
        self.loader = task.loader
        self.accumulate = max(1, round(self.config.nominal_batch_size / self.config.max_batch_size))
        self.num_batches = len(self.loader)
        self.total_steps = self.config.epochs * math.ceil(self.num_batches / self.accumulate)
        self._pending_losses: list[Tensor] = []  # losses since the last optimizer step
        self._consecutive_skips = 0
        self._saved_at = time.monotonic()
        self._epoch_end: EpochEnd[ModelT, BatchT] = EpochEnd(task, config, run_dir, self.state, self.context)

    def resume(self, checkpoint: Checkpoint) -> None:
        """Restore the training state of a checkpoint of the same recipe; raise CheckpointError if it is incomplete."""
        self.state.resume(checkpoint, str(self.run_dir.path / "last.pt"))

    def run(self, stop_after: int | None = None) -> int:
        """Train to the end, or to the end of epoch `stop_after`.

        Returns:
            The exit code: 0; if the run was stopped, 130 (SIGINT), 143 (SIGTERM) or 129 (SIGHUP).
        """
        last_epoch = min(self.config.epochs, stop_after or self.config.epochs)
        if self._uses_fast_paths:
            disable_malloc_trim()
        try:
            return self._run(last_epoch)
        except (RuntimeError, ValueError) as error:  # raised anywhere in the main process when a loader worker dies
            raise worker_crash_error(error) or single_value_error(error) or error from None

    def _run(self, last_epoch: int) -> int:
        configs = self.config.loggers if self.context.is_main_process else ()
        loggers = Loggers(configs, self.run_dir.path).starting_at(self.state.progress.step)
        with GracefulStop() as stop, loggers:
            while self.state.progress.epoch < last_epoch and not self._epoch_end.should_stop_early():
                epoch_metrics = self._train_epoch(stop)
                if epoch_metrics is None:
                    self._save()
                else:
                    self._finish_epoch(epoch_metrics, loggers, stop)
                if stop.stop_code and self.state.progress.epoch < self.config.epochs:
                    path, command = self.run_dir.path, self.task.command
                    log.info("stopped and saved in %s; resume with: cspdet %s --resume %s", path, command, path)
                    return stop.stop_code
        return 0

    def _train_epoch(self, stop: GracefulStop) -> dict[str, Any] | None:
        """Train the remaining batches of the current epoch; return its metrics, or None if a stop was requested."""
        progress = self.state.progress
        meter = EpochMeter(
            progress.epoch, self.config.epochs, self.num_batches, progress.batch, self.loader.images_in_batch
        )
        self.state.train()
        self.state.optimizer.zero_grad()
        for batch in meter.iterate(self.loader.epoch(progress.epoch, progress.batch)):
            if self.is_distributed:
                self.context.set_progress(f"epoch {progress.epoch + 1}, batch {progress.batch + 1}")
            if progress.step == 0 and progress.batch == 0 and self.context.is_main_process:
                self.run_dir.save_image("train_batch.jpg", self.task.draw_batch(batch))
            last = progress.batch + 1 == self.num_batches
            update = last or (progress.batch + 1) % self.accumulate == 0
            self.step(batch, stop, update=update)
            if update:
                meter.show(progress.loss_sums)
                if stop.stop_code and not last:
                    meter.close()
                    return None
                if time.monotonic() - self._saved_at > 60 * self.config.checkpoint_interval_minutes:
                    self._save()
        meter.close()
        return meter.metrics(progress, self._learning_rate(max(0, progress.step - 1)))

    def step(self, batch: BatchT, stop: GracefulStop, *, update: bool) -> None:
        """Compute and accumulate the gradients of one batch; with `update`, do an optimizer step.

        Args:
            batch: The batch.
            stop: Stop requests, synchronized over the processes at each optimizer step.
            update: Whether to do an optimizer step with the accumulated gradients.
        """
        progress = self.state.progress
        self._backward(batch, update)
        progress.images_seen += self.loader.images_in_batch(progress.batch)
        progress.batch += 1
        if update:
            self._update(batch, stop)

    def _backward(self, batch: BatchT, update: bool) -> None:
        """Accumulate the gradients of one batch; with `update`, all-reduce them over the processes."""
        images = to_float_tensor(batch.images, self.device)
        if self.config.multi_scale is not None:
            images = self._random_resize(images, self.config.multi_scale)
        reduction = gradient_reduction(self.network, self.context, update) if self.is_distributed else nullcontext()
        with reduction:
            with autocast(self.device, self.precision):
                output = self.network(images)
            size_hw = (images.shape[2], images.shape[3])
            losses = self.task.losses(self.state.model, output, batch, size_hw, self._all_reduce_sum)
            # The losses of the processes add up to the batch loss, but DDP averages gradients.
            self.state.scaler.scale(losses.total * self.context.world_size / self.accumulate).backward()
        self._pending_losses.append(torch.stack([part.detach() for part in losses]))

    def _random_resize(self, images: Tensor, config: MultiScaleConfig) -> Tensor:
        """Resize the images for multi-scale training, to a size determined by (seed, epoch, batch)."""
        progress, size_hw = self.state.progress, (images.shape[2], images.shape[3])
        stride = max(self.state.model.strides)
        seed = (self.config.seed, progress.epoch, progress.batch // config.interval)
        new_hw = random_input_size(config, size_hw, stride, seed)
        return images if new_hw == size_hw else F.interpolate(images, new_hw, mode="bilinear", align_corners=False)

    def _update(self, batch: BatchT, stop: GracefulStop) -> None:
        """Do one optimizer step and EMA update if all accumulated gradients are finite."""
        state, progress = self.state, self.state.progress
        for group in state.optimizer.param_groups:
            group["lr"] = self._learning_rate(progress.step) * group["lr_factor"]
        state.scaler.unscale_(state.optimizer)
        state.mask_gradients()
        longest = self.config.optimizer.clip_norm
        norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), longest if longest else math.inf, foreach=True)
        finite = self._sync_losses_and_norm(norm, stop)
        if finite or state.scaler.is_enabled():  # the scaler itself skips a non-finite step and lowers its scale
            state.step()
        state.scaler.update()
        state.optimizer.zero_grad()
        if state.ema is not None and finite:
            state.ema.update(state.model)
        progress.step += 1
        self._consecutive_skips = 0 if finite else self._consecutive_skips + 1
        if not finite:
            progress.skipped_steps += 1
            state.reset_nonfinite_bn_stats()
            self._report_skip(batch)

    def _sync_losses_and_norm(self, norm: Tensor, stop: GracefulStop) -> bool:
        """Add the losses of all processes to the progress, and synchronize the stop requests.

        This is the only device synchronization of a step; all kernels except the update are queued before it. Returns
        whether the gradient norm is finite.
        """
        parts = len(self.task.loss_names)
        stop_flags = norm.new_tensor([float(stop.exit_code == code) for code in EXIT_CODES.values()])
        reduced = self.context.all_reduce_sum(torch.cat((*self._pending_losses, stop_flags)))
        *values, length = torch.cat((reduced, norm[None])).tolist()
        stop.sync(values[len(values) - len(EXIT_CODES) :])
        sums = self.state.progress.loss_sums
        for start in range(0, parts * len(self._pending_losses), parts):
            losses = values[start : start + parts]
            is_finite = all(math.isfinite(value) for value in losses)
            for name, value in zip(self.task.loss_names, losses, strict=True):
                sums[f"loss_{name}"] = sums.get(f"loss_{name}", 0.0) + (value if is_finite else 0.0)
            sums["batches"] = sums.get("batches", 0.0) + is_finite
        self._pending_losses.clear()
        return math.isfinite(length)

    def _report_skip(self, batch: BatchT) -> None:
        images = f"{self.task.image_list_label} of the last: {', '.join(self.task.describe_images(batch)[:8])}"
        epoch = self.state.progress.epoch + 1
        if self.state.scaler.is_enabled() and self._consecutive_skips < EXPECTED_SCALER_SKIPS:
            return
        log.warning("epoch %d: step skipped, its gradient is not finite (%s)", epoch, images)
        if self._consecutive_skips >= MAX_SKIPPED_STEPS:
            raise UserError(
                f"epoch {epoch}: {MAX_SKIPPED_STEPS} steps in a row without a finite gradient ({images}); "
                f"lower train.optimizer.learning_rate (now {self.config.optimizer.learning_rate}) or use "
                f"train.precision=fp32 (now {self.precision}); {self.run_dir.path}/last.pt has the last saved state"
            )

    def _learning_rate(self, step: int) -> float:
        return self.config.optimizer.learning_rate * lr_factor(self.config.schedule, step, self.total_steps)

    def _finish_epoch(self, epoch_metrics: dict[str, Any], loggers: Loggers, stop: GracefulStop) -> None:
        """Run `EpochEnd`, save `last.pt`, and synchronize the stop requests of all processes."""
        self._epoch_end.run(epoch_metrics, loggers)
        self._save()
        # Signals that any process received during the evaluation.
        stop_flags = torch.tensor([float(stop.exit_code == code) for code in EXIT_CODES.values()], device=self.device)
        stop.sync(self.context.all_reduce_sum(stop_flags).tolist())

    def _save(self) -> None:
        if self.context.is_main_process:
            self.run_dir.save_last(self.state)
        self._saved_at = time.monotonic()
