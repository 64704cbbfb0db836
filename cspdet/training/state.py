"""The state of a training run, saved in `last.pt` so that a resumed run is bit-identical.

No generator state is saved: all random numbers depend only on (seed, epoch, image or batch).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Generic, cast

import torch
from torch import nn

from cspdet.device import Precision
from cspdet.errors import CheckpointError, ConfigError, did_you_mean
from cspdet.io.checkpoint import Checkpoint
from cspdet.training.config import TrainerConfig
from cspdet.training.ema import EMA
from cspdet.training.kept_outputs import KeptOutputs
from cspdet.training.schedule import build_optimizer
from cspdet.training.tasks.base import ModelT


@dataclass
class TrainProgress:
    """Progress of a run: epoch, step and best result, and the loss sums of the current epoch."""

    epoch: int = 0  # the current one, 0-based
    batch: int = 0  # completed batches of it
    step: int = 0  # optimizer steps since the start
    images_seen: int = 0
    best_metric: float = -1.0  # highest AP or top-1 so far
    evals_without_improvement: int = 0  # evaluations since the best one
    skipped_steps: int = 0  # steps skipped because a loss or gradient was not finite
    loss_sums: dict[str, float] = field(default_factory=dict)  # losses of the epoch's batches, and `batches`

    def __post_init__(self) -> None:
        counts = {name: value for name, value in vars(self).items() if name not in ("best_metric", "loss_sums")}
        wrong = [f"{name}: {value!r:.40}" for name, value in counts.items() if type(value) is not int or value < 0]
        if not isinstance(self.best_metric, (int, float)) or not isinstance(self.loss_sums, dict) or wrong:
            raise ValueError(f"progress: expected whole numbers of 0 or more, found {', '.join(wrong) or vars(self)}")
        if self.batch and "batches" not in self.loss_sums:
            raise ValueError(f"progress: expected the losses of {self.batch} batches, found none")


class TrainingState(Generic[ModelT]):
    """State of a training run: network, EMA, optimizer, gradient scaler and progress."""

    def __init__(
        self,
        model: ModelT,
        config: TrainerConfig,
        device: torch.device,
        precision: Precision,
        class_names: Sequence[str] = (),
    ):
        self.model = cast(ModelT, model.to(device).to(memory_format=torch.channels_last))
        self._frozen = freeze(self.model, config.freeze)
        self._kept = KeptOutputs(self.model, class_names, config.keep_classes) if config.keep_classes else None
        self.ema = EMA(self.model, config.ema.decay, config.ema.window_fraction) if config.ema else None
        self.optimizer = build_optimizer(self.model, config.optimizer)
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self.progress = TrainProgress()

    @property
    def ema_or_model(self) -> ModelT:
        """The network to evaluate and save: the EMA model, or the trained network if EMA is off."""
        return cast(ModelT, self.ema.model) if self.ema else self.model

    def train(self) -> None:
        """Set the network to training mode, except the frozen parts."""
        self.model.train()
        for part in self._frozen:
            part.eval()

    def mask_gradients(self) -> None:
        """Set the gradients of the outputs that `keep_classes` keeps to 0. Call this before clipping gradients."""
        if self._kept is not None:
            self._kept.mask_gradients()

    def step(self) -> None:
        """Do an optimizer step, unless the gradient scaler skips it. Then restore the outputs of `keep_classes`."""
        self.scaler.step(self.optimizer)
        if self._kept is not None:
            self._kept.restore()

    @torch.no_grad()
    def reset_nonfinite_bn_stats(self) -> None:
        """Replace non-finite batch-norm statistics with those of the EMA model (without EMA: mean 0, variance 1).

        Called after a skipped step. A running average that is NaN or infinite stays so, and later evaluations would
        have no detections.
        """
        kept = dict(self.ema.model.named_buffers()) if self.ema else {}
        for name, value in self.model.named_buffers():
            if value.is_floating_point() and not bool(value.isfinite().all()):
                fresh = torch.ones_like(value) if name.endswith("running_var") else torch.zeros_like(value)
                value.copy_(kept.get(name, fresh))

    def state_dict(self) -> dict[str, Any]:
        """Return the state as built-in types and tensors, for checkpoints."""
        return {
            "model": self.model.state_dict(),
            "ema_updates": self.ema.updates if self.ema else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "progress": asdict(self.progress),
        }

    def resume(self, checkpoint: Checkpoint, where: str) -> None:
        """Continue from the `training` part of a checkpoint.

        Args:
            checkpoint: A checkpoint with a training state, of the same recipe.
            where: The file, for error messages.

        Raises:
            CheckpointError: The training state is incomplete, or has another form than in this version.
        """
        assert checkpoint.training is not None
        try:
            self.load_state_dict(checkpoint.training, checkpoint.weights)
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:160]
            raise CheckpointError(
                f"{checkpoint.describe(where)}: cannot be resumed: its training state: {reason}"
            ) from None

    def load_state_dict(self, state: dict[str, Any], ema_weights: dict[str, torch.Tensor]) -> None:
        """Restore a saved state.

        Args:
            state: The result of `state_dict`.
            ema_weights: `weights` of the checkpoint, which are the EMA weights; ignored if EMA is off.
        """
        self.model.load_state_dict(state["model"])
        if self._kept is not None:
            self._kept.store()
        if self.ema is not None:
            self.ema.model.load_state_dict(ema_weights)
            self.ema.updates = state["ema_updates"]
        kept_keys = ("foreach", "fused", "lr_factor")  # of this device and this version, not those of the saved run
        kept = [{key: group[key] for key in kept_keys} for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, values in zip(self.optimizer.param_groups, kept, strict=True):
            group.update(values)
        self.scaler.load_state_dict(state["scaler"])
        self.progress = TrainProgress(**state["progress"])


def freeze(model: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """Freeze modules of the model by name (`backbone`, `backbone.stem`), and return the modules.

    Raises:
        ConfigError: A module does not exist, or no trainable parameter is left.
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
