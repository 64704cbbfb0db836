"""Everything that a training run changes, and how it is saved so that resuming continues bit for bit.

No random stream is among it: every draw is a function of (seed, epoch, picture or batch), so a position is enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Generic, cast

import torch
from torch import nn

from cspdet.device import Precision
from cspdet.errors import ConfigError, did_you_mean
from cspdet.training.config import TrainerConfig
from cspdet.training.ema import EMA
from cspdet.training.schedule import build_optimizer
from cspdet.training.tasks.base import ModelT


@dataclass
class TrainProgress:
    """How far a run has come, and the sums of the epoch under way."""

    epoch: int = 0  # the one under way, 0-based
    batch: int = 0  # batches of it that are done
    step: int = 0  # optimizer steps since the start
    images_seen: int = 0
    best_metric: float = -1.0  # of the deciding number, AP or top-1, so far
    evals_without_improvement: int = 0  # evaluations since the best one
    skipped_steps: int = 0  # steps without effect, because a loss or gradient was not finite
    loss_sums: dict[str, float] = field(default_factory=dict)  # losses of the epoch's batches, and `batches`


class TrainingState(Generic[ModelT]):
    """Network, average, optimizer, gradient scaler and position."""

    def __init__(self, model: ModelT, config: TrainerConfig, device: torch.device, precision: Precision):
        self.model = cast(ModelT, model.to(device).to(memory_format=torch.channels_last))
        self._frozen = freeze(self.model, config.freeze)
        self.ema = EMA(self.model, config.ema.decay, config.ema.window_fraction) if config.ema else None
        self.optimizer = build_optimizer(self.model, config.optimizer)
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self.progress = TrainProgress()

    @property
    def ema_or_model(self) -> ModelT:
        """The network to evaluate and keep: the average, or the trained one where none is kept."""
        return cast(ModelT, self.ema.model) if self.ema else self.model

    def train(self) -> None:
        """Put the network into training mode, all but what is frozen."""
        self.model.train()
        for part in self._frozen:
            part.eval()

    @torch.no_grad()
    def reset_nonfinite_bn_stats(self) -> None:
        """After a step without effect: batch-norm statistics that are not finite become those of the average again, or,
        without one, those of a new layer. Once spoiled, they would stay so, and evaluations would find nothing.
        """
        kept = dict(self.ema.model.named_buffers()) if self.ema else {}
        for name, value in self.model.named_buffers():
            if value.is_floating_point() and not bool(value.isfinite().all()):
                fresh = torch.ones_like(value) if name.endswith("running_var") else torch.zeros_like(value)
                value.copy_(kept.get(name, fresh))

    def state_dict(self) -> dict[str, Any]:
        """Plain types and tensors only."""
        return {
            "model": self.model.state_dict(),
            "ema_updates": self.ema.updates if self.ema else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "progress": asdict(self.progress),
        }

    def load_state_dict(self, state: dict[str, Any], ema_weights: dict[str, torch.Tensor]) -> None:
        """Continue from `state`; `averaged` are the checkpoint's weights for use."""
        self.model.load_state_dict(state["model"])
        if self.ema is not None:
            self.ema.model.load_state_dict(ema_weights)
            self.ema.updates = state["ema_updates"]
        device_flags = [{flag: group[flag] for flag in ("foreach", "fused")} for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, flag in zip(self.optimizer.param_groups, device_flags, strict=True):
            group.update(flag)  # of this device, not of the one that the run was on
        self.scaler.load_state_dict(state["scaler"])
        self.progress = TrainProgress(**state["progress"])


def freeze(model: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """Take the parts of these names (`backbone`, `backbone.stem`) out of training; they are returned.

    Raises:
        ConfigError: no such part, or nothing left to train.
    """
    parts = dict(model.named_modules())
    for name in names:
        if name not in parts or not name:
            known = [part for part in parts if part and part.count(".") < 2]
            raise ConfigError(f"train.freeze: the network has no part {name!r}{did_you_mean(name, known)}")
    frozen = [parts[name] for name in names]
    for part in frozen:
        part.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(f"train.freeze: nothing is left to train with {', '.join(names)} frozen")
    return frozen
