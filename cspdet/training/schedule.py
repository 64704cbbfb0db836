"""Parameter groups and the learning rate as a function of the step."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field, field_validator
from torch import nn

from cspdet.config.base import ConfigModel


class OptimizerConfig(ConfigModel):
    """SGD with momentum. `learning_rate` is meant for a step over `nominal_batch_size` pictures."""

    learning_rate: float = Field(0.01, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = True
    weight_decay: float = Field(0.0005, ge=0)  # on convolution weights; never on biases or normalization
    clip_norm: float | None = Field(10.0, gt=0)  # longest gradient; null leaves it as it is


class ScheduleConfig(ConfigModel):
    """Burn-in, then a constant, stepped, cosine or polynomial learning rate. Shares are of all steps of the run."""

    name: Literal["cosine", "step", "constant", "polynomial"] = "cosine"
    final_lr_ratio: float = Field(0.01, gt=0, le=1)  # cosine: ends at this share of the learning rate
    steps: tuple[float, ...] = (0.8, 0.9)  # step: at these shares of the run ...
    factor: float = Field(0.1, gt=0, le=1)  # ... the rate is multiplied by this
    power: float = Field(4.0, gt=0)  # polynomial: this power of the share of the run that is left, as Darknet's `poly`
    warmup_steps: int = Field(1000, ge=0)
    warmup_max_fraction: float = Field(0.05, ge=0, le=1)  # burn-in never takes more than this share of the run
    warmup_power: float = Field(1.0, gt=0)  # Darknet: 4

    @field_validator("steps")
    @classmethod
    def _ascending(cls, steps: tuple[float, ...]) -> tuple[float, ...]:
        if list(steps) != sorted(steps) or any(not 0 < fraction < 1 for fraction in steps):
            raise ValueError(f"expected shares between 0 and 1 in ascending order, found {list(steps)}")
        return steps


def lr_factor(config: ScheduleConfig, step: int, total_steps: int) -> float:
    """The share of the learning rate that step `step` (0-based) of `total` uses."""
    warmup_steps = min(config.warmup_steps, math.ceil(config.warmup_max_fraction * total_steps))
    warmup_factor = ((step + 1) / warmup_steps) ** config.warmup_power if step < warmup_steps else 1.0
    done = step / max(1, total_steps)
    if config.name == "step":
        return warmup_factor * config.factor ** sum(done >= fraction for fraction in config.steps)
    if config.name == "cosine":
        return warmup_factor * (
            config.final_lr_ratio + (1 - config.final_lr_ratio) * (1 + math.cos(math.pi * done)) / 2
        )
    if config.name == "polynomial":
        return warmup_factor * (1 - done) ** config.power
    return warmup_factor


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.SGD:
    """SGD with two groups: convolution and linear weights decay, biases and normalization do not."""
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                weight = name == "weight" and isinstance(module, (nn.Conv2d, nn.Linear))
                (decayed if weight else free).append(parameter)
    on_cpu = all(parameter.device.type == "cpu" for parameter in model.parameters())
    return torch.optim.SGD(
        [{"params": decayed, "weight_decay": config.weight_decay}, {"params": free, "weight_decay": 0.0}],
        lr=config.learning_rate,
        momentum=config.momentum,
        nesterov=config.nesterov and config.momentum > 0,
        # On a CPU, all parameters at once means a pass over the memory for each operation; fused is one for all.
        foreach=not on_cpu,
        fused=on_cpu,
    )
