"""End of an epoch: evaluation, best weights, metrics, early stopping."""

from __future__ import annotations

import gc
import logging
from pathlib import Path
from typing import Any, Generic

from cspdet.training.config import TrainerConfig
from cspdet.training.distributed.context import DistributedContext
from cspdet.training.loggers.base import Loggers
from cspdet.training.run.run_dir import RunDir
from cspdet.training.state import TrainingState
from cspdet.training.tasks.base import BatchT, ModelT, Task

log = logging.getLogger("cspdet")

TRAIN_IMAGE = "train_batch.jpg"


class EpochEnd(Generic[ModelT, BatchT]):
    """Evaluates the network after an epoch, saves the best weights and logs the metrics; the trainer saves `last.pt`.

    Without a val set, the weights after each epoch are saved as the best.

    Args:
        task: The task, which evaluates the network.
        config: The `train` section of the recipe.
        run_dir: The run folder, for the best weights and their results.
        state: Network, EMA and progress of the run.
        context: Process group of the run.
    """

    def __init__(
        self,
        task: Task[ModelT, BatchT, Any],
        config: TrainerConfig,
        run_dir: RunDir,
        state: TrainingState[ModelT],
        context: DistributedContext,
    ):
        self.task, self.config, self.run_dir, self.state, self.context = task, config, run_dir, state, context

    def run(self, epoch_metrics: dict[str, Any], loggers: Loggers) -> None:
        """Advance the progress to the next epoch, evaluate if `train.eval_interval` requires it, and log the metrics.

        Args:
            epoch_metrics: Training metrics of the epoch; evaluation metrics are added.
            loggers: The loggers; used on rank 0 only.
        """
        progress = self.state.progress
        progress.epoch, progress.batch, progress.loss_sums = progress.epoch + 1, 0, {}
        due = progress.epoch % self.config.eval_interval == 0 or progress.epoch == self.config.epochs
        if due and self.task.has_val_set:
            epoch_metrics |= self._evaluate()
        skipped = {name for names in self.context.gather(list(self.task.loader.skipped)) for name in names}
        if self.context.is_main_process:
            if not self.task.has_val_set:
                self.run_dir.save_best(self.state)
            loggers.log_metrics(epoch_metrics, progress.step)
            if due:
                images = [self.run_dir.path / name for name in (TRAIN_IMAGE, self.task.val_image_name)]
                loggers.log_images(images, progress.step)
        log.info("%s", self._format(epoch_metrics))
        if skipped:
            log.warning("%d unreadable images were replaced by others so far", len(skipped))

    def should_stop_early(self) -> bool:
        """Return whether the last `train.patience` evaluations had no improvement; if so, log this."""
        progress, patience = self.state.progress, self.config.patience
        if patience is None or progress.evals_without_improvement < patience:
            return False
        log.info(
            "no improvement in %d evaluations (train.patience): early stopping after epoch %d",
            progress.evals_without_improvement,
            progress.epoch,
        )
        return True

    def _format(self, epoch_metrics: dict[str, Any]) -> str:
        """Format the metrics of an epoch as one log line."""
        if epoch_metrics["loss"] is None:
            return f"epoch {epoch_metrics['epoch']} of {self.config.epochs}: no batch had a finite loss"
        parts = ", ".join(f"{name} {epoch_metrics[f'loss_{name}']:.3f}" for name in self.task.loss_names)
        metrics = "".join(
            f", {name} {epoch_metrics[name]:.4f}"
            for name in self.task.log_metrics
            if epoch_metrics.get(name) is not None
        )
        rate, waiting = epoch_metrics["images_per_second"], epoch_metrics["data_wait_fraction"]
        return (
            f"epoch {epoch_metrics['epoch']} of {self.config.epochs}: loss {epoch_metrics['loss']:.3f}{metrics}, "
            f"{rate:.1f} images/s ({parts}, data wait {waiting:.0%})"
        )

    def _evaluate(self) -> dict[str, float | None]:
        """Evaluate the network (or its EMA), save the weights if they are the best so far, and return the metrics.

        On ranks other than 0, the result is empty. If the primary metric is undefined (AP without boxes), the current
        weights are saved as the best.
        """
        progress, name = self.state.progress, self.run_dir.path.name
        result = self.task.evaluate(self.state.ema_or_model, name, self.context)
        gc.collect()  # tracing the network leaves reference cycles that contain copies of its weights
        best_missing = result is not None and not (self.run_dir.path / "best.pt").exists()
        primary_metric, best_missing = self.context.broadcast((result.primary_metric if result else None, best_missing))
        better = primary_metric is None or primary_metric > progress.best_metric or best_missing
        if better and primary_metric is not None:
            progress.best_metric = primary_metric
        progress.evals_without_improvement = 0 if better else progress.evals_without_improvement + 1
        if result is None:  # only rank 0 has the result
            return {}
        self.run_dir.save_image(self.task.val_image_name, result.visualization)
        if better:
            self.run_dir.save_best(self.state, result.metrics)
            model_info = {"model": name, "size": list(self.task.input.size), "epoch": progress.epoch}
            self.run_dir.write_results({**result.full_metrics, **model_info}, result.results)
        return result.metrics


def run_summary(path: Path, val_image_name: str) -> str:
    """Return the log line that lists the files of a finished run.

    Args:
        path: The run folder.
        val_image_name: File name of the visualization of the evaluation.
    """
    return (
        f"{path}: best.pt (use it), last.pt (resume from it), metrics.jsonl, {val_image_name}; "
        f"curves: tensorboard --logdir {path.parent}"
    )
