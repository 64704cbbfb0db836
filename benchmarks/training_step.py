"""One whole training step on ready batches, for the benchmarks here."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from cspdet.precision import Precision, autocast, pick_device
from cspdet.recipe import load_recipe
from cspdet.training.loss import yolo_loss
from cspdet.training.state import TrainingState
from cspdet.types import Targets

CONFIG = Path(__file__).parents[1] / "configs/csppelee_efm_sam.yaml"


class TrainingStep:
    """Forward, loss, backward, clipping, SGD and the average of `csppelee_efm_sam`; calling it gives its seconds."""

    def __init__(self, *, batch: int, size: int, boxes: int, classes: int, device: str):
        torch.manual_seed(0)
        self.device = pick_device(device)
        self.recipe = load_recipe(CONFIG)
        self.state = TrainingState(self.recipe.model.build(classes), self.recipe.train, self.device, "fp32")
        images = torch.rand(batch, 3, size, size, device=self.device)
        self.images = images.to(memory_format=torch.channels_last)
        low = torch.rand(batch * boxes, 2) * size * 0.8
        box = torch.cat((low, low + size * (0.05 + 0.15 * torch.rand_like(low))), 1)
        image = torch.arange(batch).repeat_interleave(boxes)
        truth = Targets(image, torch.randint(classes, image.shape), box, torch.zeros(len(box)).bool())
        self.truth = truth.to(self.device)

    def __call__(self, precision: Precision = "fp32") -> float:
        started = time.perf_counter()
        state, train = self.state, self.recipe.train
        with autocast(self.device, precision):
            raw = state.model(self.images)
        yolo_loss(raw, self.truth, state.model.anchors, train.loss, train.assign).total.backward()
        torch.nn.utils.clip_grad_norm_(state.model.parameters(), 10.0)
        state.optimizer.step()
        state.optimizer.zero_grad()
        if state.ema is not None:
            state.ema.update(state.model)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - started
