"""Exponential moving average (EMA) of the weights and batch-norm statistics of a network."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class EMA:
    """Copy of the network whose weights are an exponential moving average.

    The decay of update n is min(decay, n w / (1 + n w)) with w = `window_fraction`, so the average covers about the
    last n w steps, and at most 1 / (1 - decay) steps.

    Args:
        model: The network to average.
        decay: Upper limit of the decay.
        window_fraction: Length of the averaging window, as a fraction of the steps so far.
    """

    def __init__(self, model: nn.Module, decay: float, window_fraction: float):
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay, self.window_fraction, self.updates = decay, window_fraction, 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Update the averages with the weights and statistics of `model`; integer buffers are copied."""
        self.updates += 1
        span = self.updates * self.window_fraction
        keep = min(self.decay, span / (1 + span))
        ema_state, model_state = self.model.state_dict(), model.state_dict()
        floating = [name for name, value in ema_state.items() if value.is_floating_point()]
        averages: list[Tensor] = [ema_state[name] for name in floating]
        torch._foreach_lerp_(averages, [model_state[name] for name in floating], 1 - keep)
        for name, value in ema_state.items():
            if not value.is_floating_point():
                value.copy_(model_state[name])
