"""The exponential moving average of a network's weights and batch-norm statistics."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn


class EMA:
    """A copy of the network that follows it, quickly at first: update n keeps decay * (1 - exp(-n / ramp))."""

    def __init__(self, model: nn.Module, decay: float, ramp: float):
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay, self.ramp, self.updates = decay, ramp, 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.updates += 1
        keep = self.decay * (1 - math.exp(-self.updates / self.ramp))
        mine, theirs = self.model.state_dict(), model.state_dict()
        floating = [name for name, value in mine.items() if value.is_floating_point()]
        averages: list[Tensor] = [mine[name] for name in floating]
        torch._foreach_lerp_(averages, [theirs[name] for name in floating], 1 - keep)
        for name, value in mine.items():
            if not value.is_floating_point():
                value.copy_(theirs[name])
