"""The training loop: batches in, `last.pt` and `best.pt` out.

Picture to loss: `train_loader` -> `to_input` -> the network -> `yolo_loss` -> backward, step, average.
"""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cspdet.checkpoint import Checkpoint
from cspdet.datasets.coco import CocoSet
from cspdet.datasets.loader import explain_death, train_loader
from cspdet.datasets.pictures import read_picture
from cspdet.errors import UserError
from cspdet.evaluation.run import evaluate_model, match_classes
from cspdet.inference.draw import draw_detections
from cspdet.inference.predictor import Predictor, to_input
from cspdet.letterbox import Letterbox
from cspdet.model_file import LoadedModel
from cspdet.models import Detector
from cspdet.precision import autocast, pick_precision
from cspdet.recipe import Recipe
from cspdet.training.loss import Losses, yolo_loss
from cspdet.training.memory import reuse_freed_memory
from cspdet.training.progress import EpochMeter
from cspdet.training.run_folder import RunFolder, draw_batch, tile
from cspdet.training.schedule import rate
from cspdet.training.state import TrainingState
from cspdet.training.stop import StopRequest
from cspdet.types import Batch, Targets

log = logging.getLogger("cspdet")

# So many steps in a row without a finite loss or gradient end the run: it will not come back by itself.
MOST_SKIPPED_STEPS = 20
# With fp16, the scaler finds its scale by skipping a few steps in a row: nothing to report.
USUAL_SCALER_SKIPS = 6


class Trainer:
    """One run. `model` comes with its first weights; `folder` is where everything goes."""

    def __init__(
        self,
        model: Detector,
        recipe: Recipe,
        train_set: CocoSet,
        val_set: CocoSet | None,
        folder: RunFolder,
        device: torch.device,
    ):
        self.recipe, self.config, self.folder, self.device = recipe, recipe.train, folder, device
        self.train_set, self.val_set = train_set, val_set
        self.precision = pick_precision(self.config.precision, device)
        self.state = TrainingState(model, self.config, device, self.precision)
        self.loader = train_loader(train_set, recipe, device_type=device.type)
        self.accumulate = max(1, round(self.config.nominal_batch_size / self.config.batch_size))
        self.total_steps = self.config.epochs * math.ceil(len(self.loader) / self.accumulate)
        self.class_order = (
            None if val_set is None else match_classes(folder.classes, val_set.classes, str(val_set.files.annotations))
        )
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
                    log.info("stopped and saved in %s; go on with: cspdet train --resume %s", path, path)
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
                self.folder.save_picture("train_batch.jpg", draw_batch(batch, self.folder.classes))
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

    def _backward(self, batch: Batch) -> Losses:
        """Add the gradients of one batch."""
        images, targets = self._rescale(to_input(batch.images, self.device), batch.targets.to(self.device))
        with autocast(self.device, self.precision):
            raw = self.state.model(images)
        losses = yolo_loss(raw, targets, self.state.model.anchors, self.config.loss, self.config.assign)
        self.state.scaler.scale(losses.total / self.accumulate).backward()
        return losses

    def _rescale(self, images: Tensor, targets: Targets) -> tuple[Tensor, Targets]:
        """Multi-scale: the batch at a size that depends on (seed, epoch, batch) only."""
        scales, position = self.config.multi_scale, self.state.position
        if scales is None:
            return images, targets
        height, width = images.shape[2:]
        stride = max(self.state.model.strides)
        draw = np.random.default_rng((self.config.seed, position.epoch, position.batch // scales.every))
        factor = draw.uniform(scales.low, scales.high)
        size = tuple(max(stride, round(side * factor / stride) * stride) for side in (height, width))
        if size == (height, width):
            return images, targets
        ratio = images.new_tensor((size[1] / width, size[0] / height)).repeat(2)
        images = F.interpolate(images, size, mode="bilinear", align_corners=False)
        return images, targets._replace(box_xyxy=targets.box_xyxy * ratio)

    def _count(self, losses: Losses, batch: Batch) -> None:
        """Move the position past one batch."""
        position = self.state.position
        position.batch += 1
        position.images_seen += len(batch.images)
        values = {
            "loss_box": losses.box.item(),
            "loss_objectness": losses.objectness.item(),
            "loss_class": losses.classes.item(),
        }
        finite = all(math.isfinite(value) for value in values.values())
        for name, value in {**values, "batches": 1.0}.items():
            position.sums[name] = position.sums.get(name, 0.0) + (value if finite else 0.0)

    def _step(self, batch: Batch) -> None:
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

    def _report_skip(self, batch: Batch) -> None:
        pictures = ", ".join(str(i) for i in batch.image_id.tolist()[:8])
        epoch = self.state.position.epoch + 1
        if self.state.scaler.is_enabled() and self._skipped_in_a_row < USUAL_SCALER_SKIPS:
            return
        log.warning(
            "epoch %d: step skipped, its gradient is not finite; last pictures (image ids): %s", epoch, pictures
        )
        if self._skipped_in_a_row >= MOST_SKIPPED_STEPS:
            raise UserError(
                f"epoch {epoch}: {MOST_SKIPPED_STEPS} steps in a row without a finite gradient (image ids of the last: "
                f"{pictures}); lower train.optimizer.learning_rate (now {self.config.optimizer.learning_rate}) or use "
                f"train.precision=fp32 (now {self.precision}); {self.folder.path}/last.pt holds the epoch before"
            )

    def _learning_rate(self, step: int) -> float:
        return self.config.optimizer.learning_rate * rate(self.config.schedule, step, self.total_steps)

    def _finish_epoch(self, line: dict[str, Any], board: Any) -> None:
        """Evaluate when due, write the epoch's line, and save."""
        position = self.state.position
        position.epoch, position.batch, position.sums = position.epoch + 1, 0, {}
        due = position.epoch % self.config.evaluate_every == 0 or position.epoch == self.config.epochs
        if due and self.val_set is not None:
            line |= self._evaluate(self.val_set)
        if self.val_set is None:
            self.folder.save_best(self.state)
        self.folder.write_metrics(line)
        self.folder.add_scalars(board, line, position.step)
        if due:
            self.folder.add_pictures(board, position.step)
        log.info("%s", self._summary(line))
        if self.loader.skipped:
            log.warning("%d unreadable pictures were replaced by others so far", len(self.loader.skipped))
        self._save()

    def _summary(self, line: dict[str, Any]) -> str:
        """An epoch in one line of the log."""
        if line["loss"] is None:
            return f"epoch {line['epoch']} of {self.config.epochs}: no batch had a finite loss"
        parts = ", ".join(f"{name} {line[f'loss_{name}']:.3f}" for name in ("box", "objectness", "class"))
        numbers = "".join(f"  {name} {line[name]:.4f}" for name in ("AP", "AP50") if line.get(name) is not None)
        return (
            f"epoch {line['epoch']} of {self.config.epochs}: loss {line['loss']:.3f} ({parts})  "
            f"{line['images_per_second']:.1f} images/s, waiting {line['data_wait_fraction']:.0%}{numbers}"
        )

    def _evaluate(self, val_set: CocoSet) -> dict[str, Any]:
        """AP of the averaged weights; the best ones are kept, with their detections."""
        position, averaged = self.state.position, self.state.averaged
        metrics, results = evaluate_model(
            averaged, val_set, self.recipe.input, self.recipe.eval, self.device, class_order=self.class_order
        )
        self.folder.save_picture("val_detections.jpg", self._draw_val(val_set))
        document = metrics.to_json()
        if (metrics["AP"] or 0.0) > position.best_AP or not (self.folder.path / "best.pt").exists():
            position.best_AP = metrics["AP"] or 0.0
            self.folder.save_best(self.state)
            about = {"model": self.folder.path.name, "size": list(self.recipe.input.size), "epoch": position.epoch}
            self.folder.write_results({**document, **about}, results)
        return {name: document[name] for name in metrics.numbers}

    def _draw_val(self, val_set: CocoSet) -> Any:
        """The first pictures of the val split with what is found in them, fit into one picture."""
        loaded = LoadedModel(self.state.averaged, self.recipe, self.folder.classes, self.folder.path.name)
        predictor = Predictor(loaded, self.device, min_score=0.25, max_iou=self.recipe.eval.max_iou, max_detections=100)
        drawn, size = [], self.recipe.input.size
        for i in range(min(9, len(val_set))):
            image = read_picture(val_set.path(i))
            image = draw_detections(image, predictor.predict(image), self.folder.classes.names)
            drawn.append(Letterbox.fit(image.shape[:2], size).draw(image, size))
        return tile(drawn)

    def _save(self) -> None:
        self.folder.save_last(self.state)
        self._saved_at = time.monotonic()


def report_folder(path: Path) -> str:
    """Where to look after a run."""
    return (
        f"{path}: best.pt (use it), last.pt (resume from it), metrics.jsonl, val_detections.jpg; "
        f"curves: tensorboard --logdir {path}/tensorboard"
    )
