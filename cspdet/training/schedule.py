"""Optimizer with parameter groups, learning-rate schedule, and random input sizes."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

from cspdet.training.config import MultiScaleConfig, OptimizerConfig, ScheduleConfig

# Step of the multi-scale sizes in pixels for networks that accept any input size.
DEFAULT_STRIDE = 32


def lr_factor(config: ScheduleConfig, step: int, total_steps: int) -> float:
    """Return the learning rate at a step as a factor of the peak learning rate.

    Args:
        config: The schedule.
        step: The optimizer step, 0-based.
        total_steps: Number of optimizer steps of the run.
    """
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


def random_input_size(
    config: MultiScaleConfig, size_hw: tuple[int, int], stride: int, seed: tuple[int, ...]
) -> tuple[int, int]:
    """Draw an input size for multi-scale training.

    Args:
        config: The range of the random factor by which `size_hw` is multiplied.
        size_hw: Height and width of the input in pixels.
        stride: The coarsest stride of the network; 1 if it accepts any input size.
        seed: Seed of the random generator.

    Returns:
        Height and width, multiples of the stride.
    """
    step = DEFAULT_STRIDE if stride == 1 else stride
    factor = np.random.default_rng(seed).uniform(config.low, config.high)
    height, width = (max(step, round(side * factor / step) * step) for side in size_hw)
    return height, width


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.SGD:
    """Build SGD. Its parameter groups have the entry `lr_factor`, the factor of the scheduled learning rate.

    Convolution and linear weights have weight decay, all other parameters have none. With a `backbone_rate` below 1,
    the parameters of the backbone have groups of their own.
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {(1.0, True): [], (1.0, False): []}
    backbone = _backbone_modules(model) if config.backbone_rate < 1 else set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                is_weight = name == "weight" and isinstance(module, (nn.Conv2d, nn.Linear))
                factor = config.backbone_rate if module in backbone else 1.0
                groups.setdefault((factor, is_weight), []).append(parameter)
    on_cpu = all(parameter.device.type == "cpu" for parameter in model.parameters())
    return torch.optim.SGD(
        [
            {"params": params, "weight_decay": config.weight_decay if is_weight else 0.0, "lr_factor": factor}
            for (factor, is_weight), params in groups.items()
        ],
        lr=config.learning_rate,
        momentum=config.momentum,
        nesterov=config.nesterov and config.momentum > 0,
        # On a CPU, the foreach version reads all parameters once per operation, the fused version once per step.
        foreach=not on_cpu,
        fused=on_cpu,
    )


def _backbone_modules(model: nn.Module) -> set[nn.Module]:
    """Return the modules of the backbone; without a module `backbone`, all modules but the class layers."""
    backbone = getattr(model, "backbone", None)
    if isinstance(backbone, nn.Module):
        return set(backbone.modules())
    return set(model.modules()) - {layer.module for layer in getattr(model, "class_layers", ())}
