"""Parameter groups and the learning rate as a function of the step."""

from __future__ import annotations

import math

import torch
from torch import nn

from cspdet.training.config import OptimizerConfig, ScheduleConfig


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
